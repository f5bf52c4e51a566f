"""Reading: a data file as examples and faults, in the order of its lines.

Above `records`, `columns` and `chats`, below everything that learns from text or measures it. The first
row of a file decides how all of it is read; what to do about faults is the caller's business.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from finetune_api.plan import PlannedDataset
from finetune_api.resource import DatasetFormat
from finetune_text.errors import TextInvalid
from finetune_text.rows.chats import check_order, parse_messages, parse_tools
from finetune_text.rows.column_census import ColumnCensus
from finetune_text.rows.columns import (
    ALLOWED_COLUMNS,
    HISTORY_COLUMN,
    INPUT_COLUMNS,
    Reading,
    decide_reading,
    list_columns,
)
from finetune_text.rows.companions import (
    RowNotes,
    find_history,
    find_passage,
    find_system,
    with_system,
)
from finetune_text.rows.data_errors import Fault
from finetune_text.rows.examples import BrokenRuleError, Example, check_text
from finetune_text.rows.records import Row, read_records


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
        notes = RowNotes()
        built = build_example(
            record,
            reading,
            uri=file.source,
            most_characters=dataset.max_row_characters,
            notes=notes,
        )
        if columns is not None:
            known = (read | notes.marks.read) - notes.unread
            columns.add(
                record.values, read=known, file=file.source, line=record.line, marks=notes.marks
            )
        yield record.line, built


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


def build_example(
    row: Row, reading: Reading, *, uri: str, most_characters: int, notes: RowNotes
) -> Example | Fault:
    """Return what the row teaches, or the rule that it breaks.

    Args:
        row: The row.
        reading: How rows of its file are read.
        uri: What messages call the file.
        most_characters: Characters that the texts of a row may have together.
        notes: Takes what the row's loss marks say, and which of its companion columns is unread.
    """
    try:
        example = _build(row.values, reading, source=f"{uri} line {row.line}", notes=notes)
        answers = reading.format is not DatasetFormat.TEXT
        named = reading.columns.model_dump(exclude_none=True).values()
        if not notes.marks.read_row(row.values, answers=answers, but=named):
            example = replace(example, is_learned=False)
        _check_length(example, most_characters=most_characters)
    except BrokenRuleError as broken:
        return Fault(line=row.line, problem=broken.problem, rule=broken.rule)
    return example


def _build(values: Mapping[str, Any], reading: Reading, *, source: str, notes: RowNotes) -> Example:
    match reading.format:
        case DatasetFormat.CHAT:
            return _build_chat(values, reading.columns.messages or "", source=source, notes=notes)
        case DatasetFormat.TEXT:
            return Example(source=source, text=_text(values, reading.columns.text or ""))
        case _:
            return _build_pair(values, reading, source=source, notes=notes)


def _check_length(example: Example, *, most_characters: int) -> None:
    length = sum(len(part) for part in example.parts())
    if length > most_characters:
        raise BrokenRuleError(
            f"has {length:,} characters",
            f"a row may have {most_characters:,} (dataset.maxRowCharacters); divide it into several",
        )


def _build_chat(values: Mapping[str, Any], column: str, *, source: str, notes: RowNotes) -> Example:
    where = f"column {column!r}"
    messages = parse_messages(_present(values, column), where=where, marks=notes.marks)
    messages = with_system(messages, values, notes, column=column)
    check_order(messages)
    return Example(source=source, messages=messages, tools=parse_tools(values))


def _build_pair(
    values: Mapping[str, Any], reading: Reading, *, source: str, notes: RowNotes
) -> Example:
    prompt, completion = reading.columns.prompt or "", reading.columns.completion or ""
    if isinstance(_present(values, prompt), list):
        return _build_listed_pair(values, prompt, completion, source=source, notes=notes)
    asked, answered = _text(values, prompt), _text(values, completion)
    taken = (prompt, completion)
    passage = find_passage(values, notes, but=taken)
    is_instruction = reading.format is DatasetFormat.INSTRUCTION
    return Example(
        source=source,
        prompt=f"{asked}\n\n{passage}" if passage else asked,
        separator="\n\n" if is_instruction or passage else "",
        completion=answered,
        earlier=(*find_system(values, notes, but=taken), *find_history(values, notes)),
        tools=parse_tools(values),
    )


def _build_listed_pair(
    values: Mapping[str, Any], prompt: str, completion: str, *, source: str, notes: RowNotes
) -> Example:
    """Return the chat of a prompt that is a list of messages, with its answer."""
    messages = parse_messages(values[prompt], where=f"column {prompt!r}", marks=notes.marks)
    answer = _present(values, completion)
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    messages += parse_messages(said, where=f"column {completion!r}", marks=notes.marks)
    messages = with_system(messages, values, notes, column=prompt)
    check_order(messages)
    others = (*INPUT_COLUMNS, HISTORY_COLUMN)
    notes.unread |= {name for name in others if name not in (prompt, completion)}
    return Example(source=source, messages=messages, tools=parse_tools(values))


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
