"""Where a run stands, by its Job and its pods: pending, running, suspended, complete or failed.

An ordered list of small functions, the end of a run before its middle before its beginning; the
first that applies has the answer. `decide` adds what comes before a Job and writes it all down. A
course never depends on the resource's spec, except for whether it holds the run: what runs is what
the Job says.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from finetune_api.held_out_gain import describe_gain, is_gain_clear
from finetune_api.outcome import PUBLISHED_AT_DEADLINE, Outcome, describe_cut
from finetune_operator.decide.job.diagnosis import (
    Actor,
    Diagnosis,
    diagnose_missing_pod,
    diagnose_refused_pod,
)
from finetune_operator.decide.job.pending_pod import (
    diagnose_waiting,
    is_pull_timed_out,
    seconds_to_recheck,
)
from finetune_operator.decide.job.retry_policy import AT_DEADLINE, CLOSING_DEADLINE_S
from finetune_operator.decide.job.run_view import (
    COMPLETE,
    FAILED,
    PENDING,
    RUNNING,
    RunState,
    RunView,
    end_of,
)
from finetune_operator.decide.job.suspended import decide_suspension
from finetune_operator.decide.job.terminated_pod import (
    Ended,
    diagnose_ended,
    diagnose_failed_job,
    exit_code,
    proved_outcome,
)
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.conditions import ConditionUpdate
from finetune_operator.decide.values.observation import ObservedCondition


def decide_run_state(run: RunView) -> RunState:
    """Return where the run stands."""
    for step in STEPS:
        run_state = step(run)
        if run_state is not None:
            return run_state
    return _without_pod(run)


def _seconds_left(run: RunView, *, since: datetime | None, limit_s: int) -> float:
    return limit_s - ((run.now - since).total_seconds() if since is not None else 0.0)


# --- The end --------------------------------------------------------------------------------------


def _succeeded(run: RunView) -> RunState | None:
    proofs = (proved_outcome(pod, job=run.job) for pod in run.ended)
    outcome = next((one for one in proofs if one is not None), None)
    if outcome is None or outcome.published is None:
        return None
    message = _published(outcome, where=outcome.published.uri)
    measured = ConditionUpdate(
        conditions.CORPUS_MEASURED,
        "True",
        conditions.MEASURED,
        f"The trainer counted {sum(one.tokens for one in outcome.corpus):,} tokens in "
        f"{sum(one.examples for one in outcome.corpus):,} examples.",
    )
    return RunState(
        phase=COMPLETE,
        message=message,
        outcome=outcome,
        updates=(
            ConditionUpdate(
                conditions.RUNNING, "False", conditions.FINISHED, "The trainer has finished."
            ),
            *((measured,) if outcome.corpus else ()),
            ConditionUpdate(conditions.ADAPTER_UPLOADED, "True", conditions.PUBLISHED, message),
            ConditionUpdate(conditions.COMPLETE, "True", outcome_reason(outcome), message),
        ),
    )


def _published(outcome: Outcome, *, where: str) -> str:
    if outcome.published is not None and outcome.published.already_there:
        return f"The adapter of this plan was found finished at {where}; nothing was trained again."
    if outcome.summary is not None and outcome.summary.deadline_seconds is not None:
        return describe_cut(outcome.summary, uri=where) + _doubt(outcome)
    return f"The adapter is published at {where}.{_doubt(outcome)}"


def _doubt(outcome: Outcome) -> str:
    """Return what a person has to know of an adapter whose gain is small or not certain, else nothing."""
    result = outcome.evaluation
    if result is None:
        return ""
    base, adapter = result.base_bits_per_byte, result.adapter_bits_per_byte
    if is_gain_clear(base=base, adapter=adapter, examples=result.examples):
        return ""
    return f" {describe_gain(base=base, adapter=adapter, examples=result.examples)}"


def outcome_reason(outcome: Outcome) -> str:
    """Return the reason of Complete."""
    if outcome.published is not None and outcome.published.already_there:
        return "AlreadyDone"
    is_cut = outcome.summary is not None and outcome.summary.deadline_seconds is not None
    return PUBLISHED_AT_DEADLINE if is_cut else "Done"


def _ended_without_proof(run: RunView) -> RunState | None:
    pod = next((one for one in run.ended if exit_code(one) == 0), None)
    if pod is None:
        return None
    # A killed pod may hold exit code 0; the Job controller starts another, or gives up.
    diagnosis = diagnose_ended(Ended(pod=pod, job=run.job))
    if diagnosis.reason != conditions.OUTCOME_MISSING:
        return None
    return _fail(diagnosis)


def _given_up(run: RunView) -> RunState | None:
    failure = run.job.failure
    if failure is None:
        return None
    if failure.reason != conditions.DEADLINE_EXCEEDED:
        held = _hold_for_pods(run, end=failure)
        if held is not None:
            return held
    diagnosis = diagnose_failed_job(
        run.job, failure=failure, ended=run.ended, deadline_s=run.deadline_s
    )
    return _fail(_not_published(diagnosis) if run.job.attempt == AT_DEADLINE else diagnosis)


def _not_published(diagnosis: Diagnosis) -> Diagnosis:
    """Return why a run that reached its deadline ends without what it had by then."""
    if diagnosis.reason == conditions.DEADLINE_EXCEEDED:
        why = f"its best adapter was not published within {CLOSING_DEADLINE_S} seconds more."
    else:
        why = f"its best adapter could not be published: {diagnosis.message}"
    message = f"The run reached its deadline, and {why} Its checkpoints are kept."
    return replace(diagnosis, reason=conditions.DEADLINE_EXCEEDED, message=message)


def _complete_without_proof(run: RunView) -> RunState | None:
    complete = run.job.complete
    if complete is None:
        return None
    held = _hold_for_pods(run, end=complete)
    if held is not None:
        return held
    return _fail(
        Diagnosis(
            reason=conditions.OUTCOME_MISSING,
            message=(
                f"Job {run.job.name} is complete and its pod is gone, so nothing proves what was "
                "published; delete the resource and apply it again: a finished adapter is found "
                "and not trained again."
            ),
            actor=Actor.USER,
            retry=False,
        )
    )


def _hold_for_pods(run: RunView, *, end: ObservedCondition) -> RunState | None:
    """Return a course that waits while the pods of an ended Job may still be on their way here."""
    if run.ended and run.current is None:
        return None
    if end.time is None:
        return None
    left = _seconds_left(run, since=end.time, limit_s=run.context.outcome_grace_s)
    if left <= 0:
        return None
    message = f"Job {run.job.name} has ended; what its pod left is being read."
    return RunState(
        phase=RUNNING,
        message=message,
        updates=(
            ConditionUpdate(conditions.RUNNING, "False", conditions.FINISHED, message),
            ConditionUpdate(conditions.RECONCILING, "True", conditions.FINISHED, message),
        ),
        requeue_after_s=left,
    )


def _fail(diagnosis: Diagnosis, *, delete_job: bool = False) -> RunState:
    reason, message = diagnosis.reason, diagnosis.message
    return RunState(
        phase=FAILED,
        message=message,
        updates=(
            ConditionUpdate(
                conditions.RUNNING, "False", conditions.FINISHED, "No pod of the run is left."
            ),
            ConditionUpdate(conditions.FAILED, "True", reason, message),
            # kstatus, and so Flux, knows a failure by this one.
            ConditionUpdate(conditions.STALLED, "True", reason, message),
        ),
        delete_job=delete_job,
    )


def _image_never_came(run: RunView) -> RunState | None:
    pod = run.current
    if pod is None or not is_pull_timed_out(run.waiting(pod)):
        return None
    failing = diagnose_waiting(run.waiting(pod))
    minutes = run.context.image_pull_timeout_s // 60
    is_one = run.job.gpus == "1"
    freed = f"; the {'GPU is' if is_one else 'GPUs are'} free again" if run.job.gpus else ""
    message = f"{failing.message} It was tried for {minutes} minutes{freed}."
    return _fail(
        Diagnosis(
            reason=conditions.IMAGE_PULL_FAILED, message=message, actor=failing.actor, retry=False
        ),
        delete_job=True,
    )


# --- The middle -----------------------------------------------------------------------------------


def _short_of_memory(run: RunView) -> RunState | None:
    if run.more_memory is None:
        return None
    message = (
        f"The trainer of Job {run.job.name} needed more than its {run.job.memory_limit} of main memory and "
        f"was killed; it is tried once more with {run.more_memory}, from its last checkpoint. Set "
        "spec.resources.limits.memory to that, if it suffices."
    )
    return replace(_pending(conditions.RETRYING_WITH_MORE_MEMORY, message), replaces_job=True)


def _vanishing(run: RunView) -> RunState | None:
    if not run.job.deleting:
        return None
    message = f"Job {run.job.name} is being deleted; once it is gone it is created again."
    return _pending(conditions.JOB_DELETED, message)


def _training(run: RunView) -> RunState | None:
    pod = run.current
    if pod is None or pod.deleting or pod.trainer is None or pod.trainer.state != "running":
        return None
    doing = "publishes the best adapter until the run's deadline"
    message = f"Pod {pod.name} {doing if run.job.attempt == AT_DEADLINE else 'trains'} on node {pod.node}."
    return RunState(
        phase=RUNNING,
        message=message,
        updates=(ConditionUpdate(conditions.RUNNING, "True", conditions.TRAINING, message),),
    )


# --- The beginning --------------------------------------------------------------------------------


def _with_waiting_pod(run: RunView) -> RunState | None:
    pod = run.current
    if pod is None:
        return None
    waiting = run.waiting(pod)
    diagnosis = diagnose_waiting(waiting)
    return _pending(
        diagnosis.reason,
        diagnosis.message,
        requeue_after_s=seconds_to_recheck(waiting),
        needs_job_events=diagnosis.needs_events,
    )


def _between_pods(run: RunView) -> RunState | None:
    if not run.ended:
        return None
    refused = diagnose_refused_pod(run.job, events=run.events)
    last = diagnose_ended(Ended(pod=run.ended[-1], job=run.job))
    reported = last.message if last.actor is Actor.NONE else f"{last.message} Another pod follows."
    # The Job controller waits longer before each pod; a refusal stands in its events alone.
    left = _seconds_left(run, since=end_of(run.ended[-1]), limit_s=run.context.pod_missing_after_s)
    return _pending(
        refused.reason if refused else last.reason,
        refused.message if refused else reported,
        requeue_after_s=left if left > 0 else float(run.context.pod_stuck_after_s),
        needs_job_events=left <= 0,
    )


def _without_pod(run: RunView) -> RunState:
    diagnosis = diagnose_missing_pod(run.job, events=run.events, now=run.now, context=run.context)
    since = run.job.start or (None if run.job.is_stopped else run.job.created)
    left = _seconds_left(run, since=since, limit_s=run.context.pod_missing_after_s)
    return _pending(
        diagnosis.reason,
        diagnosis.message,
        requeue_after_s=left if left > 0 else float(run.context.pod_stuck_after_s),
        needs_job_events=diagnosis.needs_events,
    )


def _pending(
    reason: str,
    message: str,
    *,
    requeue_after_s: float | None = None,
    needs_job_events: bool = False,
) -> RunState:
    return RunState(
        phase=PENDING,
        message=message,
        updates=(
            ConditionUpdate(conditions.RUNNING, "False", reason, message),
            ConditionUpdate(conditions.RECONCILING, "True", reason, message),
        ),
        requeue_after_s=requeue_after_s,
        needs_job_events=needs_job_events,
    )


STEPS: Final[tuple[Callable[[RunView], RunState | None], ...]] = (
    _succeeded,  # proof beats everything that came after it
    _ended_without_proof,  # exit code 0 is not enough
    _given_up,  # the Job controller starts no further pod
    _complete_without_proof,  # it says done, and no pod tells what
    _short_of_memory,  # the same pod again would meet the same end
    decide_suspension,  # its spec, a queue or somebody holds it
    _vanishing,  # somebody deletes the Job
    _training,  # the trainer runs
    _image_never_came,  # waiting longer is useless and holds a GPU
    _with_waiting_pod,  # it does not run yet
    _between_pods,  # one ended, the next is not there yet
)
