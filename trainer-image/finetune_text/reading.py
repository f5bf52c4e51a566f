"""Reading: a data file as examples and faults, in the order of its lines.

Above `records`, `columns` and `chats`, below everything that learns from text or measures it. The first
row of a file decides how all of it is read; what to do about faults is the caller's business.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from finetune_api.plan import PlannedDataset
from finetune_api.resource import DatasetFormat
from finetune_text.chats import check_order, parse_messages, parse_tools
from finetune_text.column_census import ColumnCensus
from finetune_text.columns import (
    ALLOWED_COLUMNS,
    INPUT_COLUMNS,
    Reading,
    decide_reading,
    list_columns,
)
from finetune_text.data_errors import Fault
from finetune_text.errors import TextInvalid
from finetune_text.examples import BrokenRuleError, Example, check_text
from finetune_text.records import Row, read_records


class TextFile(Protocol):
    """One data file on the disk."""

    @property
    def path(self) -> Path:
        """Where it is; the name tells its format."""

    @property
    def source(self) -> str:
        """What messages call it."""


def read_file(
    dataset: PlannedDataset, file: TextFile, *, columns: ColumnCensus | None = None
) -> Iterator[Example | Fault]:
    """Yield what each row teaches, empty ones included, or the rule that it breaks.

    Args:
        dataset: How the rows are read.
        file: The file.
        columns: The census that counts the columns of the rows, if one is wanted.

    Raises:
        TextInvalid: The columns are none that can be learned from.
    """
    return (found for _, found in read_lines(dataset, file, columns=columns))


def read_lines(
    dataset: PlannedDataset, file: TextFile, *, columns: ColumnCensus | None = None
) -> Iterator[tuple[int, Example | Fault]]:
    """Yield the same with the line on which each row begins; arguments as `read_file`.

    Raises:
        TextInvalid: The columns are none that can be learned from.
    """
    reading: Reading | None = None
    read: frozenset[str] = frozenset()
    for record in read_records(file.path):
        if isinstance(record, Fault):
            yield record.line, record
            continue
        if reading is None:
            reading = _decide_file_reading(dataset, file, record)
            read = reading.read_columns
        if columns is not None:
            columns.add(record.values, read=read, file=file.source, line=record.line)
        yield (
            record.line,
            build_example(
                record, reading, uri=file.source, most_characters=dataset.max_row_characters
            ),
        )


def _decide_file_reading(dataset: PlannedDataset, file: TextFile, row: Row) -> Reading:
    columns = list(row.values)
    reading = decide_reading(columns, wanted=dataset.format, named=dataset.columns)
    if reading is not None:
        return reading
    wanted = _describe_wanted(dataset)
    found = f"the columns {list_columns(columns)}" if columns else "no columns"
    raise TextInvalid(
        f"The dataset of {dataset.tag} in {file.source} has {found}: expected {wanted}; rename the columns or set dataset.format and dataset.columns, and"
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


# --- One row ------------------------------------------------------------------------------------


def build_example(row: Row, reading: Reading, *, uri: str, most_characters: int) -> Example | Fault:
    """Return what the row teaches, or the rule that it breaks.

    Args:
        row: The row.
        reading: How rows of its file are read.
        uri: What messages call the file.
        most_characters: Characters that the texts of a row may have together.
    """
    try:
        example = _build(row.values, reading, source=f"{uri} line {row.line}")
        _check_length(example, most_characters=most_characters)
    except BrokenRuleError as broken:
        return Fault(line=row.line, problem=broken.problem, rule=broken.rule)
    return example


def _build(values: Mapping[str, Any], reading: Reading, *, source: str) -> Example:
    match reading.format:
        case DatasetFormat.CHAT:
            return _build_chat(values, reading.columns.messages or "", source=source)
        case DatasetFormat.TEXT:
            return Example(source=source, text=_text(values, reading.columns.text or ""))
        case _:
            return _build_pair(values, reading, source=source)


def _check_length(example: Example, *, most_characters: int) -> None:
    length = sum(len(part) for part in example.parts())
    if length > most_characters:
        raise BrokenRuleError(
            f"has {length:,} characters",
            f"a row may have {most_characters:,} (dataset.maxRowCharacters); divide it into several",
        )


def _build_chat(values: Mapping[str, Any], column: str, *, source: str) -> Example:
    messages = parse_messages(_present(values, column), where=f"column {column!r}")
    check_order(messages)
    return Example(source=source, messages=messages, tools=parse_tools(values))


def _build_pair(values: Mapping[str, Any], reading: Reading, *, source: str) -> Example:
    prompt, completion = reading.columns.prompt or "", reading.columns.completion or ""
    if isinstance(_present(values, prompt), list):
        messages = parse_messages(values[prompt], where=f"column {prompt!r}")
        answer = _present(values, completion)
        said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
        messages += parse_messages(said, where=f"column {completion!r}")
        check_order(messages)
        return Example(source=source, messages=messages, tools=parse_tools(values))
    asked, answered = _text(values, prompt), _text(values, completion)
    if reading.format is DatasetFormat.PROMPT_COMPLETION:
        return Example(source=source, prompt=asked, completion=answered)
    # The answer may stand in a column of such a name: it is never part of its own question.
    inputs = (name for name in INPUT_COLUMNS if name not in (prompt, completion))
    more = next((values[name] for name in inputs if values.get(name)), None)
    instruction = f"{asked}\n\n{more}" if isinstance(more, str) else asked
    return Example(source=source, prompt=instruction, separator="\n\n", completion=answered)


def _present(values: Mapping[str, Any], column: str) -> Any:
    value = values.get(column)
    if value is None:
        found = list_columns(list(values)) or "none"
        raise BrokenRuleError(
            f"has no value in column {column!r} (columns: {found})",
            "every row must have it; fill it or drop the row",
        )
    return value


def _text(values: Mapping[str, Any], column: str) -> str:
    return check_text(_present(values, column), where=f"column {column!r}")
