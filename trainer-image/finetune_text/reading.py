"""Reading: a data file as examples and faults, in the order of its lines.

Above `records` and `examples`, below everything that learns from text or measures it. The first row
of a file decides how all of it is read; what to do about faults is the caller's business.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from finetune_api.plan import PlannedDataset
from finetune_text.errors import TextInvalid
from finetune_text.examples import (
    ALLOWED_COLUMNS,
    Example,
    Reading,
    build_example,
    decide_reading,
)
from finetune_text.records import Fault, Row, read_records


class TextFile(Protocol):
    """One data file on the disk."""

    @property
    def path(self) -> Path:
        """Where it is; the name tells its format."""

    @property
    def source(self) -> str:
        """What messages call it."""


def read_file(dataset: PlannedDataset, file: TextFile) -> Iterator[Example | Fault]:
    """Yield what each row teaches, empty ones included, or the rule that it breaks.

    Raises:
        TextInvalid: The columns are none that can be learned from.
    """
    return (found for _, found in read_lines(dataset, file))


def read_lines(dataset: PlannedDataset, file: TextFile) -> Iterator[tuple[int, Example | Fault]]:
    """Yield the same with the line on which each row begins.

    Raises:
        TextInvalid: The columns are none that can be learned from.
    """
    reading: Reading | None = None
    for record in read_records(file.path):
        if isinstance(record, Fault):
            yield record.line, record
            continue
        reading = reading or _decide_file_reading(dataset, file, record)
        yield record.line, build_example(record, reading, uri=file.source)


def _decide_file_reading(dataset: PlannedDataset, file: TextFile, row: Row) -> Reading:
    columns = sorted(row.values)
    reading = decide_reading(columns, wanted=dataset.format, named=dataset.columns)
    if reading is not None:
        return reading
    wanted = _describe_wanted(dataset)
    raise TextInvalid(
        f"The dataset of {dataset.tag} in {file.source} has the columns {', '.join(columns)}:"
        f" expected {wanted}; rename the columns or set dataset.format and dataset.columns, and"
        " apply again.",
        reason="ColumnsUnknown",
    )


def _describe_wanted(dataset: PlannedDataset) -> str:
    named = dataset.columns.model_dump(exclude_none=True)
    if named:
        return ", ".join(f"{name!r} as {part}" for part, name in named.items())
    if dataset.format != "Auto":
        return f"those of the format {dataset.format}, out of {ALLOWED_COLUMNS}"
    return ALLOWED_COLUMNS
