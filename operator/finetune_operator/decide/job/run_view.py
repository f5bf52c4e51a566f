"""A run as it is looked at, and what is found: the values between `decide` and the steps of its course.

`decide` fills in a `Run`, `course` and `suspension` answer with a `Course`. Values only.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

from finetune_api.outcome import Outcome
from finetune_api.status import CheckpointStatus
from finetune_operator.decide.job.pending_pod import PodWait
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.conditions import ConditionUpdate
from finetune_operator.decide.values.observation import JobEvent, ObservedJob, ObservedPod
from finetune_operator.decide.values.operator_config import DecisionContext

PENDING: Final = "Pending"
RUNNING: Final = "Running"
SUSPENDING: Final = "Suspending"
SUSPENDED: Final = "Suspended"
STALLED: Final = "Stalled"
COMPLETE: Final = "Complete"
FAILED: Final = "Failed"


@dataclass(frozen=True)
class RunState:
    """Where a run stands, and what follows from it."""

    phase: str
    """A word for people."""
    message: str
    updates: tuple[ConditionUpdate, ...]
    """Conditions from Running on."""
    outcome: Outcome | None = None
    """Of the pod that did the whole job."""
    requeue_after_s: float | None = None
    needs_job_events: bool = False
    delete_job: bool = False
    """Whether the Job still holds what will not be used."""
    replaces_job: bool = False
    """Whether another Job follows this one, once its pods have stopped."""

    @property
    def failed_for(self) -> str:
        """Reason of the failure, or empty."""
        return next((one.reason for one in self.updates if one.type == conditions.FAILED), "")


@dataclass(frozen=True)
class RunView:
    """The Job of the current attempt, and its pods."""

    job: ObservedJob
    pods: tuple[ObservedPod, ...]
    events: tuple[JobEvent, ...]
    now: datetime
    context: DecisionContext
    is_held: bool = False
    """Whether spec.suspend wants it stopped."""
    more_memory: str | None = None
    """Memory of the attempt that follows, where this one was killed for memory and more may be given."""
    deadline_s: int | None = None
    """Over all attempts, as the spec says now."""
    has_run_before: bool = False
    """Whether a pod of it ran that may be gone by now."""
    checkpoint: CheckpointStatus | None = None
    """Where the next pod resumes."""
    total_steps: int | None = None

    @cached_property
    def ended(self) -> tuple[ObservedPod, ...]:
        """Pods that will never run again, in the order in which they ended."""
        return tuple(sorted((pod for pod in self.pods if pod.ended), key=moment_of))

    @property
    def has_run(self) -> bool:
        """Whether a node ever took a pod of it."""
        return self.has_run_before or any(pod.ended or pod.started for pod in self.pods)

    @cached_property
    def current(self) -> ObservedPod | None:
        """The newest pod that has not ended; one that stays comes before one that goes."""
        alive = [pod for pod in self.pods if not pod.ended]
        return max(alive, key=lambda pod: (not pod.deleting, *moment_of(pod)), default=None)

    def waiting(self, pod: ObservedPod) -> PodWait:
        """Return what is known of a pod that does not run yet."""
        return PodWait(
            job=self.job, pod=pod, events=self.events, now=self.now, context=self.context
        )


def moment_of(pod: ObservedPod) -> tuple[float, str]:
    """Return by what pods are ordered in time."""
    moment = end_of(pod)
    return (moment.timestamp() if moment is not None else 0.0, pod.name)


def end_of(pod: ObservedPod) -> datetime | None:
    """Return when a pod ended, or the latest that is known of it."""
    finished = pod.trainer.finished if pod.trainer is not None else None
    return finished or pod.started or pod.created
