"""Words: runs of letters, marks and digits, with their scripts, and what is computed from them.

Pure, above `scripts`. A word is known by a hash of its letters, so that a text of any size is counted
without holding its words. Formulas F8, F10 and the type-token ratio stand here.
"""

import unicodedata
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_text.survey.scripts import FIRST_SCRIPT, NO_WORD, classify

MATTR_WINDOW = 500
"""Words of the moving window."""
MATTR_MOST_WORDS = 1_000_000
"""Words after which the ratio is not followed further: by then it has long settled."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""An odd number without pattern: the golden ratio in 64 bits."""
_LONGEST_WORD = 4096
"""Letters after which the powers repeat: longer runs exist in scripts without spaces."""


def fold(text: str) -> str:
    """Return the text as duplicates are compared: NFC, without case, every blank run one space."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


@dataclass(frozen=True)
class WordRuns:
    """The words of one text."""

    hashes: NDArray[np.uint64]
    """Shape: (words,)."""
    scripts: NDArray[np.uint8]
    """Shape: (words,). Class of each word's script, as `scripts` numbers them."""
    letters: NDArray[np.int64]
    """Shape: (256,). Characters of the text by class."""


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the text's characters as numbers; shape: (characters,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def find_words(points: NDArray[np.uint32]) -> WordRuns:
    """Return the words of a text.

    Args:
        points: Shape: (characters,). Of the folded text.
    """
    classes = classify(points)
    letters = np.bincount(classes, minlength=256)
    is_word = classes != NO_WORD
    starts = np.flatnonzero(is_word & ~np.concatenate(([False], is_word[:-1])))
    if not len(starts):
        return WordRuns(np.zeros(0, np.uint64), np.zeros(0, np.uint8), letters)
    # A word's sum runs up to the next one's start: what lies between must weigh nothing.
    inside = slice(starts[0], None)
    starts = starts - starts[0]
    values = np.where(is_word[inside], mix(points[inside]), np.uint64(0))
    lengths = np.diff(starts, append=len(values))
    place = np.arange(len(values)) - np.repeat(starts, lengths)
    hashes = np.add.reduceat(values * _POWERS[place % _LONGEST_WORD], starts)
    return WordRuns(mix(hashes), np.maximum.reduceat(classes[inside], starts), letters)


def mix(values: NDArray[np.unsignedinteger]) -> NDArray[np.uint64]:
    """Return each number scattered over 64 bits, equal for equal ones; shapes: (n,)."""
    # The finalizer of SplitMix64 (Steele et al. 2014), which passes the usual tests of randomness.
    mixed = values.astype(np.uint64) + _MULTIPLIER
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _build_powers() -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        return np.cumprod(np.full(_LONGEST_WORD, _MULTIPLIER, dtype=np.uint64), dtype=np.uint64)


_POWERS = _build_powers()


# --- Code mixing --------------------------------------------------------------------------------


def code_mixing_index(counts: Sequence[int]) -> float:
    """Return 100 times the share of words that are not in the commonest language (F10).

    Args:
        counts: Words of each language in one utterance; neutral ones are in none of them.
    """
    total = sum(counts)
    return 100 * (1 - max(counts) / total) if total else 0.0


def count_scripts(counts: NDArray[np.int64], *, joined: Sequence[frozenset[int]]) -> list[int]:
    """Return counts by script, those of scripts that one language is written in together.

    Args:
        counts: Shape: (256,). By class.
        joined: Sets of classes, such as the three of Japanese.
    """
    seen: list[int] = np.flatnonzero(counts).tolist()
    found = {script: int(counts[script]) for script in seen if script >= FIRST_SCRIPT}
    for group in joined:
        together = sum(found.pop(script, 0) for script in group)
        if together:
            found[min(group)] = together
    return list(found.values())


# --- Type-token ratio ---------------------------------------------------------------------------


class MovingTypeTokenRatio:
    """Mean share of different words in every window of 500, over a stream of words."""

    def __init__(self, window: int = MATTR_WINDOW) -> None:
        self._window = window
        self._recent: deque[int] = deque()
        self._counts: dict[int, int] = {}
        self._sum = 0
        self._windows = 0
        self.words = 0

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Follow the words of one text."""
        if self.words >= MATTR_MOST_WORDS:
            return
        counts, recent = self._counts, self._recent
        for word in hashes.tolist():
            recent.append(word)
            counts[word] = counts.get(word, 0) + 1
            if len(recent) > self._window:
                gone = recent.popleft()
                counts[gone] -= 1
                if not counts[gone]:
                    del counts[gone]
            if len(recent) == self._window:
                self._sum += len(counts)
                self._windows += 1
        self.words += len(hashes)

    @property
    def ratio(self) -> float | None:
        """The mean, or None where there was no whole window."""
        return self._sum / self._windows / self._window if self._windows else None
