"""What a diagnosis is, and why the cluster refuses an object or a Job has no pod.

A diagnosis becomes a condition and a warning event. The texts of API server and Job controller are
read here, those about a pod that waits in `waiting`, those about a pod that ended in `endings`, and
nowhere else. What changes from minute to minute is dropped from them, so that the same trouble is
always the same sentence and status is written once.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.observation import JobEvent, ObservedJob
from finetune_operator.decide.values.operator_config import DecisionContext


class Actor(StrEnum):
    """Who must act."""

    USER = "User"
    """The user who applied the resource."""
    ADMINISTRATOR = "Administrator"
    """The administrator of the cluster or the operator."""
    NONE = "None"
    """It passes by itself."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is the matter with a pod or a Job."""

    reason: str
    """CamelCase constant of `conditions`, or the trainer's own."""
    message: str
    """What is wrong with which object, and what to do."""
    actor: Actor
    retry: bool
    """Whether the cluster goes on by itself, at once or when the cause is removed."""
    needs_events: bool = False
    """Whether the events of the Job and its pods would say more."""


def diagnose_missing_pod(
    job: ObservedJob, *, events: tuple[JobEvent, ...], now: datetime, context: DecisionContext
) -> Diagnosis:
    """Return why a Job has no pod: refusals stand in its events and nowhere else."""
    refused = diagnose_refused_pod(job, events=events)
    if refused is not None:
        return refused
    since = job.start or job.created
    # A Job that was just resumed starts only once the Job controller has seen that.
    is_resuming = job.start is None and job.is_stopped
    since = None if is_resuming else since
    late = since is not None and (now - since).total_seconds() >= context.pod_missing_after_s
    if not late:
        return Diagnosis(
            reason=conditions.POD_STARTING,
            message=f"Job {job.name} is created and its pod follows.",
            actor=Actor.NONE,
            retry=True,
        )
    return Diagnosis(
        reason=conditions.POD_MISSING,
        message=(
            f"Job {job.name} has no pod and no event says why; check that the cluster's Job "
            "controller runs."
        ),
        actor=Actor.ADMINISTRATOR,
        retry=True,
        needs_events=True,
    )


def diagnose_refused_pod(job: ObservedJob, *, events: tuple[JobEvent, ...]) -> Diagnosis | None:
    """Return why the newest try to create a pod was refused, if it was."""
    refusals = (one for one in newest(events) if one.reason == "FailedCreate")
    refusal = next(refusals, None)
    if refusal is None:
        return None
    return diagnose_refusal(refusal.message, what=f"the pod of Job {job.name}")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A way in which the API server says no to a create."""

    pattern: re.Pattern[str]
    reason: str
    actor: Actor
    remedy: str


_REFUSALS: Final = (
    _Refusal(
        re.compile(r"exceeded quota: (?P<which>[^,\s]+)|failed quota: (?P<other>[^:\s]+)"),
        conditions.QUOTA_EXCEEDED,
        Actor.USER,
        "it is created by itself once the quota has room: wait for other work to end, ask for less "
        "in spec.resources, or have the quota raised",
    ),
    _Refusal(
        re.compile(r"violates PodSecurity \"(?P<which>[^\"]+)\""),
        conditions.POD_SECURITY_REFUSED,
        Actor.ADMINISTRATOR,
        "the pod satisfies Pod Security restricted as it leaves the operator: look for a webhook "
        "that changes pods",
    ),
    _Refusal(
        re.compile(r"admission webhook \"(?P<which>[^\"]+)\" denied|failed calling webhook"),
        conditions.ADMISSION_REFUSED,
        Actor.ADMINISTRATOR,
        "change what the policy names, or have the policy changed; it is tried again by itself",
    ),
    _Refusal(
        re.compile(r"(maximum|minimum) (?P<which>\S+) usage per|limit to request ratio"),
        conditions.LIMIT_RANGE_REFUSED,
        Actor.USER,
        "set spec.resources.requests and spec.resources.limits within the namespace's LimitRange",
    ),
    _Refusal(
        re.compile(r"serviceaccount \"?(?P<which>[^\"\s]+)\"? not found"),
        conditions.SERVICE_ACCOUNT_MISSING,
        Actor.USER,
        "create the ServiceAccount, or change spec.scheduling.serviceAccountName; it is tried "
        "again by itself",
    ),
    _Refusal(
        re.compile(r"no PriorityClass with name (?P<which>\S+) was found"),
        conditions.PRIORITY_CLASS_MISSING,
        Actor.USER,
        "create the PriorityClass, or name another in spec.scheduling.priorityClassName",
    ),
)


def diagnose_refusal(text: str, *, what: str) -> Diagnosis:
    """Return what the API server's refusal to create `what` means."""
    said = plain_words(text)
    for refusal in _REFUSALS:
        if refusal.pattern.search(text):
            return Diagnosis(
                reason=refusal.reason,
                message=f"The cluster refused {what}: {said}; {refusal.remedy}.",
                actor=refusal.actor,
                retry=True,
            )
    return Diagnosis(
        reason=conditions.CREATE_REFUSED,
        message=f"The cluster refused {what}: {said}; it is tried again by itself.",
        actor=Actor.ADMINISTRATOR,
        retry=True,
    )


def plain_words(text: str) -> str:
    """Return the part of the cluster's words that stays the same from one try to the next."""
    # `pods "swahili-1-train-1-x7k2p" is forbidden: …`: the name is another one each time.
    said = re.sub(r"^.*? is forbidden: ", "", " ".join(text.split()))
    # What is used of a quota changes with every other pod of the namespace.
    said = re.sub(r", used: \S+?(?=, |$)", "", said)
    return said.rstrip(".")[:600]


def newest(events: Iterable[JobEvent]) -> list[JobEvent]:
    """Return the events, the newest first; what has no time comes last."""
    timed = [(one.time, one) for one in events if one.time is not None]
    in_order = [one for _, one in sorted(timed, key=lambda pair: pair[0], reverse=True)]
    return in_order + [one for one in events if one.time is None]
