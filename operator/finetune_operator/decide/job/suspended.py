"""Why a run does not go on although nothing is wrong: its spec, its queue or a person holds the Job.

A step of `course`. A suspended Job loses its pod, which is asked to stop, saves a checkpoint and ends
with exit code 75; the run counts as suspended once that pod is gone and its GPU free, not before.
"""

from finetune_operator.decide.job.checkpoint_status import describe_place
from finetune_operator.decide.job.run_view import SUSPENDED, SUSPENDING, RunState, RunView
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.conditions import ConditionUpdate
from finetune_operator.decide.values.observation import ObservedPod


def decide_suspension(run: RunView) -> RunState | None:
    """Return where a run stands that is held, or None where nothing holds it."""
    if not run.job.suspended and not run.is_held:
        return None
    if run.current is not None:
        return _stopping(run, pod=run.current)
    if run.is_held:
        return _suspended_by_spec(run)
    if run.job.queue:
        return _queued(run)
    message = (
        f"Job {run.job.name} was suspended by somebody else than this operator, which does not resume "
        "it; it goes on once its spec.suspend is false again."
    )
    return _suspended(conditions.JOB_SUSPENDED, message)


def _suspended_by_spec(run: RunView) -> RunState:
    is_one = run.job.gpus == "1"
    freed = f", and its {'GPU is' if is_one else 'GPUs are'} free" if run.job.gpus else ""
    place = describe_place(run.checkpoint, total_steps=run.total_steps)
    how = "begins again" if run.checkpoint is None else "goes on there"
    message = f"The run is suspended {place}{freed}; set spec.suspend to false, and it {how}."
    return _suspended(conditions.SUSPENDED_BY_SPEC, message)


def _suspended(reason: str, message: str) -> RunState:
    return RunState(
        phase=SUSPENDED,
        message=message,
        updates=(
            ConditionUpdate(conditions.RUNNING, "False", reason, message),
            ConditionUpdate(conditions.SUSPENDED, "True", reason, message),
        ),
    )


def _stopping(run: RunView, *, pod: ObservedPod) -> RunState:
    """Return the course while the pod saves what it has: the GPU is not free yet."""
    why = "its Job was suspended"
    if run.is_held:
        why = "spec.suspend is true"
    elif run.job.queue:
        why = f"queue {run.job.queue} takes the run's place back"
    message = f"Pod {pod.name} is stopped, because {why}; it saves a checkpoint first."
    return RunState(
        phase=SUSPENDING,
        message=message,
        updates=(
            ConditionUpdate(conditions.RUNNING, "False", conditions.SUSPENDING, message),
            ConditionUpdate(conditions.RECONCILING, "True", conditions.SUSPENDING, message),
        ),
    )


def _queued(run: RunView) -> RunState:
    queue, job = run.job.queue, run.job.name
    if not run.has_run:
        message = f"Job {job} waits in queue {queue} until it is admitted."
        return _suspended(conditions.QUEUED, message)
    place = describe_place(run.checkpoint, total_steps=run.total_steps)
    message = (
        f"Queue {queue} took the run's place back {place}; Job {job} waits to be admitted again and "
        f"{'goes on there' if run.checkpoint is not None else 'then begins again'}."
    )
    return _suspended(conditions.EVICTED_BY_QUEUE, message)
