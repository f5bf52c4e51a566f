"""The rows of one language as columns of numbers, and the sums over them.

Below `measure`. A row costs sixty bytes, so that millions fit where their text does not.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from finetune_text.survey.language_report import MOST_LONGEST
from finetune_text.survey.lengths import AnswerRuns, RowLengths
from finetune_text.survey.row_figures import RowFigures
from finetune_text.tokenization.held_out import HASH_BYTES, HASH_TYPE

Mask: TypeAlias = NDArray[np.bool_]


def _column(code: str = "I") -> "array[int]":
    # Four bytes: no row has more characters, and no file more lines, than fit into them.
    return array(code)


@dataclass
class RowPlaces:
    """Where rows stand, and what distinguishes them, in order."""

    file: "array[int]" = field(default_factory=_column)
    line: "array[int]" = field(default_factory=_column)
    key: "array[int]" = field(default_factory=lambda: _column("Q"))
    """Of the folded text."""
    content: bytearray = field(default_factory=bytearray)
    """Hashes of the exact contents, one after the other, by which the held-out rows are chosen."""

    def __len__(self) -> int:
        return len(self.line)

    def place(self, *, file: int, line: int, key: int, content: bytes) -> None:
        """Add one row."""
        self.file.append(file)
        self.line.append(line)
        self.key.append(key)
        self.content += content

    def keys(self) -> NDArray[np.uint64]:
        """Return the folded texts' hashes; shape: (rows,)."""
        return np.array(self.key, dtype=np.uint64)

    def contents(self) -> NDArray[np.bytes_]:
        """Return the exact contents' hashes; shape: (rows,)."""
        return np.frombuffer(bytes(self.content), dtype=HASH_TYPE)

    def having(self, contents: frozenset[bytes]) -> Mask:
        """Return which rows have one of these contents; shape: (rows,)."""
        starts = range(0, len(self.content), HASH_BYTES)
        found = (bytes(self.content[at : at + HASH_BYTES]) in contents for at in starts)
        return np.fromiter(found, np.bool_, len(self))


@dataclass
class RowStore(RowPlaces):
    """Every example of the training files that can be learned from, with its figures."""

    length: "array[int]" = field(default_factory=_column)
    supervised: "array[int]" = field(default_factory=_column)
    first_supervised: "array[int]" = field(default_factory=_column)
    characters: "array[int]" = field(default_factory=_column)
    text_bytes: "array[int]" = field(default_factory=_column)
    text_tokens: "array[int]" = field(default_factory=_column)
    mojibake: "array[int]" = field(default_factory=lambda: _column("b"))
    runs: AnswerRuns = field(default_factory=AnswerRuns)

    def add(self, figures: RowFigures, *, has_mojibake: bool) -> None:
        """Add the figures of the row that was placed last."""
        self.runs.add(len(self.length), figures.answers)
        self.length.append(figures.length)
        self.supervised.append(figures.supervised)
        self.first_supervised.append(figures.first_supervised)
        self.characters.append(figures.characters)
        self.text_bytes.append(figures.text_bytes)
        self.text_tokens.append(figures.text_tokens)
        self.mojibake.append(has_mojibake)

    def numbers(self, name: str) -> NDArray[np.int64]:
        """Return one column; shape: (rows,)."""
        return np.array(getattr(self, name), dtype=np.int64)

    def lengths(self) -> RowLengths:
        """Return the columns that decide what a length leaves."""
        return RowLengths(
            length=self.numbers("length"),
            supervised=self.numbers("supervised"),
            first_supervised=self.numbers("first_supervised"),
            runs=self.runs,
        )


def find_first(
    keys: NDArray[np.uint64], wanted: Mask, *, sought: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return the first wanted row of each key that is sought, or -1 where there is none.

    Args:
        keys: Shape: (rows,).
        wanted: Shape: (rows,).
        sought: Shape: (sought,).

    Returns:
        Shape: (sought,).
    """
    places = np.flatnonzero(wanted)
    if not len(places):
        return np.full(len(sought), -1)
    order = places[np.argsort(keys[places], kind="stable")]
    at = np.minimum(np.searchsorted(keys[order], sought), len(order) - 1)
    return np.where(keys[order[at]] == sought, order[at], -1)


def find_repeats(keys: NDArray[np.uint64], wanted: Mask) -> tuple[Mask, NDArray[np.int64]]:
    """Return which wanted rows repeat an earlier wanted one, and for each row the first of its text.

    Args:
        keys: Shape: (rows,).
        wanted: Shape: (rows,).

    Returns:
        Shapes: (rows,); the first is without meaning for a row that is not wanted.
    """
    places = np.flatnonzero(wanted)
    repeats: Mask = np.zeros(len(keys), dtype=np.bool_)
    first = np.arange(len(keys))
    if len(places):
        _, firsts, inverse = np.unique(keys[places], return_index=True, return_inverse=True)
        first[places] = places[firsts[inverse]]
        repeats[places] = first[places] != places
    return repeats, first


def nearest_rank(ordered: Sequence[int] | NDArray[np.int64], percent: int) -> int:
    """Return the smallest length that at least `percent` of all do not exceed; 0 without any."""
    if not len(ordered):
        return 0
    place = -(-len(ordered) * percent // 100)
    return int(ordered[max(0, place - 1)])


def find_longest(lengths: NDArray[np.int64], wanted: Mask) -> list[int]:
    """Return the rows with most tokens, longest first; of equal ones the first."""
    places = np.flatnonzero(wanted)
    order = np.argsort(-lengths[places], kind="stable")[:MOST_LONGEST]
    return [int(place) for place in places[order]]
