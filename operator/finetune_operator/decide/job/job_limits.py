"""What of a Job follows the spec after it was created: how often, how long, and how long it stays.

`frozen` holds every other field fast once the Job exists; these three may change, and a change that
looked accepted and did nothing would be a lie. `decide` asks, `apply` patches. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from finetune_api.resource import LanguageFinetuneSpec
from finetune_api.status import ActiveTime
from finetune_operator.decide.job.active_deadline import seconds_left
from finetune_operator.decide.job.retry_policy import AT_DEADLINE
from finetune_operator.decide.values.actions import Patch
from finetune_operator.decide.values.observation import ObservedJob
from finetune_operator.raw_object import RawObject

RETRIES: Final = "backoffLimit"
DEADLINE: Final = "activeDeadlineSeconds"
TTL: Final = "ttlSecondsAfterFinished"
DEFAULT_RETRIES: Final[int] = LanguageFinetuneSpec.model_fields["backoff_limit"].default


@dataclass(frozen=True)
class BudgetUsed:
    """What of the limits is used up, or does not count."""

    active: ActiveTime | None = None
    excused: int = 0
    """Failed pods that count as no attempt, though the Job controller counts them."""


def decide_patches(
    body: RawObject, *, job: ObservedJob, used: BudgetUsed | None = None
) -> tuple[Patch, ...]:
    """Return the patch that brings the Job's limits to what the spec says now, where they differ."""
    used = used or BudgetUsed()
    if not job.uid or job.deleting:
        return ()
    spec = body.get("spec")
    wanted: dict[str, int | None] = {TTL: _whole(spec, TTL)}
    shown: dict[str, int | None] = {TTL: job.ttl_s}
    # A Job that publishes at the deadline has limits of its own.
    if not job.finished and job.attempt != AT_DEADLINE:
        retries, deadline_s = _whole(spec, RETRIES), _whole(spec, DEADLINE)
        whole = DEFAULT_RETRIES if retries is None else retries
        wanted |= {
            RETRIES: retries_left(whole, attempt=job.attempt) + used.excused,
            DEADLINE: seconds_left(deadline_s, active=used.active) if deadline_s else deadline_s,
        }
        shown |= {RETRIES: job.backoff_limit, DEADLINE: job.deadline_s}
    changed = {name: value for name, value in wanted.items() if value != shown[name]}
    if not changed:
        return ()
    return (Patch(kind="Job", namespace=job.namespace, name=job.name, uid=job.uid, spec=changed),)


def retries_left(backoff_limit: int, *, attempt: int) -> int:
    """Return how often the Job of this attempt may be tried again; each Job before it was one try."""
    return max(backoff_limit - max(attempt - 1, 0), 0)


def deadline_of(body: RawObject) -> int | None:
    """Return spec.activeDeadlineSeconds, however broken the rest of the spec is."""
    return _whole(body.get("spec"), DEADLINE)


def _whole(spec: Any, name: str) -> int | None:
    """Return a whole number of the spec; what the API server would never have let in counts as unset."""
    value = spec.get(name) if isinstance(spec, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
