"""Lines: a file's bytes, decompressed, line by line, and never more of it at once than fits.

Below `records`. A line that is too long is reported and skipped, whatever the file's size. zstandard
is imported here and nowhere else.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from finetune_text.rows.data_errors import BrokenFileError, Fault

CHUNK_BYTES = 1 << 20
ZSTD_CHUNK_BYTES = 1 << 12
"""Compressed bytes at once: the format packs 32,000 bytes into one at best, which are then 128 MiB."""
MOST_LINE_BYTES = 64 << 20
"""Of one line, or of one JSON value. Parsed it takes ten times that; the longest row that is learned
from (`reading`) fits even where each of its characters is written as two escapes."""
BOM = codecs.BOM_UTF8
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""By the mark that a file begins with; the longer ones first, as one begins with another."""
_UTF8 = "text must be UTF-8; convert the file"
FAULTS_OF_COMPRESSION = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)


def open_bytes(path: Path) -> io.BufferedReader:
    """Return the file's bytes, decompressed."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(path, "rb"), CHUNK_BYTES)
    if suffix == ".zst":
        return io.BufferedReader(_ZstdReader(path), CHUNK_BYTES)
    return io.BufferedReader(path.open("rb", 0), CHUNK_BYTES)


def byte_lines(path: Path) -> Iterator[tuple[int, bytes | Fault]]:
    """Yield each line of a text with its number and its end; only a line feed ends a line.

    Raises:
        BrokenFileError: It is no UTF-8 from its first bytes on, or cannot be decompressed.
    """
    number = 0
    try:
        with open_bytes(path) as file:
            _check_encoding(file)
            while line := file.readline(MOST_LINE_BYTES):
                number += 1
                if len(line) == MOST_LINE_BYTES and not line.endswith(b"\n"):
                    _pass_over_line(file)
                    yield number, _describe_long_line(number)
                else:
                    yield number, line.removeprefix(BOM) if number == 1 else line
    except FAULTS_OF_COMPRESSION as fault:
        raise BrokenFileError(_describe_compression(fault, after=number)) from fault


def decoded_pieces(path: Path) -> Iterator[str]:
    """Yield a text in pieces of a mebibyte, wherever its lines end.

    Raises:
        BrokenFileError: It is no UTF-8, or cannot be decompressed.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, before = 1, 0  # bytes of the line that stood in earlier pieces
    try:
        with open_bytes(path) as file:
            _check_encoding(file)
            while chunk := file.read(CHUNK_BYTES):
                yield _decode_piece(decoder, chunk, line=line, before=before)
                line += chunk.count(b"\n")
                last = chunk.rfind(b"\n")
                before = before + len(chunk) if last < 0 else len(chunk) - last - 1
            yield _decode_piece(decoder, b"", line=line, before=before)
    except FAULTS_OF_COMPRESSION as fault:
        raise BrokenFileError(_describe_compression(fault, after=line - 1)) from fault


def load_opening(path: Path) -> bytes:
    """Return the first byte of a text that is not blank; nothing where there is none.

    Raises:
        BrokenFileError: It is no UTF-8 from its first bytes on, or cannot be decompressed.
    """
    try:
        with open_bytes(path) as file:
            _check_encoding(file)
            chunk = file.read(CHUNK_BYTES).removeprefix(BOM)
            while chunk and not chunk.strip():
                chunk = file.read(CHUNK_BYTES)
            return chunk.lstrip()[:1]
    except FAULTS_OF_COMPRESSION as fault:
        raise BrokenFileError(_describe_compression(fault, after=0)) from fault


def decode_line(number: int, line: bytes) -> str | Fault:
    """Return a line as text, or where it is none."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as fault:
        return _describe_byte(number, line[fault.start], at=fault.start + 1)


def _decode_piece(
    decoder: codecs.IncrementalDecoder, chunk: bytes, *, line: int, before: int
) -> str:
    pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as fault:
        at = max(fault.start - pending, 0)
        begin = chunk.rfind(b"\n", 0, at)
        place = at - begin if begin >= 0 else before + fault.start - pending + 1
        wrong = fault.object[fault.start]
        message = _describe_byte(line + chunk.count(b"\n", 0, at), wrong, at=place)
        raise BrokenFileError(message) from fault


def _check_encoding(file: io.BufferedReader) -> None:
    """Refuse a file whose first bytes show that it is no UTF-8, once and not line by line."""
    start = file.peek(4)[:4]
    name = next((name for mark, name in _OTHER_ENCODINGS.items() if start.startswith(mark)), None)
    if name is not None:
        problem = f"is {name} by its first bytes and not UTF-8"
        raise BrokenFileError(Fault(line=0, problem=problem, rule=_UTF8))
    if b"\0" in start:
        problem = "begins with a zero byte among its first four, as UTF-16 and binary files do"
        raise BrokenFileError(Fault(line=0, problem=problem, rule=_UTF8))


def _pass_over_line(file: io.BufferedReader) -> None:
    while (rest := file.readline(CHUNK_BYTES)) and not rest.endswith(b"\n"):
        pass


def _describe_byte(line: int, byte: int, *, at: int) -> Fault:
    return Fault(line=line, problem=f"is not UTF-8: byte 0x{byte:02x} at byte {at}", rule=_UTF8)


def _describe_long_line(number: int) -> Fault:
    return Fault(
        line=number,
        problem=f"is longer than {MOST_LINE_BYTES >> 20} MiB",
        rule="a line holds one row; divide it into several",
    )


def _describe_compression(fault: Exception, *, after: int) -> Fault:
    problem = "is the last one that can be decompressed" if after else "cannot be decompressed"
    rule = "a .gz or .zst file must be whole; upload it again"
    if not after and isinstance(fault, gzip.BadGzipFile | zstandard.ZstdError):
        rule = "a file named .gz or .zst must be compressed so; rename the file or upload it again"
    return Fault(line=after, problem=f"{problem} ({fault})", rule=rule)


class _ZstdReader(io.RawIOBase):
    """Decompressed bytes of a .zst file; unlike zstandard's own reader it notices a cut file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._is_inside = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer and return how much; 0 is the end."""
        while not self._ready:
            chunk = self._file.read(ZSTD_CHUNK_BYTES)
            if not chunk:
                if self._is_inside:
                    raise EOFError("the last frame is cut")
                return 0
            self._ready = memoryview(self._decompress(chunk))
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
