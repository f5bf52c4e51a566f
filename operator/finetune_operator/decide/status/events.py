"""Kubernetes events, sent once when a condition changes or a grave warning appears.

`decide` compares the conditions before and after; the shell posts the events once the status is
written. An event may be lost: the conditions hold the truth.
"""

from collections.abc import Iterable
from typing import Final

from finetune_api.status import Condition, WarningStatus
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Event

QUIET: Final = frozenset(
    {
        conditions.POD_STARTING,
        conditions.POD_STOPPING,
        conditions.FINISHED,
        conditions.JOB_SUSPENDED,
        conditions.SUSPENDED_BY_SPEC,
        conditions.SUSPENDING,
        conditions.QUEUED,
        conditions.EVICTED_BY_QUEUE,
        conditions.SCHEDULING_GATED,
        conditions.PREDECESSOR_GOING,
        conditions.MEASURING,
        conditions.AWAITING_MEASUREMENT,
        conditions.PROBING,
        conditions.PUBLISHING_BEST,
        conditions.RECREATING,
    }
)
"""Reasons for not running that are part of every life."""


def build_events(before: Iterable[Condition], *, after: Iterable[Condition]) -> tuple[Event, ...]:
    """Return the events of the step from one list of conditions to the next."""
    earlier = {one.type: (one.status, one.reason) for one in before}
    events = (
        _event(one, was=earlier.get(one.type, ("", "")))
        for one in after
        if earlier.get(one.type) != (one.status, one.reason)
    )
    return tuple(event for event in events if event is not None)


def build_warning_events(
    before: Iterable[WarningStatus], *, after: Iterable[WarningStatus]
) -> tuple[Event, ...]:
    """Return an event for each announced warning that was not in status before."""
    known, reported = {one.id for one in before}, ANNOUNCED | OF_THE_RUN
    return tuple(
        Event("Warning", reported[one.id], one.message)
        for one in after
        if one.id in reported and one.id not in known
    )


def _event(condition: Condition, *, was: tuple[str, str]) -> Event | None:
    """Return the event of one condition whose status or reason changed from `was`."""
    key = (condition.type, condition.status)
    if key in NORMAL:
        # A running pod that becomes another running pod is no news; a Job created again is.
        is_news = was[0] != condition.status or condition.type == conditions.JOB_CREATED
        return Event("Normal", NORMAL[key], condition.message) if is_news else None
    if key == (conditions.FAILED, "True"):
        return Event("Warning", conditions.FAILED, f"{condition.reason}: {condition.message}")
    if key in WARNED and condition.reason not in QUIET:
        return Event("Warning", condition.reason, condition.message)
    return None


ANNOUNCED: Final = {
    "lr-below-lora-range": "LearningRateBelowLoraRange",
    "script-mismatch": "ScriptMismatch",
    "truncation-high": "TruncationHigh",
    "insufficient-gpu-memory": "InsufficientGPUMemory",
}
"""Warnings of the resolver that tell of a run that may be spent for nothing; the others wait in status."""
OF_THE_RUN: Final = {
    "plan-not-kept": "PlanNotKept",
    "published-at-deadline": "PublishedAtDeadline",
}
"""Warnings of the operator's own, about what a run lost or could not do."""
NORMAL: Final = {
    (conditions.CORPUS_MEASURED, "True"): "CorpusMeasured",
    (conditions.JOB_CREATED, "True"): "JobCreated",
    (conditions.RUNNING, "True"): "Started",
    (conditions.SUSPENDED, "True"): "Suspended",
    (conditions.COMPLETE, "True"): "Completed",
}
WARNED: Final = frozenset(
    {
        (conditions.ACCEPTED, "False"),
        (conditions.CORPUS_MEASURED, "False"),
        (conditions.RESOLVED, "False"),
        (conditions.JOB_CREATED, "False"),
        (conditions.RUNNING, "False"),
    }
)
