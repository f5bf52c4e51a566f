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
from finetune_operator.decide.job.job_limits import Used, deadline_of, decide_patches
from finetune_operator.decide.job.retry_policy import (
    AT_DEADLINE,
    WITH_MORE_MEMORY,
    excused_failures,
)
from finetune_operator.decide.job.run_state import decide_course
from finetune_operator.decide.job.run_view import STALLED, Course, Run
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
from finetune_operator.decide.steps.reconcile_state import Situation
from finetune_operator.decide.steps.recreate import await_older_runs, begin_next_run, is_outdated
from finetune_operator.decide.steps.reporting import (
    ACCEPTED,
    Why,
    build_report,
    current_active_time,
    delete_of,
    earlier_attempts,
    measured_claims,
    plan_report,
    refused_report,
    resolved_claim,
    why_not_created,
    write,
)
from finetune_operator.decide.steps.suspend import Hold, decide_hold, hold_back, is_held
from finetune_operator.decide.values import conditions as words
from finetune_operator.decide.values.actions import Actions, Delete, Patch, merge_patches
from finetune_operator.decide.values.conditions import Claim, is_terminal
from finetune_operator.decide.values.observation import Observed, ObservedJob, ObservedPod
from finetune_operator.decide.values.operator_config import DecisionContext


def decide(observed: Observed, *, now: datetime, context: DecisionContext) -> Actions:
    """Return everything to do for one resource now."""
    try:
        metadata = ObjectMeta.model_validate(observed.body.get("metadata"))
    except ValidationError:
        return Actions()  # nothing can be written about what has no name
    situation = Situation(observed=observed, metadata=metadata, now=now, context=context)
    for step in STEPS:
        actions = step(situation)
        if actions is not None:
            return actions
    actions = _prepare(situation)
    # A spec that changed while its text was measured has no more use for that measurement.
    stale = tuple(delete_of(job) for job in situation.measured.stale)
    return replace(actions, deletes=(*actions.deletes, *stale))


def _leave_alone(situation: Situation) -> Actions | None:
    """Do nothing about what goes or was never stored; owner references take the Job along."""
    metadata = situation.metadata
    return Actions() if metadata.deletion_timestamp or not metadata.uid else None


def _keep_end(situation: Situation) -> Actions | None:
    """Never begin a run again that has ended: not after TTL, restart, relabelling or a lost Job."""
    before, generation = situation.before, situation.metadata.generation
    if not is_terminal(before.conditions):
        return None
    is_changed = before.observed_generation != generation
    if is_changed and ended_before_training(situation):
        return None  # nothing was trained yet: the changed spec decides anew
    if is_outdated(situation):
        return begin_next_run(situation)
    status = None
    if is_changed:
        kept = with_generation(before, generation=generation)
        status = changed_status(kept, raw=situation.observed.body.get("status"))
    failed = find_condition(before.conditions, words.FAILED)
    job = situation.job
    # The operator may have died between that status and this delete.
    unused = failed is not None and failed.reason == words.IMAGE_PULL_FAILED
    is_held = job is not None and not job.finished and not job.deleting
    deletes: tuple[Delete, ...] = ()
    if job is not None and unused and is_held:
        deletes = (delete_of(job),)
    pods = situation.observed.pods
    beside = (*situation.measure_jobs, *situation.probe_jobs)
    needless = (one for one in beside if is_at_work(one, pods=pods))
    deletes += tuple(delete_of(one) for one in needless)
    patches = decide_patches(situation.observed.body, job=job) if job is not None else ()
    return Actions(status=status, patches=() if deletes else patches, deletes=deletes)


def _follow_job(situation: Situation) -> Actions | None:
    """Follow the Job that exists, whatever the spec says by now."""
    job = situation.job
    if job is None:
        return None
    if not job.finished and is_outdated(situation):
        return begin_next_run(situation)
    closing = decide_closing(situation)
    if isinstance(closing, RunObjects):
        return _create(situation, objects=closing)
    return closing or _follow(situation, job=job)


STEPS: Final[tuple[Callable[[Situation], Actions | None], ...]] = (
    _leave_alone,  # deleted: the garbage collector does the rest
    _keep_end,  # ended: no second Job, ever
    await_older_runs,  # another run comes: the one before it stops first
    _follow_job,  # begun: the Job is the truth, not the spec
)


def _prepare(situation: Situation) -> Actions:
    """Go from an accepted resource to its training Job: measure, resolve, create."""
    admitted = situation.admitted
    if isinstance(admitted, SpecRefusal):
        return _refuse(situation, refusal=admitted)
    kept = plan_to_keep(situation, resource=admitted.resource)
    if kept is not None and is_outdated(situation):
        return begin_next_run(situation)
    begun = find_begun(situation, resource=admitted.resource)
    actions = _go_on_or_begin(situation, admitted=admitted, begun=begun)
    # While the run is suspended nothing is made of it.
    asks = situation.observed.begun_plan is None and not is_held(situation.observed.body)
    return replace(actions, needs_begun_plan=kept.config_map) if kept and asks else actions


