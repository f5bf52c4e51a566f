"""What of the pods' progress is worth writing, and when: the latest report wins.

The status server puts reports in, the progress writer takes out what is due. Pure: both tell it the
time, and it makes no request. A report is dropped rather than queued, so that no pod ever waits.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from finetune_api.progress import TrainerStatus
from finetune_api.status import ProgressStatus
from finetune_operator.decide.status.build_progress import (
    build_progress,
    is_behind,
    with_previous_values,
)
from finetune_operator.watch.store import Key

FLUSH_S = 30.0
"""Seconds between two writes of a run that moves by less than one percent."""
SMALLEST_GAP_S = 2.0
"""Seconds between two writes of one run, however fast it moves."""
JITTER_S = 1.0
"""Most seconds by which a write is put off, so that runs that began together part."""


@dataclass(frozen=True, slots=True)
class RunKey:
    """One run of one resource."""

    key: Key
    uid: str
    run: int


@dataclass(frozen=True, slots=True)
class _State:
    status: ProgressStatus
    written: ProgressStatus | None = None
    written_at: float = float("-inf")
    due: float | None = None


@dataclass
class ProgressBuffer:
    """The newest report of each run that has something to say."""

    jitter: Callable[[], float]
    """A number in [0, 1)."""
    _states: dict[RunKey, _State] = field(default_factory=dict)
    _closed: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._states)

    def put(self, run: RunKey, *, report: TrainerStatus, time: str, now: float) -> bool:
        """Take a report; return whether it was kept.

        A run that ended accepts no report, and the percentage never decreases: a pod that resumes
        counts from 0, but the run does not.

        Args:
            run: whose report it is.
            report: what the pod says.
            time: when it came, RFC 3339.
            now: monotonic seconds.
        """
        if self._closed.get(run.uid, 0) >= run.run:
            return False
        state = self._states.get(run)
        status = build_progress(report, run=run.run, time=time)
        if state is None:
            self._states[run] = _State(status=status, due=now + self._spread())
            return True
        if is_behind(status, state.status):
            if not (
                has_newer_checkpoint(status, state.status) or is_elsewhere(status, state.status)
            ):
                return False
            # A resumed pod fetches, waits and saves before it is where the previous one was killed.
            status = ProgressStatus(
                checkpoint=status.checkpoint,
                stage=status.stage,
                waiting_for=status.waiting_for,
                waiting_since=status.waiting_since,
                updated_at=status.updated_at,
            )
        status = with_previous_values(status, state.status)
        due = self._due(replace(state, status=status), now=now)
        self._states[run] = replace(state, status=status, due=due)
        return True

    def take_due(self, *, now: float, limit: int) -> list[tuple[RunKey, ProgressStatus]]:
        """Return at most `limit` reports that should be written now, the longest overdue first."""
        due = sorted(
            (state.due, index, run)
            for index, (run, state) in enumerate(self._states.items())
            if state.due is not None and state.due <= now
        )
        taken = []
        for _, _, run in due[:limit]:
            state = self._states[run]
            self._states[run] = replace(state, written=state.status, written_at=now, due=None)
            taken.append((run, state.status))
        return taken

    def postpone(self, run: RunKey, *, until: float) -> None:
        """Write a report that could not be written once more at `until`."""
        if (state := self._states.get(run)) is not None and state.due is None:
            self._states[run] = replace(state, written=None, due=until)

    def close(self, run: RunKey) -> None:
        """Forget a run that ended; nothing more is taken of it."""
        self._closed[run.uid] = max(run.run, self._closed.get(run.uid, 0))
        self._states.pop(run, None)

    def forget(self, uid: str) -> None:
        """Forget a resource that is gone."""
        self._closed.pop(uid, None)
        for run in [run for run in self._states if run.uid == uid]:
            del self._states[run]

    def _due(self, state: _State, *, now: float) -> float:
        if state.due is not None and state.due <= now:
            return state.due
        gap_s = SMALLEST_GAP_S if is_news(state.status, state.written) else FLUSH_S
        wanted = max(now, state.written_at + gap_s) + self._spread()
        return wanted if state.due is None else min(state.due, wanted)

    def _spread(self) -> float:
        return self.jitter() * JITTER_S


def has_newer_checkpoint(status: ProgressStatus, other: ProgressStatus) -> bool:
    """Return whether a report names a later checkpoint than another one."""
    if status.checkpoint is None:
        return False
    return other.checkpoint is None or status.checkpoint.step > other.checkpoint.step


def is_elsewhere(status: ProgressStatus, other: ProgressStatus) -> bool:
    """Return whether a report names another stage than another one, or another wait."""
    is_other_stage = status.stage is not None and status.stage != other.stage
    return is_other_stage or status.waiting_for != other.waiting_for


def is_news(status: ProgressStatus, written: ProgressStatus | None) -> bool:
    """Return whether a report is written soon: a percent, a stage, a wait, a checkpoint, or the end."""
    if written is None or has_newer_checkpoint(status, written) or is_elsewhere(status, written):
        return True
    return status.percent is not None and status.percent != written.percent
