"""What is left of the rows when each is cut at one length, as the trainer cuts them (F12).

Between `rows`, whose columns these are, and `measure`. A row whose loss is on one unbroken run of tokens
needs two numbers; the further runs of a chat of several turns are kept beside, up to `MOST_RUNS`. Plain
text that goes on in the next sequence (continued pretraining) is not cut; this module does not apply to it.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from finetune_api.profile import CANDIDATE_LENGTHS, COUNTED_LENGTHS, KeptAtLength, LanguageProfile
from finetune_text.survey.language_report import LanguageReport, LengthReport

LENGTH_STEP: Final = 256
"""Policy Evidence takes multiples of this many tokens."""
STEPS_UP_TO: Final = 8192
"""Longest multiple of `LENGTH_STEP` that a report counts."""
MOST_RUNS: Final = 20_000_000
"""Runs of supervised tokens that are remembered, of 12 bytes each: 240 MB at most. Beyond it the supervised
tokens within a length are unknown."""


@dataclass
class AnswerRuns:
    """The runs of supervised tokens of rows that have more than one."""

    row: "array[int]" = field(default_factory=lambda: array("I"))
    first: "array[int]" = field(default_factory=lambda: array("I"))
    end: "array[int]" = field(default_factory=lambda: array("I"))
    is_full: bool = False
    most: int = MOST_RUNS

    def add(self, row: int, runs: NDArray[np.int64]) -> None:
        """Add the runs of one row, shape (runs, 2); one run alone is known without them."""
        if len(runs) < 2 or self.is_full:
            return
        if len(self.row) + len(runs) > self.most:
            self.is_full = True
            return
        self.row.extend([row] * len(runs))
        self.first.extend(runs[:, 0].tolist())
        self.end.extend(runs[:, 1].tolist())

    def count_within(self, limit: int, *, rows: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which rows have several runs, and their supervised tokens within `limit`.

        Returns:
            Shapes: (rows,) and (rows,).
        """
        row = np.array(self.row, dtype=np.int64)
        first, end = np.array(self.first, dtype=np.int64), np.array(self.end, dtype=np.int64)
        within = np.clip(np.minimum(end, limit) - first, 0, None)
        has_several: NDArray[np.bool_] = np.zeros(rows, dtype=np.bool_)
        has_several[row] = True
        return has_several, np.bincount(row, weights=within, minlength=rows).astype(np.int64)


@dataclass(frozen=True)
class RowLengths:
    """The columns that decide what a length leaves; shape of each: (rows,)."""

    length: NDArray[np.int64]
    supervised: NDArray[np.int64]
    first_supervised: NDArray[np.int64]
    runs: AnswerRuns

    def report(self, limit: int, *, trained: NDArray[np.bool_]) -> LengthReport:
        """Return what cutting at `limit` tokens leaves of the trained rows; shape of `trained`: (rows,)."""
        length = self.length[trained]
        cut = np.minimum(length, limit)
        is_learnable = self.first_supervised[trained] < cut
        supervised = None if self.runs.is_full else self._count_supervised(limit)[trained]
        return LengthReport(
            length=limit,
            truncated=int((length > limit).sum()),
            lost_tokens=int((length - cut).sum()),
            unlearnable=int((~is_learnable).sum()),
            kept_tokens=int(cut[is_learnable].sum()),
            kept_supervised=None if supervised is None else int(supervised.sum()),
        )

    def _count_supervised(self, limit: int) -> NDArray[np.int64]:
        within = np.clip(limit - self.first_supervised, 0, self.supervised)
        has_several, exact = self.runs.count_within(limit, rows=len(self.length))
        return np.where(has_several, exact, within)


def lengths_to_count(*, longest: int, p99: int, declared: int | None) -> tuple[int, ...]:
    """Return the candidate lengths, and every other that a run of this text may have, shortest first.

    Args:
        longest: Tokens of the longest example; it is counted too, as the length that cuts nothing.
        p99: Tokens that 99 % of the examples do not exceed.
        declared: Length that the resource sets, if any.
    """
    steps = range(LENGTH_STEP, min(longest, STEPS_UP_TO), LENGTH_STEP)
    wanted = {*steps, *COUNTED_LENGTHS, round_up(p99), *([declared] if declared else [])}
    return tuple(sorted({*CANDIDATE_LENGTHS, longest, *(one for one in wanted if one < longest)}))


def round_up(tokens: int) -> int:
    """Return the multiple of `LENGTH_STEP` that holds so many tokens."""
    return -(-tokens // LENGTH_STEP) * LENGTH_STEP


def build_profiles(
    reports: Sequence[LanguageReport], *, lengths: Sequence[int | None] = ()
) -> tuple[LanguageProfile, ...]:
    """Return the profiles of all languages of one resource, each with what the run's lengths leave of it.

    Args:
        reports: In the order of `spec.languages`.
        lengths: Lengths that the run may have beside those of the rules: the declared one, and the longest
            sequence that the model reads.
    """
    longest_p99 = max((report.profile.p99 for report in reports), default=0)
    wanted = {*COUNTED_LENGTHS, round_up(longest_p99), *lengths}
    return tuple(
        report.profile.model_copy(update={"kept": tuple(_pick(report, wanted))})
        for report in reports
    )


def _pick(report: LanguageReport, wanted: set[int | None]) -> list[KeptAtLength]:
    longest = report.profile.longest
    # A report that an older release cached has no kept tokens.
    return [
        KeptAtLength(
            one.length, one.truncated, one.unlearnable, one.kept_tokens, one.kept_supervised
        )
        for one in report.lengths
        if one.kept_tokens is not None
        and (one.length == longest or (one.length < longest and one.length in wanted))
    ]
