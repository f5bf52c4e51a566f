"""The report of a training Job that exists or is about to be created, and what it asks for. Pure.

Used by every step that has such a Job, so that a Job is reported in the same way however it came about.
"""

from dataclasses import replace
from typing import Any

from finetune_api.outcome import Outcome
from finetune_operator.decide.job.checkpoint_status import (
    decide_annotation,
    find_checkpoint,
    steps_of,
)
from finetune_operator.decide.job.job_limits import BudgetUsed, deadline_of, decide_patches
from finetune_operator.decide.job.retry_policy import (
    AT_DEADLINE,
    WITH_MORE_MEMORY,
    excused_failures,
)
from finetune_operator.decide.job.run_state import decide_run_state
from finetune_operator.decide.job.run_view import RunState, RunView
from finetune_operator.decide.job.suspend_request import SuspendDecision, decide_hold, is_held
from finetune_operator.decide.manifests.job import RunObjects
from finetune_operator.decide.plan.accept import ResolvedPlan, SpecRefusal
from finetune_operator.decide.plan.pinned_plan import warn_of_another_plan
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.state.reporting import (
    ACCEPTED,
    build_report,
    current_active_time,
    earlier_attempts,
    measured_updates,
    plan_report,
    resolved_update,
    write,
)
from finetune_operator.decide.status.build_status import (
    PlanReport,
    Report,
    build_attempts,
    build_last_progress,
    find_condition,
)
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import (
    Actions,
    Delete,
    Lookups,
    Patch,
    delete_job,
    merge_patches,
)
from finetune_operator.decide.values.conditions import ConditionUpdate
from finetune_operator.decide.values.observation import ObservedJob, ObservedPod


def create_job_of(state: ReconcileState, *, objects: RunObjects) -> Actions:
    """Return the creation of a plan and its Job, with the status that the created Job will give."""
    followed = report_job(state, job=objects.observed, is_new=True)
    return replace(followed, creates=(objects.config_map, objects.job))


def report_job(state: ReconcileState, *, job: ObservedJob, is_new: bool = False) -> Actions:
    """Return the status of a Job and its pods, and the changes that the spec asks of the Job."""
    hold = decide_hold(job, body=state.observed.body)
    pods = state.pods_of(job)
    run_state = _run_state(state, job=hold.job, pods=pods)
    resolved, plan = _obeyed_plan(state, job=job)
    counted = tuple(
        update for update in run_state.updates if update.type == conditions.CORPUS_MEASURED
    )
    report = build_report(
        state,
        phase=run_state.phase,
        message=run_state.message,
        updates=(
            ACCEPTED,
            *(() if counted else _known_measured(state, plan=plan)),
            resolved,
            _created(state, job=job, is_new=is_new),
            *run_state.updates,
        ),
        plan=plan,
        attempts=(
            *earlier_attempts(state, job=job),
            *build_attempts(pods, job=hold.job, failed=run_state.failed_for),
        ),
        outcome=run_state.outcome,
        active=current_active_time(state, job=hold.job),
    )
    delete = _delete(run_state, job=job, hold=hold)
    return write(
        state,
        report=report,
        progress=_last_progress(state, outcome=run_state.outcome),
        patches=_patches(state, job=job, hold=hold, report=report),
        deletes=(delete,) if delete is not None else (),
        requeue_after_s=run_state.requeue_after_s,
        lookups=job_lookups(state, run_state=run_state),
    )


def job_lookups(state: ReconcileState, *, run_state: RunState) -> Lookups | None:
    """Return the request for the Job's events, if they are needed and were not fetched."""
    is_wanted = run_state.needs_job_events and state.observed.job_events is None
    return Lookups(job_events=True) if is_wanted else None


def _run_state(
    state: ReconcileState, *, job: ObservedJob, pods: tuple[ObservedPod, ...]
) -> RunState:
    before, body = state.before, state.observed.body
    return decide_run_state(
        RunView(
            job=job,
            pods=pods,
            events=state.observed.job_events or (),
            now=state.now,
            context=state.context,
            is_held=is_held(body),
            more_memory=state.more_memory,
            deadline_s=deadline_of(body),
            has_run_before=any(one.job_name == job.name for one in before.attempts),
            checkpoint=find_checkpoint(before, pods=pods, run=state.run),
            total_steps=steps_of(before, run=state.run),
        )
    )


def _delete(run_state: RunState, *, job: ObservedJob, hold: SuspendDecision) -> Delete | None:
    if run_state.delete_job:
        return delete_job(job)
    if run_state.replaces_job and not job.deleting:
        return delete_job(job, keeps_until_stopped=True)
    return hold.delete


