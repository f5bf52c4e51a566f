"""Record readers: a file of any format becomes rows with their line, and faults with their rule.

Between `lines` and `reading`. A reader streams, so that memory does not grow with the file, and never
stops at a broken line: it tells it and goes on, so that a person can mend several at once. It knows
nothing of what a row means. pyarrow is imported here and nowhere else.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from finetune_text.files.formats import file_format
from finetune_text.rows.data_errors import BrokenFileError, Fault
from finetune_text.rows.json_array import ArrayReader, ListFormError
from finetune_text.rows.lines import (
    CHUNK_BYTES,
    FAULTS_OF_COMPRESSION,
    MOST_LINE_BYTES,
    byte_lines,
    decode_line,
    decoded_pieces,
    load_opening,
    open_bytes,
)

PARQUET_BATCH_ROWS = 256
PARQUET_BATCH_BYTES = 16 << 20
"""Rows and bytes in memory at once, by the mean of a row group: long documents make large rows."""
MOST_PACKED_PARQUET_BYTES = 512 << 20
"""Of a Parquet file inside .gz or .zst, which must be whole in memory: it is read from its end."""
MOST_CSV_COLUMNS = 100_000
"""Columns of a .csv file; each costs memory in every row, and no table that people write has as many."""
TEXT_COLUMN = "text"
"""The column that a line of plain text stands in."""


@dataclass(frozen=True)
class Row:
    """One record, not yet understood."""

    values: dict[str, Any]
    line: int
    """Line of the file on which it begins, counted from 1; the row's number in Parquet."""


def read_records(path: Path) -> Iterator[Row | Fault]:
    """Yield the file's rows and faults in order, by the format that its name says."""
    kind = file_format(path.name)
    readers: dict[str | None, Callable[[Path], Iterator[Row | Fault]]] = {
        ".jsonl": _read_lines_of_json,
        ".ndjson": _read_lines_of_json,
        ".json": _read_json,
        ".csv": _read_csv,
        ".tsv": partial(_read_csv, separator="\t"),
        ".txt": _read_text,
        ".parquet": _read_parquet,
    }
    try:
        yield from readers[kind](path)
    except BrokenFileError as broken:
        yield replace(broken.fault, ends_file=True)


# --- JSON ---------------------------------------------------------------------------------------

_ONE_OBJECT = "each line must hold one JSON object; correct the line"
_ARRAY = "a .json file must hold a list of objects, or one object a line; correct the file"


def _read_lines_of_json(path: Path) -> Iterator[Row | Fault]:
    for number, raw in _filled_lines(path):
        text = raw if isinstance(raw, Fault) else decode_line(number, raw)
        yield text if isinstance(text, Fault) else _parse_object(number, text)


def _filled_lines(path: Path) -> Iterator[tuple[int, bytes | Fault]]:
    """Yield the lines that are not blank."""
    return (each for each in byte_lines(path) if isinstance(each[1], Fault) or each[1].strip())


def _parse_object(number: int, text: str) -> Row | Fault:
    try:
        # Without its line end, so that a fault at the end has the column of the end.
        value = json.loads(text.rstrip("\r\n"))
    except json.JSONDecodeError as fault:
        problem = f"is not valid JSON: {_lower(fault.msg)} at column {fault.colno}"
        return Fault(line=number, problem=problem, rule=_ONE_OBJECT)
    except (ValueError, RecursionError) as fault:
        return Fault(line=number, problem=f"holds {_beyond(fault)}", rule=_ONE_OBJECT)
    if not isinstance(value, dict):
        problem = f"holds {_json_kind(value)} and no object"
        return Fault(line=number, problem=problem, rule=_ONE_OBJECT)
    return Row(values=value, line=number)


def _read_json(path: Path) -> Iterator[Row | Fault]:
    """Read a list of objects, or what is JSON Lines by another name, or one object around a list."""
    opening = load_opening(path)
    if opening == b"[":
        yield from _read_array(path)
        return
    first, second = [*islice(_filled_lines(path), 2), None, None][:2]
    if first is not None and second is not None and _is_whole_object(first[1]):
        yield from _read_lines_of_json(path)
    elif first is not None:
        yield from _read_document(path)


