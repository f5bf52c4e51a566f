"""The survey of a text as people write it: letters, scripts, words; no tokens.

Beside `row_figures`, below `measure`. It sees each example's words once and keeps sums.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_text.survey.near_duplicates import SHINGLE_CHARACTERS, SHINGLE_WORDS, shingle
from finetune_text.survey.scripts import (
    FIRST_SCRIPT,
    NO_WORD,
    WITHOUT_SPACES,
    WRITTEN_AS,
    class_of,
    classify,
    code_of,
    scripts_of_tag,
)
from finetune_text.survey.words import (
    MovingTypeTokenRatio,
    WordRuns,
    code_mixing_index,
    code_points,
    count_scripts,
    find_words,
    fold,
    mix,
)

OTHER_SCRIPT_BELOW = 0.5
"""Share of a row's letters in the tag's script below which the row is reported (assumption)."""
OTHER_SCRIPT_LETTERS = 20
"""Letters that a row must have for that: a name or a formula is no defect (assumption)."""
_UNSPACED = frozenset(class_of(code) for code in WITHOUT_SPACES)
_JAPANESE = frozenset(class_of(code) for code in WRITTEN_AS["Jpan"])


@dataclass(frozen=True)
class SurveyedText:
    """One example's words."""

    key: int
    """Hash of the folded text: equal for exact duplicates (F8)."""
    shingles: NDArray[np.uint64]
    """Shape: (shingles,). What near duplicates are found by (F9); empty without words."""
    other_script: str = ""
    """What is wrong where most letters are of another script than the tag's; else empty."""


class TextSurvey:
    """One language's text, seen row by row."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._expected = frozenset(class_of(code) for code in scripts_of_tag(tag))
        self._joined: Sequence[frozenset[int]] = (
            (self._expected,) if len(self._expected) > 1 else (_JAPANESE,)
        )
        self._letters: NDArray[np.int64] = np.zeros(256, dtype=np.int64)
        self._ratio = MovingTypeTokenRatio()
        self._words = 0
        self._mixed = 0
        self._mixing = 0.0

    def add(self, text: str) -> SurveyedText:
        """Survey one example's words."""
        folded = fold(text)
        points = code_points(folded)
        runs = find_words(points)
        self._letters += runs.letters
        self._words += len(runs.hashes)
        self._ratio.add(runs.hashes)
        is_unspaced = _commonest(runs.letters) in _UNSPACED
        self._note_mixing(runs, is_unspaced=is_unspaced)
        return SurveyedText(
            key=fold_key(folded),
            shingles=_shingle(points, runs, is_unspaced=is_unspaced),
            other_script=self._find_other_script(runs.letters),
        )

    def _note_mixing(self, runs: WordRuns, *, is_unspaced: bool) -> None:
        """Add one utterance's index: by words, or by letters where spaces divide none."""
        counts = runs.letters if is_unspaced else np.bincount(runs.scripts, minlength=256)
        by_script = count_scripts(counts, joined=self._joined)
        if by_script:
            self._mixed += 1
            self._mixing += code_mixing_index(by_script)

    def _find_other_script(self, letters: NDArray[np.int64]) -> str:
        share = self._share(letters)
        if share is None or letters[FIRST_SCRIPT:].sum() < OTHER_SCRIPT_LETTERS:
            return ""
        if share >= OTHER_SCRIPT_BELOW:
            return ""
        expected = "/".join(sorted(code_of(each) for each in self._expected))
        return (
            f"has {share:.0%} of its letters in {expected}, the script of {self._tag}; most are"
            f" {code_of(_commonest(letters))}"
        )

    def _share(self, letters: NDArray[np.int64]) -> float | None:
        total = int(letters[FIRST_SCRIPT:].sum())
        if not total or not self._expected:
            return None
        return sum(int(letters[each]) for each in self._expected) / total

    # --- What came out ---

    @property
    def letters(self) -> dict[str, int]:
        """Letters by script, commonest first."""
        seen: list[int] = np.flatnonzero(self._letters).tolist()
        counts = {code_of(each): int(self._letters[each]) for each in seen if each >= FIRST_SCRIPT}
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def script(self) -> str:
        """The commonest script; empty without letters."""
        return next(iter(self.letters), "")

    @property
    def script_share(self) -> float | None:
        """Share of letters in the tag's script (F11); None where the tag tells none."""
        return self._share(self._letters)

    @property
    def words(self) -> int | None:
        """Words; None where the text's script divides none."""
        return None if _commonest(self._letters) in _UNSPACED else self._words

    @property
    def mattr500(self) -> float | None:
        """Moving-average type-token ratio; None without words or with fewer than the window."""
        return None if self.words is None else self._ratio.ratio

    @property
    def mean_mixing(self) -> float | None:
        """Mean code-mixing index over utterances (F10)."""
        return self._mixing / self._mixed if self._mixed else None


def fold_key(folded: str) -> int:
    """Return a hash of folded text; two of a million texts meet with a chance of 1 in 10^7."""
    digest = hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _shingle(
    points: NDArray[np.uint32], runs: WordRuns, *, is_unspaced: bool
) -> NDArray[np.uint64]:
    if is_unspaced:
        letters = mix(points[classify(points) != NO_WORD])
        return shingle(letters, width=SHINGLE_CHARACTERS) if len(letters) else letters
    return shingle(runs.hashes, width=SHINGLE_WORDS) if len(runs.hashes) else runs.hashes


def _commonest(letters: NDArray[np.int64]) -> int:
    """Return the class of the commonest script, or 0 without letters."""
    scripts = letters[FIRST_SCRIPT:]
    return int(scripts.argmax()) + FIRST_SCRIPT if scripts.any() else NO_WORD