def _patches(
    state: ReconcileState,
    *,
    job: ObservedJob,
    hold: SuspendDecision,
    report: Report,
) -> tuple[Patch, ...]:
    annotation = decide_annotation(job, checkpoint=report.checkpoint)
    attempts = (*state.before.attempts, *report.attempts)
    used = BudgetUsed(active=report.active, excused=excused_failures(job, attempts=attempts))
    limits = decide_patches(state.observed.body, job=job, used=used)
    patches = (hold.patch, annotation, *limits)
    return merge_patches(one for one in patches if one is not None)


def _obeyed_plan(state: ReconcileState, *, job: ObservedJob) -> tuple[ConditionUpdate, PlanReport]:
    """Return the plan that the Job obeys, which is not always what the spec resolves to now."""
    before = state.before
    settled = _settled(state, job=job)
    if settled is not None:
        return settled, PlanReport.remember(before)
    proposal = state.resolve_plan()
    if isinstance(proposal, ResolvedPlan) and proposal.plan.hash == job.plan_hash:
        report = plan_report(state, proposal=proposal, config_map=job.plan_config_map)
        lost = warn_of_another_plan(state.before, run=state.run, plan=proposal.plan)
        return resolved_update(proposal), replace(report, warnings=(*report.warnings, *lost))
    message = f"Job {job.name} keeps the plan it began with, {job.plan_hash[:8]}"
    if isinstance(proposal, ResolvedPlan) and state.measured.is_missing:
        message += "; its reasons were lost with the status, and nothing is measured beside a run."
    else:
        message += f", although the spec {_resolves_to(proposal)}."
    is_known = before.plan is not None and before.plan.hash == job.plan_hash
    kept = PlanReport.remember(before) if is_known else PlanReport()
    return ConditionUpdate(conditions.RESOLVED, "True", conditions.PLAN_KEPT, message), kept


def _resolves_to(proposal: ResolvedPlan | SpecRefusal) -> str:
    other = "create another resource to train by the new one"
    if isinstance(proposal, SpecRefusal):
        return f"is refused now ({proposal.message.rstrip('.')}); {other}"
    return f"resolves to plan {proposal.plan.hash[:8]} now; {other}"


def _settled(state: ReconcileState, *, job: ObservedJob) -> ConditionUpdate | None:
    """Return what was said of the plan before, where nothing has changed since.

    Resolving costs more than all the rest, and a run keeps its reasons when the operator is upgraded.
    """
    before = state.before
    if before.plan is None or before.plan.hash != job.plan_hash or not before.parameters:
        return None
    if before.observed_generation != state.metadata.generation:
        return None
    said = find_condition(before.conditions, conditions.RESOLVED)
    if said is None or said.status != "True":
        return None
    return ConditionUpdate(conditions.RESOLVED, "True", said.reason, said.message)


def _known_measured(state: ReconcileState, *, plan: PlanReport) -> tuple[ConditionUpdate, ...]:
    """Return that the text was measured before the training, as it was said or is known."""
    said = find_condition(state.before.conditions, conditions.CORPUS_MEASURED)
    if said is not None and said.status == "True":
        return (ConditionUpdate(conditions.CORPUS_MEASURED, "True", said.reason, said.message),)
    return measured_updates(state) if plan.measurement is not None else ()


def _created(state: ReconcileState, *, job: ObservedJob, is_new: bool) -> ConditionUpdate:
    earlier = find_condition(state.before.conditions, conditions.JOB_CREATED)
    if job.attempt == WITH_MORE_MEMORY:
        message = f"Job {job.name} is created, with more memory than the attempt before it."
        return ConditionUpdate(conditions.JOB_CREATED, "True", conditions.CREATED, message)
    if job.attempt == AT_DEADLINE:
        message = f"Job {job.name} is created to publish the best adapter until the run's deadline."
        return ConditionUpdate(conditions.JOB_CREATED, "True", conditions.CREATED, message)
    is_again = is_new and earlier is not None and earlier.status == "True"
    was_suspended = find_condition(state.before.conditions, conditions.SUSPENDED) is not None
    said = earlier.reason if earlier is not None else ""
    if said == conditions.RESUMED or (is_again and was_suspended):
        message = f"Job {job.name} was created again to go on after the suspension."
        return ConditionUpdate(conditions.JOB_CREATED, "True", conditions.RESUMED, message)
    if said == conditions.RECREATED or is_again:
        message = f"Job {job.name} had gone before the run's end and was created again."
        return ConditionUpdate(conditions.JOB_CREATED, "True", conditions.RECREATED, message)
    return ConditionUpdate(
        conditions.JOB_CREATED, "True", conditions.CREATED, f"Job {job.name} is created."
    )


def _last_progress(state: ReconcileState, *, outcome: Outcome | None) -> dict[str, Any] | None:
    """Return the progress of a finished run, unless it is shown: the last report may get lost."""
    if outcome is None:
        return None
    shown = state.before.progress
    after = build_last_progress(shown, outcome=outcome, run=state.run, now=state.now)
    return after.model_dump(by_alias=True, exclude_none=True, mode="json") if after else None