def _is_whole_object(raw: bytes | Fault) -> bool:
    try:
        return isinstance(raw, bytes) and isinstance(json.loads(raw), dict)
    except (ValueError, RecursionError):
        return False


def _read_document(path: Path) -> Iterator[Row | Fault]:
    """Read one object: the rows are its only list of objects, or it is the row itself."""
    parsed = _parse_object(1, "".join(_document_lines(path)))
    if isinstance(parsed, Fault):
        yield Fault(line=parsed.line, problem=parsed.problem, rule=_ARRAY)
        return
    lists = [value for value in parsed.values.values() if _is_list_of_objects(value)]
    if len(lists) == 1 and len(parsed.values) <= 2 and "messages" not in parsed.values:
        yield from (Row(values=value, line=number) for number, value in enumerate(lists[0], 1))
    else:
        yield parsed


def _document_lines(path: Path) -> Iterator[str]:
    length = 0
    for line in _decoded_lines(path):
        length += len(line)
        if length > MOST_LINE_BYTES:
            problem = f"holds one object of more than {MOST_LINE_BYTES >> 20} MiB"
            raise BrokenFileError(Fault(line=0, problem=problem, rule=_ARRAY))
        yield line


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _read_array(path: Path) -> Iterator[Row | Fault]:
    """Read a list element by element; memory holds one element and what was read ahead."""
    reader = ArrayReader(decoded_pieces(path))
    try:
        for line, value in reader.read():
            if isinstance(value, dict):
                yield Row(values=value, line=line)
            else:
                problem = f"holds {_json_kind(value)} and no object"
                yield Fault(line=line, problem=problem, rule=_ARRAY)
    except (ValueError, RecursionError) as fault:
        problem = f"is not valid JSON: {_lower(_describe_json(fault))}"
        raise BrokenFileError(Fault(line=reader.line, problem=problem, rule=_ARRAY)) from fault


def _describe_json(fault: Exception) -> str:
    if isinstance(fault, json.JSONDecodeError):
        return fault.msg
    return str(fault) if isinstance(fault, ListFormError) else _beyond(fault)


def _beyond(fault: Exception) -> str:
    """Return what of a JSON value is beyond Python's limits, without its words for programmers."""
    if isinstance(fault, RecursionError):
        return "lists and objects that are nested too deeply"
    return "a number of more than 4,300 digits"


def _decoded_lines(path: Path) -> Iterator[str]:
    for number, raw in byte_lines(path):
        text = raw if isinstance(raw, Fault) else decode_line(number, raw)
        if isinstance(text, Fault):
            raise BrokenFileError(text)
        yield text


