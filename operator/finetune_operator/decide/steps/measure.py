"""Step: a Measure Job reads the text if a parameter depends on it. Pure.

The state of a Measure Job is that of any Job (`run_state`), reported of the measurement instead of the
run. Once there is a profile, the next steps go on to the plan. A measurement that was lost with its pod
is made again, a few times.
"""

from dataclasses import replace
from typing import Final

from finetune_api.measure_plan import MeasurePlan
from finetune_operator.decide.job.run_state import decide_run_state
from finetune_operator.decide.job.run_view import FAILED, SUSPENDED, RunState, RunView
from finetune_operator.decide.job.suspend_request import is_held
from finetune_operator.decide.manifests.job import build_objects
from finetune_operator.decide.manifests.pod_task import PodTask
from finetune_operator.decide.plan.accept import Admitted, SpecRefusal
from finetune_operator.decide.plan.measurement import next_attempt
from finetune_operator.decide.state.job_report import job_lookups
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.state.reporting import (
    ACCEPTED,
    CreateBlocked,
    build_pending_report,
    build_report,
    find_create_block,
    write,
)
from finetune_operator.decide.status.build_status import Report
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions, delete_job
from finetune_operator.decide.values.conditions import ConditionUpdate
from finetune_operator.decide.values.observation import ObservedJob

MEASURING: Final = "Measuring"
"""Phase of a resource whose text is measured."""
WHYS_TOLD: Final = 2
"""Needs whose sentence is shown; a third adds nothing for a reader."""
ORDINARY: Final = frozenset({conditions.POD_STARTING, conditions.TRAINING, conditions.FINISHED})
"""Reasons of a Measure Job without any trouble."""
AWAITING: Final = ConditionUpdate(
    conditions.RESOLVED,
    "False",
    conditions.AWAITING_MEASUREMENT,
    "The parameters wait for what is measured of the text.",
)
AGAIN_AFTER_S: Final = (60.0, 300.0)
"""From the end of a Job whose result was lost until the next one, for each that may follow. Assumption:
a node that went away is seen in the first minute, and what deletes pods on purpose is worth no fourth
Job. Each costs little: what the first one found is still cached in the bucket."""


def measure(state: ReconcileState) -> Actions | None:
    """Measure the text by a Job of its own if a parameter depends on it."""
    admitted, measured = state.admitted, state.measured
    if state.pinned_plan is not None or is_held(state.observed.body):
        return None
    if isinstance(admitted, SpecRefusal):
        return None
    if not measured.is_missing or measured.plan is None:
        return None
    if measured.job is None:
        return _begin(state, admitted=admitted, plan=measured.plan)
    run_state = _run_state(state, job=measured.job)
    if not _is_lost(state, job=measured.job, run_state=run_state):
        return _follow(state, job=measured.job, run_state=run_state)
    left = _seconds_until_again(state, job=measured.job)
    if left is None:
        return write(state, report=_report_given_up(state))
    if left > 0:
        report = _report_lost(state, job=measured.job)
        return write(state, report=report, requeue_after_s=left)
    return _begin(state, admitted=admitted, plan=measured.plan)


def _is_lost(state: ReconcileState, *, job: ObservedJob, run_state: RunState) -> bool:
    """Return whether a Job has measured, and its pod was gone before the operator read the result."""
    if run_state.phase != FAILED or run_state.failed_for != conditions.OUTCOME_MISSING:
        return False
    return not any(pod.ended for pod in state.pods_of(job))


def _seconds_until_again(state: ReconcileState, *, job: ObservedJob) -> float | None:
    """Return how long the next Job waits after this lost one, or None where none follows."""
    tries = len(state.measured.lost)
    if tries > len(AGAIN_AFTER_S):
        return None
    if job.complete is None or job.complete.time is None:
        return 0.0
    passed = (state.now - job.complete.time).total_seconds()
    return max(AGAIN_AFTER_S[tries - 1] - passed, 0.0)


def _begin(state: ReconcileState, *, admitted: Admitted, plan: MeasurePlan) -> Actions:
    """Create measure plan and Job, or say why the last try to do so failed."""
    block = find_create_block(state)
    if block is not None:
        return _report_blocked(state, block=block)
    objects = build_objects(
        admitted.resource,
        task=PodTask.to_measure(plan),
        attempt=next_attempt(state.measure_jobs),
        context=state.context,
    )
    job = objects.observed
    followed = _follow(state, job=job, run_state=_run_state(state, job=job))
    return replace(followed, creates=(objects.config_map, objects.job))