def _go_on_or_begin(
    situation: Situation, *, admitted: Admitted, begun: ResolvedPlan | None
) -> Actions:
    """Go on with the plan that the run has `begun` with, or find one first."""
    is_suspended = is_held(situation.observed.body)
    if begun is None and not is_suspended:
        measurement = decide_measurement(situation, admitted=admitted)
        if measurement is not None:
            return measurement
    proposal = begun or situation.proposal
    if isinstance(proposal, SpecRefusal):
        return _refuse(situation, refusal=proposal)
    if is_suspended:
        return hold_back(situation, proposal=proposal)
    return (
        end_plan(situation, proposal=proposal)
        or await_strays(situation, proposal=proposal)
        or decide_probe(situation, proposal=proposal)
        or _begin(situation, proposal=proposal)
    )


def _refuse(situation: Situation, *, refusal: SpecRefusal) -> Actions:
    """Say what must be changed before anything can start; a change of the spec wakes it up."""
    refused = Claim(words.ACCEPTED, "False", refusal.reason, refusal.message)
    claims: tuple[Claim, ...] = (refused,)
    if refusal.is_of_measurement:
        refused = replace(refused, type=words.RESOLVED)
        claims = (ACCEPTED, *measured_claims(situation), refused)
    report = build_report(
        situation,
        phase=STALLED,
        message=refusal.message,
        claims=(*claims, replace(refused, type=words.STALLED, status="True")),
        plan=refused_report(situation),
    )
    return write(situation, report=report)


def _begin(situation: Situation, *, proposal: ResolvedPlan) -> Actions:
    """Create plan and Job, or say why the last try to do so failed."""
    why = why_not_created(situation)
    if why is not None:
        return _not_created(situation, proposal=proposal, why=why)
    objects = build_run(
        proposal.resource,
        plan=proposal.plan,
        attempt=situation.next_attempt,
        context=situation.context,
        grace_s=decide_grace(
            find_checkpoint(situation.before, pods=situation.training_pods, run=situation.run)
        ),
    )
    return _create(situation, objects=objects)


def _create(situation: Situation, *, objects: RunObjects) -> Actions:
    # The status is the one that the created Job will give, so that it need not be written twice.
    followed = _follow(situation, job=ObservedJob.from_object(objects.job), is_new=True)
    return replace(followed, creates=(objects.config_map, objects.job))


def _not_created(situation: Situation, *, proposal: ResolvedPlan, why: Why) -> Actions:
    state = words.STALLED if why.phase == STALLED else words.RECONCILING
    report = build_report(
        situation,
        phase=why.phase,
        message=why.message,
        claims=(
            ACCEPTED,
            *measured_claims(situation),
            resolved_claim(proposal),
            Claim(words.JOB_CREATED, "False", why.reason, why.message),
            Claim(state, "True", why.reason, why.message),
        ),
        plan=plan_report(situation, proposal=proposal),
    )
    return write(situation, report=report, requeue_after_s=why.retry_s)


def _follow(situation: Situation, *, job: ObservedJob, is_new: bool = False) -> Actions:
    hold = decide_hold(job, body=situation.observed.body)
    pods = situation.pods_of(job)
    course = _course(situation, job=hold.job, pods=pods)
    resolved, plan = _obeyed_plan(situation, job=job)
    counted = tuple(claim for claim in course.claims if claim.type == words.CORPUS_MEASURED)
    report = build_report(
        situation,
        phase=course.phase,
        message=course.message,
        claims=(
            ACCEPTED,
            *(() if counted else _known_measured(situation, plan=plan)),
            resolved,
            _created(situation, job=job, is_new=is_new),
            *course.claims,
        ),
        plan=plan,
        attempts=(
            *earlier_attempts(situation, job=job),
            *build_attempts(pods, job=hold.job, failed=course.failed_for),
        ),
        outcome=course.outcome,
        active=current_active_time(situation, job=hold.job),
    )
    delete = _delete(course, job=job, hold=hold)
    return write(
        situation,
        report=report,
        progress=_last_progress(situation, outcome=course.outcome),
        patches=_patches(situation, job=job, hold=hold, report=report),
        deletes=(delete,) if delete is not None else (),
        requeue_after_s=course.requeue_after_s,
        needs_job_events=course.needs_job_events,
    )


def _course(situation: Situation, *, job: ObservedJob, pods: tuple[ObservedPod, ...]) -> Course:
    before, body = situation.before, situation.observed.body
    return decide_course(
        Run(
            job=job,
            pods=pods,
            events=situation.observed.job_events,
            now=situation.now,
            context=situation.context,
            is_held=is_held(body),
            more_memory=situation.more_memory,
            deadline_s=deadline_of(body),
            has_run_before=any(one.job_name == job.name for one in before.attempts),
            checkpoint=find_checkpoint(before, pods=pods, run=situation.run),
            total_steps=steps_of(before, run=situation.run),
        )
    )


