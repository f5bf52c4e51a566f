"""What `spec.suspend` asks of a Job that exists. Pure.

A Job that this operator may suspend is suspended and marked; only a Job with the mark is resumed by it.
Where a queue or somebody else decides when a Job may run, `suspend` is theirs to write, and the run gives
its place back instead: the Job is deleted, and created again later to go on from the checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetune_api import wire
from finetune_operator.decide.values.actions import Delete, Patch, delete_job
from finetune_operator.decide.values.observation import HELD, ObservedJob
from finetune_operator.raw_object import RawObject


@dataclass(frozen=True)
class SuspendDecision:
    """What spec.suspend asks of a Job."""

    job: ObservedJob
    """The Job as it will be, so that the status need not be written twice."""
    patch: Patch | None = None
    delete: Delete | None = None


def is_held(body: RawObject) -> bool:
    """Return whether the resource wants its run suspended, however broken the rest of its spec is."""
    spec = body.get("spec")
    return isinstance(spec, Mapping) and spec.get("suspend") is True


def decide_hold(job: ObservedJob, *, body: RawObject) -> SuspendDecision:
    """Return what spec.suspend asks of this Job."""
    if not job.uid or job.finished or job.deleting:
        return SuspendDecision(job)
    if not is_held(body):
        return _resume(job) if job.suspended and job.held else SuspendDecision(job)
    if job.held and job.suspended:
        return SuspendDecision(job)
    if job.queue or job.suspended:
        return SuspendDecision(job, delete=delete_job(job, keeps_until_stopped=True))
    mark = {wire.ANNOTATION_HELD: HELD}
    return SuspendDecision(
        replace(job, suspended=True, held=True),
        patch=_patch(job, suspend=True, annotations=mark),
    )


def _resume(job: ObservedJob) -> SuspendDecision:
    return SuspendDecision(
        replace(job, suspended=False, held=False),
        patch=_patch(job, suspend=False, annotations={wire.ANNOTATION_HELD: None}),
    )


def _patch(job: ObservedJob, *, suspend: bool, annotations: Mapping[str, str | None]) -> Patch:
    return Patch(
        kind="Job",
        namespace=job.namespace,
        name=job.name,
        uid=job.uid,
        spec={"suspend": suspend},
        annotations=annotations,
    )
