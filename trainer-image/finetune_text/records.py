"""Record readers: a file of any format becomes rows with their line, and faults with their rule.

Between fetch and validate. A reader streams, so that memory does not grow with the file, and never
stops at a broken line: it tells it and goes on, so that a person can mend several at once. It knows
nothing of what a row means. pyarrow and zstandard are imported here and nowhere else.
"""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import zstandard

from finetune_text.formats import file_format
from finetune_text.json_array import ArrayReader

CHUNK_BYTES = 1 << 20
PARQUET_BATCH_ROWS = 256
"""Rows in memory at once: long documents make large rows."""
BOM = b"\xef\xbb\xbf"
TEXT_COLUMN = "text"
"""The column that a line of plain text stands in."""


@dataclass(frozen=True)
class Row:
    """One record, not yet understood."""

    values: dict[str, Any]
    line: int
    """Line of the file on which it begins, counted from 1; the row's number in Parquet."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one line, and the rule that it breaks."""

    line: int
    """0 where the file as a whole is at fault."""
    problem: str
    """Continues "line 37 …": what is wrong."""
    rule: str
    """What is allowed, and what to do."""


class _BrokenFileError(Exception):
    """The file cannot be read further."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.problem)
        self.fault = fault


def read_records(path: Path) -> Iterator[Row | Fault]:
    """Yield the file's rows and faults in order, by the format that its name says."""
    kind = file_format(path.name)
    readers: dict[str | None, Callable[[Path], Iterator[Row | Fault]]] = {
        ".jsonl": _read_lines_of_json,
        ".ndjson": _read_lines_of_json,
        ".json": _read_json,
        ".csv": _read_csv,
        ".txt": _read_text,
        ".parquet": _read_parquet,
    }
    try:
        yield from readers[kind](path)
    except _BrokenFileError as broken:
        yield broken.fault


# --- Bytes --------------------------------------------------------------------------------------


def _open(path: Path) -> io.BufferedReader:
    """Return the file's bytes, decompressed."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(path, "rb"), CHUNK_BYTES)
    if suffix == ".zst":
        return io.BufferedReader(_ZstdReader(path), CHUNK_BYTES)
    return io.BufferedReader(path.open("rb", 0), CHUNK_BYTES)


class _ZstdReader(io.RawIOBase):
    """Decompressed bytes of a .zst file; unlike zstandard's own reader it notices a cut file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._is_inside = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer and return how much; 0 is the end."""
        while not self._ready:
            chunk = self._file.read(CHUNK_BYTES)
            if not chunk:
                if self._is_inside:
                    raise EOFError("the last frame is cut")
                return 0
            self._ready = self._decompress(chunk)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decompress(self, chunk: bytes) -> bytes:
        out = []
        while chunk:
            out.append(self._frame.decompress(chunk))
            self._is_inside = not self._frame.eof
            chunk = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
        return b"".join(out)

    def close(self) -> None:
        """Close the file beneath."""
        self._file.close()
        super().close()