def _report_blocked(state: ReconcileState, *, block: CreateBlocked) -> Actions:
    report = _report_waiting(state, reason=block.reason, message=block.message, phase=block.phase)
    return write(state, report=report, requeue_after_s=block.retry_s)


def _run_state(state: ReconcileState, *, job: ObservedJob) -> RunState:
    return decide_run_state(
        RunView(
            job=job,
            pods=state.pods_of(job),
            events=state.observed.job_events or (),
            now=state.now,
            context=state.context,
        )
    )


def _follow(state: ReconcileState, *, job: ObservedJob, run_state: RunState) -> Actions:
    return write(
        state,
        report=_report(state, job=job, run_state=run_state),
        deletes=(delete_job(job),) if run_state.delete_job else (),
        requeue_after_s=run_state.requeue_after_s,
        lookups=job_lookups(state, run_state=run_state),
    )


# --- What is said of it -----------------------------------------------------------------------------


def _report(state: ReconcileState, *, job: ObservedJob, run_state: RunState) -> Report:
    if run_state.phase != FAILED:
        return _report_under_way(state, job=job, run_state=run_state)
    message = run_state.message
    if run_state.failed_for == conditions.DEADLINE_EXCEEDED:
        message = _measured_too_long(job)
    updates = tuple(
        replace(update, message=message)
        for update in run_state.updates
        if update.type != conditions.RUNNING
    )
    return _report_failed(state, message=message, updates=updates)


def _measured_too_long(job: ObservedJob) -> str:
    return (
        f"Job {job.name} did not measure the text within {job.deadline_s} seconds. Declare the traits in "
        "spec.languages[].traits so that nothing has to be measured, split the text, or have more time: "
        "raise spec.activeDeadlineSeconds where it is lower, or ask the administrator to raise "
        "FINETUNE_MEASURE_DEADLINE_S (chart value trainer.measure.deadlineSeconds). Then delete the resource and "
        "apply it again."
    )


def _report_failed(
    state: ReconcileState, *, message: str, updates: tuple[ConditionUpdate, ...]
) -> Report:
    failed = "The text could not be measured."
    return build_report(
        state,
        phase=FAILED,
        message=message,
        updates=(
            ACCEPTED,
            ConditionUpdate(conditions.CORPUS_MEASURED, "False", conditions.FINISHED, failed),
            AWAITING,
            *updates,
        ),
    )


def _report_under_way(state: ReconcileState, *, job: ObservedJob, run_state: RunState) -> Report:
    reason = next(
        update.reason for update in run_state.updates if update.type == conditions.RUNNING
    )
    message = run_state.message
    if reason in ORDINARY:
        # One sentence for all that is ordinary, so that the status of a new resource is written once.
        needs = state.measured.needs[:WHYS_TOLD]
        whys = " ".join(f"{need.why[:1].upper()}{need.why[1:]}" for need in needs)
        is_again = any(one.name != job.name for one in state.measured.lost)
        again = " again, because what was measured before is lost" if is_again else ""
        message = f"Job {job.name} measures the text{again}. {whys}"
        reason = conditions.MEASURING
    phase = SUSPENDED if run_state.phase == SUSPENDED else MEASURING
    return _report_waiting(state, reason=reason, message=message, phase=phase)


def _report_waiting(
    state: ReconcileState, *, reason: str, message: str, phase: str = MEASURING
) -> Report:
    return build_pending_report(
        state,
        reason=reason,
        message=message,
        updates=(AWAITING,),
        phase=phase,
        waits_on=conditions.CORPUS_MEASURED,
    )


def _report_lost(state: ReconcileState, *, job: ObservedJob) -> Report:
    tries = len(state.measured.lost)
    message = (
        f"Job {job.name} is complete and its pod is gone, so what it measured is lost; the text is measured "
        f"again {AGAIN_AFTER_S[tries - 1]:.0f} seconds after its end ({tries} of {len(AGAIN_AFTER_S)} times)."
    )
    return _report_waiting(state, reason=conditions.OUTCOME_MISSING, message=message)


def _report_given_up(state: ReconcileState) -> Report:
    """Return that the text is not measured again, and what to look for."""
    lost = ", ".join(job.name for job in state.measured.lost)
    message = (
        f"Each of the Jobs {lost} measured the text, and each time its pod was gone before the result was "
        "read: pods must stay for a minute after their end. Find what deletes them (a policy, a script, "
        "nodes that are removed), then delete the resource and apply it again."
    )
    updates = tuple(
        ConditionUpdate(kind, "True", conditions.OUTCOME_MISSING, message)
        for kind in (conditions.FAILED, conditions.STALLED)
    )
    return _report_failed(state, message=message, updates=updates)
