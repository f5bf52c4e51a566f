"""The rows of one language as columns of numbers, and the sums over them.

Below `measure`. A row costs a hundred bytes, so that millions fit where their text does not.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from finetune_api.profile import CANDIDATE_LENGTHS
from finetune_text.language_report import MOST_LONGEST, LengthReport
from finetune_text.row_figures import RowFigures

Mask: TypeAlias = NDArray[np.bool_]


def _column(code: str = "q") -> "array[int]":
    return array(code)


@dataclass
class RowStore:
    """Every example of the training files that can be learned from, in order."""

    file: "array[int]" = field(default_factory=_column)
    line: "array[int]" = field(default_factory=_column)
    length: "array[int]" = field(default_factory=_column)
    supervised: "array[int]" = field(default_factory=_column)
    first_supervised: "array[int]" = field(default_factory=_column)
    characters: "array[int]" = field(default_factory=_column)
    text_bytes: "array[int]" = field(default_factory=_column)
    text_tokens: "array[int]" = field(default_factory=_column)
    mojibake: "array[int]" = field(default_factory=lambda: _column("b"))
    key: "array[int]" = field(default_factory=lambda: _column("Q"))
    """Of the folded text."""
    content: list[bytes] = field(default_factory=list)
    """Hash of the exact content, by which the held-out rows are chosen."""

    def __len__(self) -> int:
        return len(self.line)

    def add(
        self,
        *,
        file: int,
        line: int,
        figures: RowFigures,
        key: int,
        content: bytes,
        has_mojibake: bool,
    ) -> None:
        """Add one row."""
        self.file.append(file)
        self.line.append(line)
        self.length.append(figures.length)
        self.supervised.append(figures.supervised)
        self.first_supervised.append(figures.first_supervised)
        self.characters.append(figures.characters)
        self.text_bytes.append(figures.text_bytes)
        self.text_tokens.append(figures.text_tokens)
        self.mojibake.append(has_mojibake)
        self.key.append(key)
        self.content.append(content)

    def numbers(self, name: str) -> NDArray[np.int64]:
        """Return one column; shape: (rows,)."""
        return np.array(getattr(self, name), dtype=np.int64)

    def keys(self) -> NDArray[np.uint64]:
        """Return the folded texts' hashes; shape: (rows,)."""
        return np.array(self.key, dtype=np.uint64)

    def held_out(self, contents: frozenset[bytes]) -> Mask:
        """Return which rows have one of these contents; shape: (rows,)."""
        return np.fromiter((each in contents for each in self.content), np.bool_, len(self))


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


def report_lengths(
    lengths: NDArray[np.int64], first_supervised: NDArray[np.int64]
) -> tuple[LengthReport, ...]:
    """Return what each candidate length would cut (F12); shapes: (examples,)."""
    return tuple(
        LengthReport(
            length=limit,
            truncated=int((lengths > limit).sum()),
            lost_tokens=int(np.maximum(0, lengths - limit).sum()),
            unlearnable=int((first_supervised >= np.minimum(limit, lengths)).sum()),
        )
        for limit in CANDIDATE_LENGTHS
    )


def find_longest(lengths: NDArray[np.int64], wanted: Mask) -> list[int]:
    """Return the rows with most tokens, longest first; of equal ones the first."""
    places = np.flatnonzero(wanted)
    order = np.argsort(-lengths[places], kind="stable")[:MOST_LONGEST]
    return [int(place) for place in places[order]]
