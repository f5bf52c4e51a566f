"""Decide: the whole behaviour of the operator as one pure function.

Between the shell that gathers and the shell that applies. `decide` is total: it answers for every
resource, however old or broken, and the same for a new one, after a restart and after a failure. The
steps are a list; the first that has an answer has the last word. Nothing here reads a cluster, a
clock or a setting that was not passed in.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from finetune_api.outcome import Outcome
from finetune_api.resource import ObjectMeta
from finetune_operator.decide.job.checkpoint_status import (
    decide_annotation,
    decide_grace,
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
from finetune_operator.decide.job.run_view import STALLED, RunState, RunView
from finetune_operator.decide.manifests.job import RunObjects, build_run
from finetune_operator.decide.plan.accept import Admitted, ResolvedPlan, SpecRefusal
from finetune_operator.decide.plan.measurement import is_at_work
from finetune_operator.decide.status.build_status import (
    PlanReport,
    Report,
    build_attempts,
    build_last_progress,
    changed_status,
    find_condition,
    with_generation,
)
from finetune_operator.decide.steps.check_published import decide_probe
from finetune_operator.decide.steps.measure import decide_measurement
from finetune_operator.decide.steps.orphaned_pods import await_strays
from finetune_operator.decide.steps.pinned_plan import (
    find_begun,
    plan_to_keep,
    warn_of_another_plan,
)
from finetune_operator.decide.steps.plan_mode import end_plan, ended_before_training
from finetune_operator.decide.steps.publish_at_deadline import decide_closing
from finetune_operator.decide.steps.reconcile_state import ReconcileState
from finetune_operator.decide.steps.recreate import await_older_runs, begin_next_run, is_outdated
from finetune_operator.decide.steps.reporting import (
    ACCEPTED,
    CreateBlocked,
    build_report,
    current_active_time,
    delete_of,
    earlier_attempts,
    find_create_block,
    measured_updates,
    plan_report,
    refused_report,
    resolved_update,
    write,
)
from finetune_operator.decide.steps.suspend import SuspendDecision, decide_hold, hold_back, is_held
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions, Delete, Patch, merge_patches
from finetune_operator.decide.values.conditions import ConditionUpdate, is_terminal
from finetune_operator.decide.values.observation import Observed, ObservedJob, ObservedPod
from finetune_operator.decide.values.operator_config import DecisionContext


def decide(observed: Observed, *, now: datetime, context: DecisionContext) -> Actions:
    """Return everything to do for one resource now."""
    try:
        metadata = ObjectMeta.model_validate(observed.body.get("metadata"))
    except ValidationError:
        return Actions()  # nothing can be written about what has no name
    state = ReconcileState(observed=observed, metadata=metadata, now=now, context=context)
    for step in STEPS:
        actions = step(state)
        if actions is not None:
            return actions
    actions = _prepare(state)
    # A spec that changed while its text was measured has no more use for that measurement.
    stale = tuple(delete_of(job) for job in state.measured.stale)
    return replace(actions, deletes=(*actions.deletes, *stale))


def _leave_alone(state: ReconcileState) -> Actions | None:
    """Do nothing about what goes or was never stored; owner references take the Job along."""
    metadata = state.metadata
    return Actions() if metadata.deletion_timestamp or not metadata.uid else None


def _keep_end(state: ReconcileState) -> Actions | None:
    """Never begin a run again that has ended: not after TTL, restart, relabelling or a lost Job."""
    before, generation = state.before, state.metadata.generation
    if not is_terminal(before.conditions):
        return None
    is_changed = before.observed_generation != generation
    if is_changed and ended_before_training(state):
        return None  # nothing was trained yet: the changed spec decides anew
    if is_outdated(state):
        return begin_next_run(state)
    status = None
    if is_changed:
        kept = with_generation(before, generation=generation)
        status = changed_status(kept, raw=state.observed.body.get("status"))
    failed = find_condition(before.conditions, conditions.FAILED)
    job = state.job
    # The operator may have died between that status and this delete.
    unused = failed is not None and failed.reason == conditions.IMAGE_PULL_FAILED
    is_held = job is not None and not job.finished and not job.deleting
    deletes: tuple[Delete, ...] = ()
    if job is not None and unused and is_held:
        deletes = (delete_of(job),)
    pods = state.observed.pods
    beside = (*state.measure_jobs, *state.probe_jobs)
    needless = (one for one in beside if is_at_work(one, pods=pods))
    deletes += tuple(delete_of(one) for one in needless)
    patches = decide_patches(state.observed.body, job=job) if job is not None else ()
    return Actions(status=status, patches=() if deletes else patches, deletes=deletes)


def _follow_job(state: ReconcileState) -> Actions | None:
    """Follow the Job that exists, whatever the spec says by now."""
    job = state.job
    if job is None:
        return None
    if not job.finished and is_outdated(state):
        return begin_next_run(state)
    closing = decide_closing(state)
    if isinstance(closing, RunObjects):
        return _create(state, objects=closing)
    return closing or _follow(state, job=job)


STEPS: Final[tuple[Callable[[ReconcileState], Actions | None], ...]] = (
    _leave_alone,  # deleted: the garbage collector does the rest
    _keep_end,  # ended: no second Job, ever
    await_older_runs,  # another run comes: the one before it stops first
    _follow_job,  # begun: the Job is the truth, not the spec
)


def _prepare(state: ReconcileState) -> Actions:
    """Go from an accepted resource to its training Job: measure, resolve, create."""
    admitted = state.admitted
    if isinstance(admitted, SpecRefusal):
        return _refuse(state, refusal=admitted)
    kept = plan_to_keep(state, resource=admitted.resource)
    if kept is not None and is_outdated(state):
        return begin_next_run(state)
    begun = find_begun(state, resource=admitted.resource)
    actions = _go_on_or_begin(state, admitted=admitted, begun=begun)
    # While the run is suspended nothing is made of it.
    asks = state.observed.begun_plan is None and not is_held(state.observed.body)
    return replace(actions, needs_begun_plan=kept.config_map) if kept and asks else actions


def _go_on_or_begin(
    state: ReconcileState, *, admitted: Admitted, begun: ResolvedPlan | None
) -> Actions:
    """Go on with the plan that the run has `begun` with, or find one first."""
    is_suspended = is_held(state.observed.body)
    if begun is None and not is_suspended:
        measurement = decide_measurement(state, admitted=admitted)
        if measurement is not None:
            return measurement
    proposal = begun or state.proposal
    if isinstance(proposal, SpecRefusal):
        return _refuse(state, refusal=proposal)
    if is_suspended:
        return hold_back(state, proposal=proposal)
    return (
        end_plan(state, proposal=proposal)
        or await_strays(state, proposal=proposal)
        or decide_probe(state, proposal=proposal)
        or _begin(state, proposal=proposal)
    )


def _refuse(state: ReconcileState, *, refusal: SpecRefusal) -> Actions:
    """Say what must be changed before anything can start; a change of the spec wakes it up."""
    refused = ConditionUpdate(conditions.ACCEPTED, "False", refusal.reason, refusal.message)
    updates: tuple[ConditionUpdate, ...] = (refused,)
    if refusal.is_of_measurement:
        refused = replace(refused, type=conditions.RESOLVED)
        updates = (ACCEPTED, *measured_updates(state), refused)
    report = build_report(
        state,
        phase=STALLED,
        message=refusal.message,
        updates=(*updates, replace(refused, type=conditions.STALLED, status="True")),
        plan=refused_report(state),
    )
    return write(state, report=report)


def _begin(state: ReconcileState, *, proposal: ResolvedPlan) -> Actions:
    """Create plan and Job, or say why the last try to do so failed."""
    why = find_create_block(state)
    if why is not None:
        return _not_created(state, proposal=proposal, why=why)
    objects = build_run(
        proposal.resource,
        plan=proposal.plan,
        attempt=state.next_attempt,
        context=state.context,
        grace_s=decide_grace(
            find_checkpoint(state.before, pods=state.training_pods, run=state.run)
        ),
    )
    return _create(state, objects=objects)


def _create(state: ReconcileState, *, objects: RunObjects) -> Actions:
    # The status is the one that the created Job will give, so that it need not be written twice.
    followed = _follow(state, job=ObservedJob.from_object(objects.job), is_new=True)
    return replace(followed, creates=(objects.config_map, objects.job))


def _not_created(state: ReconcileState, *, proposal: ResolvedPlan, why: CreateBlocked) -> Actions:
    kind = conditions.STALLED if why.phase == STALLED else conditions.RECONCILING
    report = build_report(
        state,
        phase=why.phase,
        message=why.message,
        updates=(
            ACCEPTED,
            *measured_updates(state),
            resolved_update(proposal),
            ConditionUpdate(conditions.JOB_CREATED, "False", why.reason, why.message),
            ConditionUpdate(kind, "True", why.reason, why.message),
        ),
        plan=plan_report(state, proposal=proposal),
    )
    return write(state, report=report, requeue_after_s=why.retry_s)


def _follow(state: ReconcileState, *, job: ObservedJob, is_new: bool = False) -> Actions:
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
        needs_job_events=run_state.needs_job_events,
    )


def _run_state(
    state: ReconcileState, *, job: ObservedJob, pods: tuple[ObservedPod, ...]
) -> RunState:
    before, body = state.before, state.observed.body
    return decide_run_state(
        RunView(
            job=job,
            pods=pods,
            events=state.observed.job_events,
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
        return delete_of(job)
    if run_state.replaces_job and not job.deleting:
        return replace(delete_of(job), keeps_until_stopped=True)
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


# --- What the steps say ---------------------------------------------------------------------------


def _obeyed_plan(state: ReconcileState, *, job: ObservedJob) -> tuple[ConditionUpdate, PlanReport]:
    """Return the plan that the Job obeys, which is not always what the spec resolves to now."""
    before = state.before
    settled = _settled(state, job=job)
    if settled is not None:
        return settled, PlanReport.remember(before)
    proposal = state.proposal
    if isinstance(proposal, ResolvedPlan) and proposal.plan.hash == job.plan_hash:
        report = plan_report(state, proposal=proposal, config_map=job.plan_config_map)
        lost = warn_of_another_plan(state, plan=proposal.plan)
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
