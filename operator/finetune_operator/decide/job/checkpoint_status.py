"""What of a run is safe: its newest checkpoint, and what a kill without notice would cost now.

Pods tell of their checkpoints twice: through the progress push while they run, and in the outcome that
they leave. `decide` shows the newest in status and, as an annotation, on the Job, where a scheduler or
a person who looks for a victim reads it without knowing this operator. Pure.
"""

from collections.abc import Iterable
from typing import Final

from finetune_api import wire
from finetune_api.status import CheckpointStatus, LanguageFinetuneStatus
from finetune_operator.decide.job.terminated_pod import read_outcome
from finetune_operator.decide.values.actions import Patch
from finetune_operator.decide.values.observation import ObservedJob, ObservedPod

NEVER: Final = "never"
"""The annotation of a run that has no checkpoint yet."""
LONGEST_GRACE_S: Final = 3600
"""More is not asked for: drains of managed clusters wait no longer than an hour for a pod."""


def find_checkpoint(
    before: LanguageFinetuneStatus, *, pods: Iterable[ObservedPod], run: int
) -> CheckpointStatus | None:
    """Return the newest checkpoint of run number `run`: shown, pushed, or left by a pod that ended."""
    reported = [_left(pod) for pod in pods]
    if before.run == run:
        reported.append(before.checkpoint)
    if before.progress is not None and before.progress.run == run:
        reported.append(before.progress.checkpoint)
    known = [one for one in reported if one is not None]
    newest = max(known, key=lambda one: (one.step, one.time), default=None)
    if newest is None:
        return None
    # A pod that has only resumed knows the checkpoint and has measured nothing yet.
    measured = (one.grace_seconds for one in known if one.grace_seconds is not None)
    return newest.model_copy(update={"grace_seconds": max(measured, default=None)})


def decide_grace(checkpoint: CheckpointStatus | None) -> int | None:
    """Return the grace period in seconds that a run's next pods need, or None where it was not measured."""
    if checkpoint is None or checkpoint.grace_seconds is None:
        return None
    return min(checkpoint.grace_seconds, LONGEST_GRACE_S)


def decide_annotation(job: ObservedJob, *, checkpoint: CheckpointStatus | None) -> Patch | None:
    """Return the patch that makes the Job's annotation true, or None where it is.

    One write a checkpoint, with the right to patch Jobs that the operator has anyway: pods it may only
    read, and on the resource the annotation would be drift for users who keep that in Git.
    """
    wanted = checkpoint.time if checkpoint is not None else NEVER
    if not job.uid or job.finished or job.deleting or job.safe_to_preempt == wanted:
        return None
    return Patch(
        kind="Job",
        namespace=job.namespace,
        name=job.name,
        uid=job.uid,
        annotations={wire.ANNOTATION_SAFE_TO_PREEMPT: wanted},
    )


def steps_of(before: LanguageFinetuneStatus, *, run: int) -> int | None:
    """Return all steps of run number `run`, where they are known: by its pod's count before the plan's."""
    reported = before.progress
    if reported is not None and reported.run == run and reported.total_steps:
        return reported.total_steps
    return before.plan.total_steps if before.plan is not None else None


def describe_place(checkpoint: CheckpointStatus | None, *, total_steps: int | None) -> str:
    """Return where the run stands, as a part of a sentence."""
    if checkpoint is None:
        return "before its first checkpoint"
    of = f" of {total_steps:,}" if total_steps else ""
    return f"at step {checkpoint.step:,}{of}"


def _left(pod: ObservedPod) -> CheckpointStatus | None:
    outcome = read_outcome(pod)
    if outcome is None or outcome.checkpoint is None:
        return None
    saved = outcome.checkpoint
    return CheckpointStatus(
        step=saved.step,
        uri=saved.uri,
        time=saved.time,
        grace_seconds=outcome.grace_seconds_needed,
    )
