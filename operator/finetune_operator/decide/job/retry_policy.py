"""Another attempt: which number it has, what memory it gets, and which ends of pods do not count.

The Job controller tries again by itself, with back-off, whatever another pod of the same Job may cure.
What it cannot do is give the next pod more memory, because a Job's template never changes: that takes
a Job of its own, attempt 2, once, and only as far as the administrator allows. Pure.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from finetune_api.quantity import UNITS, parse_quantity
from finetune_api.status import Attempt
from finetune_operator.decide.job.terminated_pod import Ended, diagnose_ended
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.observation import ObservedJob, ObservedPod

FIRST_ATTEMPT: Final = 1
WITH_MORE_MEMORY: Final = 2
"""The attempt that has more memory; there is no third of its kind."""
AT_DEADLINE: Final = 3
"""The attempt that trains no more and publishes what the run had at its deadline."""
CLOSING_TRIES: Final = 3
CLOSING_DEADLINE_S: Final = 3600
"""That attempt's own: it fetches model and text again, and the adapter of hours is at stake. Assumption."""
GROWTH: Final = 2
"""How much more. Assumption: a run that needs more than twice what it was given is reported, not guessed."""


def is_short_of_memory(
    job: ObservedJob, *, pods: Iterable[ObservedPod], attempts: Iterable[Attempt]
) -> bool:
    """Return whether a pod of this Job was killed for memory, seen now or reported before."""
    reported = any(
        one.job_name == job.name and one.reason == conditions.OOM_KILLED for one in attempts
    )
    return reported or any(
        diagnose_ended(Ended(pod=pod, job=job)).reason == conditions.OOM_KILLED
        for pod in pods
        if pod.ended
    )


def has_used_up_memory(attempts: Iterable[Attempt], *, first_job: str) -> bool:
    """Return whether the first attempt of the run was ended by its memory limit."""
    return any(
        one.job_name == first_job and one.reason == conditions.OOM_KILLED for one in attempts
    )


def raise_memory(limit: str, *, most: str) -> str | None:
    """Return the memory of the second attempt, or None where there is no more to give.

    Args:
        limit: Memory limit of the first attempt, a quantity; empty where it had none.
        most: The administrator's ceiling, a quantity; empty where nothing may be raised.
    """
    if not limit or not most:
        return None
    now, ceiling = parse_quantity(limit), parse_quantity(most)
    wanted = min(now * GROWTH, ceiling)
    return _format(wanted) if wanted > now else None


def excused_failures(job: ObservedJob, *, attempts: Iterable[Attempt]) -> int:
    """Return how many of the Job's failed pods were only stopped with it.

    A pod that was stopped before its trainer ran leaves no exit code, and the Job controller counts it.
    """
    stopped = [
        one
        for one in attempts
        if (one.job_name, one.reason) == (job.name, conditions.JOB_SUSPENDED)
    ]
    return min(job.failed, len(stopped))


def _format(size: Decimal) -> str:
    for unit in ("Gi", "Mi", "Ki"):
        if size % UNITS[unit] == 0:
            return f"{size / UNITS[unit]:f}{unit}"
    return f"{int(size)}"