def _byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line with its number and its end; only a line feed ends a line."""
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removeprefix(BOM) if number == 1 else line
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as fault:
        raise _BrokenFileError(_describe_compression(fault, after=number)) from fault


def _describe_compression(fault: Exception, *, after: int) -> Fault:
    problem = "is the last one that can be decompressed" if after else "cannot be decompressed"
    rule = "a .gz or .zst file must be whole; upload it again"
    if not after and isinstance(fault, gzip.BadGzipFile | zstandard.ZstdError):
        rule = "a file named .gz or .zst must be compressed so; rename the file or upload it again"
    return Fault(line=after, problem=f"{problem} ({fault})", rule=rule)


def _decode(number: int, line: bytes) -> str | Fault:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as fault:
        return Fault(
            line=number,
            problem=f"is not UTF-8: byte 0x{line[fault.start]:02x} at byte {fault.start + 1}",
            rule="text must be UTF-8; convert the file",
        )


# --- JSON ---------------------------------------------------------------------------------------

_ONE_OBJECT = "each line must hold one JSON object; correct the line"
_ARRAY = "a .json file must hold a list of objects, or one object a line; correct the file"


def _read_lines_of_json(path: Path) -> Iterator[Row | Fault]:
    for number, raw in _byte_lines(path):
        if not raw.strip():
            continue
        text = _decode(number, raw)
        yield text if isinstance(text, Fault) else _parse_object(number, text)


def _parse_object(number: int, text: str) -> Row | Fault:
    try:
        # Without its line end, so that a fault at the end has the column of the end.
        value = json.loads(text.rstrip("\r\n"))
    except json.JSONDecodeError as fault:
        problem = f"is not valid JSON: {_lower(fault.msg)} at column {fault.colno}"
        return Fault(line=number, problem=problem, rule=_ONE_OBJECT)
    except (ValueError, RecursionError) as fault:
        problem = f"is not JSON that can be read: {_lower(str(fault))}"
        return Fault(line=number, problem=problem, rule=_ONE_OBJECT)
    if not isinstance(value, dict):
        problem = f"holds {_json_kind(value)} and no object"
        return Fault(line=number, problem=problem, rule=_ONE_OBJECT)
    return Row(values=value, line=number)


def _read_json(path: Path) -> Iterator[Row | Fault]:
    """Read a list of objects, or what is JSON Lines by another name, or one object around a list."""
    first = next((raw for _, raw in _byte_lines(path) if raw.strip()), b"")
    if not first:
        return
    if first.lstrip().startswith(b"["):
        yield from _read_array(path)
    elif _is_whole_object(first):
        yield from _read_lines_of_json(path)
    else:
        yield from _read_document(path)


def _is_whole_object(raw: bytes) -> bool:
    try:
        return isinstance(json.loads(raw), dict)
    except (ValueError, RecursionError):
        return False


def _read_document(path: Path) -> Iterator[Row | Fault]:
    """Read one object: the rows are its only list of objects, or it is the row itself."""
    numbers, lines = zip(*_byte_lines(path), strict=True)
    text = _decode(numbers[0], b"".join(lines))
    parsed = text if isinstance(text, Fault) else _parse_object(1, text)
    if isinstance(parsed, Fault):
        yield Fault(line=parsed.line, problem=parsed.problem, rule=_ARRAY)
        return
    lists = [value for value in parsed.values.values() if _is_list_of_objects(value)]
    if len(lists) == 1 and len(parsed.values) <= 2 and "messages" not in parsed.values:
        yield from (Row(values=value, line=number) for number, value in enumerate(lists[0], 1))
    else:
        yield parsed


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _read_array(path: Path) -> Iterator[Row | Fault]:
    """Read a list element by element; memory holds one element and what was read ahead."""
    reader = ArrayReader(_decoded_lines(path))
    try:
        for line, value in reader.read():
            if isinstance(value, dict):
                yield Row(values=value, line=line)
            else:
                problem = f"holds {_json_kind(value)} and no object"
                yield Fault(line=line, problem=problem, rule=_ARRAY)
    except (ValueError, RecursionError) as fault:
        message = fault.msg if isinstance(fault, json.JSONDecodeError) else str(fault)
        problem = f"is not valid JSON: {_lower(message)}"
        raise _BrokenFileError(Fault(line=reader.line, problem=problem, rule=_ARRAY)) from fault


def _decoded_lines(path: Path) -> Iterator[str]:
    for number, raw in _byte_lines(path):
        text = _decode(number, raw)
        if isinstance(text, Fault):
            raise _BrokenFileError(text)
        yield text


def _json_kind(value: object) -> str:
    kinds: dict[type, str] = {list: "a list", str: "a string", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _lower(message: str) -> str:
    # "Unterminated string starting at" ends in the word that we go on with.
    return message[:1].lower() + message[1:].removesuffix(" at")


# --- The other formats --------------------------------------------------------------------------

_CSV = "a .csv file must have a header and as many fields in every row; quote commas and line ends"


def _read_csv(path: Path) -> Iterator[Row | Fault]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(_decoded_lines(path), strict=True)
    try:
        header = next(reader, [])
        line = reader.line_num + 1
        for fields in reader:
            if fields:
                yield _build_csv_row(header, fields, line=line)
            line = reader.line_num + 1
    except csv.Error as fault:
        raise _BrokenFileError(
            Fault(line=reader.line_num, problem=f"is not valid CSV: {fault}", rule=_CSV)
        ) from fault


def _build_csv_row(header: list[str], fields: list[str], *, line: int) -> Row | Fault:
    if len(fields) != len(header):
        problem = f"has {len(fields)} fields where the header has {len(header)}"
        return Fault(line=line, problem=problem, rule=_CSV)
    return Row(values=dict(zip(header, fields, strict=True)), line=line)


def _read_text(path: Path) -> Iterator[Row | Fault]:
    """Every line that is not blank is one text, without its line end and otherwise unchanged."""
    for number, raw in _byte_lines(path):
        text = _decode(number, raw)
        if isinstance(text, Fault):
            yield text
        elif text.strip():
            yield Row(values={TEXT_COLUMN: text.removesuffix("\n").removesuffix("\r")}, line=number)


def _read_parquet(path: Path) -> Iterator[Row | Fault]:
    line = 0
    try:
        # Parquet is read from its end: a compressed file must be whole in memory.
        with _open(path) as file:
            source = (
                path if path.suffix.lower() == ".parquet" else pyarrow.BufferReader(file.read())
            )
        table = pyarrow.parquet.ParquetFile(source)
        for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS):
            for values in batch.to_pylist():
                line += 1
                yield Row(values={name: _prune(value) for name, value in values.items()}, line=line)
    except (pyarrow.ArrowException, OSError, EOFError, zlib.error, zstandard.ZstdError) as fault:
        raise _BrokenFileError(
            Fault(
                line=line,
                problem=f"{'is the last row that can be read' if line else 'cannot be read'}: "
                f"{str(fault).splitlines()[0]}",
                rule="a .parquet file must be whole; upload it again",
            )
        ) from fault


def _prune(value: object) -> object:
    """Drop the nulls that Parquet writes for the fields that other rows have and this one lacks.

    A message without tool calls is then the same as in JSON.
    """
    if isinstance(value, dict):
        return {key: _prune(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_prune(inner) for inner in value]
    return value