def _delete(course: Course, *, job: ObservedJob, hold: Hold) -> Delete | None:
    if course.delete_job:
        return delete_of(job)
    if course.replaces_job and not job.deleting:
        return replace(delete_of(job), keeps_until_stopped=True)
    return hold.delete


def _patches(
    situation: Situation,
    *,
    job: ObservedJob,
    hold: Hold,
    report: Report,
) -> tuple[Patch, ...]:
    annotation = decide_annotation(job, checkpoint=report.checkpoint)
    attempts = (*situation.before.attempts, *report.attempts)
    used = Used(active=report.active, excused=excused_failures(job, attempts=attempts))
    limits = decide_patches(situation.observed.body, job=job, used=used)
    patches = (hold.patch, annotation, *limits)
    return merge_patches(one for one in patches if one is not None)


# --- What the steps say ---------------------------------------------------------------------------


def _obeyed_plan(situation: Situation, *, job: ObservedJob) -> tuple[Claim, PlanReport]:
    """Return the plan that the Job obeys, which is not always what the spec resolves to now."""
    before = situation.before
    settled = _settled(situation, job=job)
    if settled is not None:
        return settled, PlanReport.remember(before)
    proposal = situation.proposal
    if isinstance(proposal, ResolvedPlan) and proposal.plan.hash == job.plan_hash:
        report = plan_report(situation, proposal=proposal, config_map=job.plan_config_map)
        lost = warn_of_another_plan(situation, plan=proposal.plan)
        return resolved_claim(proposal), replace(report, warnings=(*report.warnings, *lost))
    message = f"Job {job.name} keeps the plan it began with, {job.plan_hash[:8]}"
    if isinstance(proposal, ResolvedPlan) and situation.measured.is_missing:
        message += "; its reasons were lost with the status, and nothing is measured beside a run."
    else:
        message += f", although the spec {_resolves_to(proposal)}."
    is_known = before.plan is not None and before.plan.hash == job.plan_hash
    kept = PlanReport.remember(before) if is_known else PlanReport()
    return Claim(words.RESOLVED, "True", words.PLAN_KEPT, message), kept


def _resolves_to(proposal: ResolvedPlan | SpecRefusal) -> str:
    other = "create another resource to train by the new one"
    if isinstance(proposal, SpecRefusal):
        return f"is refused now ({proposal.message.rstrip('.')}); {other}"
    return f"resolves to plan {proposal.plan.hash[:8]} now; {other}"


def _settled(situation: Situation, *, job: ObservedJob) -> Claim | None:
    """Return what was said of the plan before, where nothing has changed since.

    Resolving costs more than all the rest, and a run keeps its reasons when the operator is upgraded.
    """
    before = situation.before
    if before.plan is None or before.plan.hash != job.plan_hash or not before.parameters:
        return None
    if before.observed_generation != situation.metadata.generation:
        return None
    said = find_condition(before.conditions, words.RESOLVED)
    if said is None or said.status != "True":
        return None
    return Claim(words.RESOLVED, "True", said.reason, said.message)


def _known_measured(situation: Situation, *, plan: PlanReport) -> tuple[Claim, ...]:
    """Return that the text was measured before the training, as it was said or is known."""
    said = find_condition(situation.before.conditions, words.CORPUS_MEASURED)
    if said is not None and said.status == "True":
        return (Claim(words.CORPUS_MEASURED, "True", said.reason, said.message),)
    return measured_claims(situation) if plan.measurement is not None else ()


def _created(situation: Situation, *, job: ObservedJob, is_new: bool) -> Claim:
    earlier = find_condition(situation.before.conditions, words.JOB_CREATED)
    if job.attempt == WITH_MORE_MEMORY:
        message = f"Job {job.name} is created, with more memory than the attempt before it."
        return Claim(words.JOB_CREATED, "True", words.CREATED, message)
    if job.attempt == AT_DEADLINE:
        message = f"Job {job.name} is created to publish the best adapter until the run's deadline."
        return Claim(words.JOB_CREATED, "True", words.CREATED, message)
    is_again = is_new and earlier is not None and earlier.status == "True"
    was_suspended = find_condition(situation.before.conditions, words.SUSPENDED) is not None
    said = earlier.reason if earlier is not None else ""
    if said == words.RESUMED or (is_again and was_suspended):
        message = f"Job {job.name} was created again to go on after the suspension."
        return Claim(words.JOB_CREATED, "True", words.RESUMED, message)
    if said == words.RECREATED or is_again:
        message = f"Job {job.name} had gone before the run's end and was created again."
        return Claim(words.JOB_CREATED, "True", words.RECREATED, message)
    return Claim(words.JOB_CREATED, "True", words.CREATED, f"Job {job.name} is created.")


def _last_progress(situation: Situation, *, outcome: Outcome | None) -> dict[str, Any] | None:
    """Return the progress of a finished run, unless it is shown: the last report may get lost."""
    if outcome is None:
        return None
    shown = situation.before.progress
    after = build_last_progress(shown, outcome=outcome, run=situation.run, now=situation.now)
    return after.model_dump(by_alias=True, exclude_none=True, mode="json") if after else None
