"""What of a Job follows the spec after it was created: how often, how long, and how long it stays.

`frozen` holds every other field fast once the Job exists; these three may change, and a change that
looked accepted and did nothing would be a lie. `decide` asks, `apply` patches. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final

from finetune_api.resource import LanguageFinetuneSpec
from finetune_operator.actions import Patch
from finetune_operator.observation import ObservedJob, RawObject

RETRIES: Final = "backoffLimit"
DEADLINE: Final = "activeDeadlineSeconds"
TTL: Final = "ttlSecondsAfterFinished"
DEFAULT_RETRIES: Final[int] = LanguageFinetuneSpec.model_fields["backoff_limit"].default


def decide_patches(body: RawObject, *, job: ObservedJob) -> tuple[Patch, ...]:
    """Return the patch that brings the Job's limits to what the spec says now, where they differ."""
    if not job.uid or job.deleting:
        return ()
    spec = body.get("spec")
    wanted: dict[str, int | None] = {TTL: _whole(spec, TTL)}
    shown: dict[str, int | None] = {TTL: job.ttl_s}
    if not job.finished:
        retries = _whole(spec, RETRIES)
        wanted |= {
            RETRIES: DEFAULT_RETRIES if retries is None else retries,
            DEADLINE: _whole(spec, DEADLINE),
        }
        shown |= {RETRIES: job.backoff_limit, DEADLINE: job.deadline_s}
    changed = {name: value for name, value in wanted.items() if value != shown[name]}
    if not changed:
        return ()
    return (Patch(kind="Job", namespace=job.namespace, name=job.name, uid=job.uid, spec=changed),)


def _whole(spec: Any, name: str) -> int | None:
    """Return a whole number of the spec; what the API server would never have let in counts as unset."""
    value = spec.get(name) if isinstance(spec, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
