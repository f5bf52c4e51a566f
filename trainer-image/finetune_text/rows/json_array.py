"""A JSON list, decoded element by element, so that memory holds one element and what was read ahead.

Below `records`. It knows neither files nor rows.
"""

import json
import re
from collections.abc import Iterator

CHUNK_CHARACTERS = 1 << 20
MOST_CHARACTERS = 1 << 26
"""Of one element; a broken one would else take the rest of the file into memory, as it seems to go on."""
NOT_SPACE = re.compile(r"[^ \t\r\n]")


class ListFormError(ValueError):
    """What stands between the elements is not what a list has there."""


class ArrayReader:
    """Elements of a JSON list, decoded one after the other from pieces of text."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._buffer = ""
        self._at = 0  # where in the buffer the unread text begins
        self._decoder = json.JSONDecoder()
        self._is_at_end = False
        self.line = 1
        """Line of the file, counted from 1, that is being read."""

    def read(self) -> Iterator[tuple[int, object]]:
        """Yield each element with the line on which it begins.

        Raises:
            ValueError: This is no JSON, or a number has too many digits; `line` says where.
            RecursionError: An element is nested too deeply.
        """
        self._take("[")
        while self._peek() != "]":
            line = self.line
            yield line, self._element()
            if self._peek() != "]":
                self._take(",")
        self._take("]")
        if self._peek():
            raise ListFormError("expected nothing after the list")

    def _element(self) -> object:
        """Decode the next element, with twice as much text each time that it is not whole."""
        wanted = CHUNK_CHARACTERS
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError:
                if self._is_at_end or len(self._buffer) - self._at > MOST_CHARACTERS:
                    raise
                self._fill(wanted)
                wanted *= 2
                continue
            # A number or word at the very end may go on in the next line.
            if end == len(self._buffer) and not self._is_at_end:
                self._fill(wanted)
                continue
            self._move(end)
            return value

    def _peek(self) -> str:
        """Return the next character that is no space, or nothing at the end."""
        while True:
            found = NOT_SPACE.search(self._buffer, self._at)
            self._move(found.start() if found else len(self._buffer))
            if found or self._is_at_end:
                return self._buffer[self._at : self._at + 1]
            self._fill(1)

    def _take(self, wanted: str) -> None:
        if self._peek() != wanted:
            raise ListFormError(f"expected {wanted!r}")
        self._move(self._at + 1)

    def _move(self, end: int) -> None:
        self.line += self._buffer.count("\n", self._at, end)
        self._at = end

    def _fill(self, characters: int) -> None:
        parts, length = [self._buffer[self._at :]], 0
        while length < characters:
            piece = next(self._pieces, None)
            if piece is None:
                self._is_at_end = True
                break
            parts.append(piece)
            length += len(piece)
        self._buffer, self._at = "".join(parts), 0
