"""Near duplicates (F9): MinHash signatures of shingles, and the earlier text that one resembles.

Pure, above `words`. Own code of one page instead of a library: signatures are computed by numpy at
once and kept in 256 bytes a text, and bands are compared by sorting, so that a million texts need
memory for nothing else. The reference is Broder 1997; bands and rows as in Leskovec et al., chapter 3.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_text.survey.words import mix

SHINGLE_WORDS = 5
SHINGLE_CHARACTERS = 5
"""Of scripts without spaces."""
JACCARD_FROM = 0.8
"""Share of shingles from which two texts count as nearly the same (F9)."""
PERMUTATIONS = 128
"""Standard error of the estimate at 0.8: sqrt(0.8 x 0.2 / 128) = 3.5 %."""
BAND = 4
"""Values of a band. 32 bands of 4: at 0.8 all but 1 of 10^7 pairs meet in one, at 0.3 a quarter."""
LOOK_BACK = 4
"""Texts of a band that the next is compared with, beside the first of them."""
CHUNK = 4096
"""Shingles at once: their hashes under all permutations fill 4 MiB."""
MOST_TEXTS = 2_000_000
"""Texts whose signatures are kept, in 512 MB. Later ones are not compared, and the report says so."""

_draw = np.random.default_rng(20260101)
_FACTORS = _draw.integers(1, 2**63, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _draw.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64)


@dataclass(frozen=True)
class NearDuplicate:
    """A text that resembles an earlier one."""

    text: int
    """Number of the text, in the order they were added."""
    earlier: int
    similarity: float
    """Estimated Jaccard similarity of their shingles, 0 to 1."""


def shingle(values: NDArray[np.uint64], *, width: int) -> NDArray[np.uint64]:
    """Return hashes of every run of `width` values; of all of them where they are fewer.

    Args:
        values: Shape: (values,). Hashes of words, or of characters.
        width: Values of a shingle.

    Returns:
        Shape: (values - width + 1,), at least 1.
    """
    width = min(width, len(values))
    total: NDArray[np.uint64] = np.zeros(len(values) - width + 1, dtype=np.uint64)
    for place in range(width):
        # Mixing at each step makes the order count.
        total = mix(total + values[place : place + len(total)])
    return total


def sign(shingles: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Return the signature of a set of shingles.

    Args:
        shingles: Shape: (shingles,), at least 1; repeated ones do not count.

    Returns:
        Shape: (PERMUTATIONS,). The lowest 16 bits of each minimum: enough to tell two apart.
    """
    least: NDArray[np.uint64] = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, dtype=np.uint64)
    for first in range(0, len(shingles), CHUNK):
        part = shingles[first : first + CHUNK, None]
        # Shape: (chunk, PERMUTATIONS). The high bits of a product are the random ones.
        hashed = (part * _FACTORS + _OFFSETS) >> np.uint64(16)
        least = np.minimum(least, hashed.min(axis=0))
    return (mix(least) & np.uint64(0xFFFF)).astype(np.uint16)


class NearDuplicates:
    """Signatures of texts, in the order they were added."""

    def __init__(self, most: int = MOST_TEXTS) -> None:
        # Memory is taken as it is written to: a short text takes little.
        self._signatures: NDArray[np.uint16] = np.empty((most, PERMUTATIONS), dtype=np.uint16)
        self._texts = array("q")
        self.left_out = 0
        """Texts that came when there was no room left."""

    def add(self, text: int, shingles: NDArray[np.uint64]) -> None:
        """Remember one text by its number; numbers rise."""
        if not len(shingles):
            return
        if self.is_full:
            self.left_out += 1
            return
        self._signatures[len(self._texts)] = sign(shingles)
        self._texts.append(text)

    @property
    def is_full(self) -> bool:
        """Whether later texts are not compared."""
        return len(self._texts) >= len(self._signatures)

    def find(self, wanted: NDArray[np.bool_]) -> Iterator[NearDuplicate]:
        """Yield the texts that resemble an earlier one, each with the earliest it was compared with.

        Args:
            wanted: Shape: (texts,). By number, which texts are compared at all.
        """
        texts = np.array(self._texts, dtype=np.int64)
        places = np.flatnonzero(wanted[texts]) if len(texts) else texts
        # A band of four 16-bit values is one 64-bit value.
        bands = self._signatures.view(np.uint64)
        # Shape: (places,). Of each the earliest that it resembles; itself where there is none.
        earliest = np.arange(len(places))
        for band in range(bands.shape[1]):
            for later, earlier in _meet(bands[places, band]):
                alike = self._compare(places[later], places[earlier]) >= JACCARD_FROM
                np.minimum.at(earliest, later[alike], earlier[alike])
        found = np.flatnonzero(earliest != np.arange(len(places)))
        shares = self._compare(places[found], places[earliest[found]])
        for one, share in zip(found.tolist(), shares.tolist(), strict=True):
            text, earlier = texts[places[one]], texts[places[earliest[one]]]
            yield NearDuplicate(int(text), int(earlier), share)

    def _compare(self, later: NDArray[np.int64], earlier: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the share of equal values of each pair; shape: (pairs,)."""
        parts = (slice(first, first + CHUNK) for first in range(0, len(later), CHUNK))
        kept = self._signatures
        shares = [(kept[later[part]] == kept[earlier[part]]).mean(axis=1) for part in parts]
        return np.concatenate(shares) if shares else np.zeros(0)


def _meet(band: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of texts with the same band: each with the first, and with its nearest predecessors.

    Args:
        band: Shape: (texts,).

    Yields:
        Later and earlier texts; shapes: (pairs,).
    """
    order = np.argsort(band, kind="stable")
    ordered = band[order]
    begins = np.concatenate((np.ones(min(1, len(band)), np.bool_), ordered[1:] != ordered[:-1]))
    places = np.arange(len(order))
    first = np.maximum.accumulate(np.where(begins, places, 0))
    yield order[places[first < places]], order[first[first < places]]
    for back in range(1, LOOK_BACK + 1):
        has = places - back > first
        yield order[places[has]], order[places[has] - back]