def _json_kind(value: object) -> str:
    kinds: dict[type, str] = {list: "a list", str: "a string", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _lower(message: str) -> str:
    # "Unterminated string starting at" ends in the word that we go on with.
    return message[:1].lower() + message[1:].removesuffix(" at")


# --- The other formats --------------------------------------------------------------------------

_CSV = "a .csv file must have a header and as many fields in every row; quote commas and line ends"


SEPARATORS = (",", "\t", ";")
"""Of the columns of a .csv file: spreadsheets write `;` where the comma is the decimal mark."""
_QUOTED = re.compile(r'"[^"]*"')


def find_separator(header: str) -> str:
    """Return the separator that stands most often in a header, outside quotes; of equal ones the comma."""
    return max(SEPARATORS, key=_QUOTED.sub("", header).count)


def _read_csv(path: Path, *, separator: str = "") -> Iterator[Row | Fault]:
    # A quote that nothing closes would take the rest of the file into one field.
    csv.field_size_limit(MOST_LINE_BYTES)
    lines = _decoded_lines(path)
    opening: list[str] = []
    for text in lines:
        opening.append(text)
        if text.strip():
            break
    delimiter = separator or find_separator(opening[-1] if opening else "")
    reader = csv.reader(chain(opening, lines), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next((fields for fields in reader if fields), [])
        _check_header(header, line=reader.line_num)
        line = reader.line_num + 1
        for fields in reader:
            if fields:
                yield _build_csv_row(header, fields, line=line)
            line = reader.line_num + 1
    except csv.Error as fault:
        raise BrokenFileError(
            Fault(line=line, problem=f"begins a row that is not valid CSV: {fault}", rule=_CSV)
        ) from fault


def _check_header(header: list[str], *, line: int) -> None:
    if len(header) > MOST_CSV_COLUMNS:
        problem = f"has a header of {len(header):,} columns"
        rule = (
            f"a .csv file may have {MOST_CSV_COLUMNS:,}; quote the commas that are part of a text"
        )
        raise BrokenFileError(Fault(line=line, problem=problem, rule=rule))
    counts = Counter(header)
    twice = next((name for name in header if counts[name] > 1), None)
    if twice is not None:
        problem = f"has the column {twice!r} more than once"
        rule = "the columns of a .csv file must have different names; rename or drop one"
        raise BrokenFileError(Fault(line=line, problem=problem, rule=rule))


def _build_csv_row(header: list[str], fields: list[str], *, line: int) -> Row | Fault:
    if len(fields) != len(header):
        problem = f"has {len(fields)} fields where the header has {len(header)}"
        return Fault(line=line, problem=problem, rule=_CSV)
    return Row(values=dict(zip(header, fields, strict=True)), line=line)


def _read_text(path: Path) -> Iterator[Row | Fault]:
    """Every line that is not blank is one text, without its line end and otherwise unchanged."""
    for number, raw in byte_lines(path):
        text = raw if isinstance(raw, Fault) else decode_line(number, raw)
        if isinstance(text, Fault):
            yield text
        elif text.strip():
            yield Row(values={TEXT_COLUMN: text.removesuffix("\n").removesuffix("\r")}, line=number)


def _read_parquet(path: Path) -> Iterator[Row | Fault]:
    line = 0
    try:
        for values in _parquet_rows(path):
            line += 1
            yield Row(values={name: _prune(value) for name, value in values.items()}, line=line)
    # NB: dates beyond the year 9999 overflow, and text of other encodings is found here.
    except (pyarrow.ArrowException, OSError, OverflowError, *FAULTS_OF_COMPRESSION) as fault:
        raise BrokenFileError(_describe_parquet(fault, after=line)) from fault
    except UnicodeDecodeError as fault:
        problem = "is the last row before text that is not UTF-8" if line else "is not UTF-8"
        rule = "text must be UTF-8; write the file again"
        raise BrokenFileError(Fault(line=line, problem=problem, rule=rule)) from fault


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    with open_bytes(path) as file:
        source = path if path.suffix.lower() == ".parquet" else _load_packed(file)
    table = pyarrow.parquet.ParquetFile(source, buffer_size=CHUNK_BYTES)
    for number in range(table.num_row_groups):
        group = table.metadata.row_group(number)
        row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
        rows = min(max(1, PARQUET_BATCH_BYTES // row_bytes), PARQUET_BATCH_ROWS)
        for batch in table.iter_batches(batch_size=rows, row_groups=[number]):
            yield from batch.to_pylist()


def _load_packed(file: BinaryIO) -> pyarrow.BufferReader:
    content = file.read(MOST_PACKED_PARQUET_BYTES + 1)
    if len(content) > MOST_PACKED_PARQUET_BYTES:
        problem = f"holds more than {MOST_PACKED_PARQUET_BYTES >> 20} MiB of Parquet"
        rule = "Parquet is compressed inside; upload the .parquet file itself"
        raise BrokenFileError(Fault(line=0, problem=problem, rule=rule))
    return pyarrow.BufferReader(content)


def _describe_parquet(fault: Exception, *, after: int) -> Fault:
    said = (str(fault).splitlines() or [type(fault).__name__])[0]
    problem = "is the last row that can be read" if after else "cannot be read"
    if isinstance(fault, OverflowError):
        rule = "a date or duration is out of range; correct or drop its column"
    else:
        rule = "a .parquet file must be whole; upload it again"
    return Fault(line=after, problem=f"{problem}: {said}", rule=rule)


def _prune(value: object) -> object:
    """Drop the nulls that Parquet writes for the fields that other rows have and this one lacks.

    A message without tool calls is then the same as in JSON.
    """
    if isinstance(value, dict):
        return {key: _prune(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_prune(inner) for inner in value]
    return value
