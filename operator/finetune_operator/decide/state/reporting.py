"""How a step answers: the report of the resource, and why something was not created.

Below the steps and above `status/`. All steps build their reports here, so that the same state always
gives the same status. Nothing here decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from finetune_api.outcome import Outcome
from finetune_api.status import ActiveTime, Attempt
from finetune_operator.decide.job.active_deadline import build_active_time
from finetune_operator.decide.job.checkpoint_status import find_checkpoint
from finetune_operator.decide.job.diagnosis import diagnose_refusal
from finetune_operator.decide.job.job_limits import deadline_of
from finetune_operator.decide.job.retry_policy import AT_DEADLINE
from finetune_operator.decide.job.run_view import PENDING, STALLED, SUSPENDED
from finetune_operator.decide.plan.accept import ResolvedPlan, SpecRefusal
from finetune_operator.decide.plan.build_plan import hash_spec
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.status.build_status import (
    PlanReport,
    Report,
    build_attempts,
    build_plan_status,
    build_status,
    changed_status,
    find_condition,
)
from finetune_operator.decide.status.events import build_events, build_warning_events
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions, Delete, Lookups, Patch
from finetune_operator.decide.values.conditions import ConditionUpdate
from finetune_operator.decide.values.observation import ObservedJob
from finetune_resolver.traits.from_profile import corpus_statuses

ACCEPTED: Final = ConditionUpdate(
    conditions.ACCEPTED, "True", conditions.VALID, "The resource is valid and allowed."
)
TEXT_LIMIT: Final = 1024
"""Characters of a text in status."""
CONFLICT_RETRY_S: Final = 300.0
"""A taken name is somebody else's to free; looking again costs one request."""
PREDECESSOR_RETRY_S: Final = 10.0
"""The garbage collector takes seconds, and the deletion of a Job is reported at once."""
REFUSED_RETRY_S: Final = 60.0
"""Quotas get room when other work ends, which this operator does not watch."""


@dataclass(frozen=True)
class CreateBlocked:
    """Why there is no Job yet although the resource is accepted."""

    reason: str
    message: str
    retry_s: float
    phase: str = PENDING
    """Stalled where it takes a person."""


def find_create_block(state: ReconcileState) -> CreateBlocked | None:
    """Return why the last try to create something failed, or None where nothing is in the way."""
    observed, namespace = state.observed, state.metadata.namespace
    if observed.predecessors:
        # As after a delete and an apply.
        message = (
            f"{', '.join(sorted(observed.predecessors))} is left of a deleted resource of this name; "
            "Kubernetes removes it, and then this run begins."
        )
        return CreateBlocked(conditions.PREDECESSOR_GOING, message, retry_s=PREDECESSOR_RETRY_S)
    if observed.name_conflicts:
        message = (
            f"{', '.join(sorted(observed.name_conflicts))} in namespace {namespace} belongs to "
            "something else and has the name that this run needs; delete it, or give this resource "
            "another name."
        )
        return CreateBlocked(
            conditions.NAME_CONFLICT, message, retry_s=CONFLICT_RETRY_S, phase=STALLED
        )
    if observed.rejected:
        rejection = observed.rejected[0]
        what = f"{rejection.kind} {rejection.name}"
        diagnosis = diagnose_refusal(rejection.message, what=what)
        return CreateBlocked(diagnosis.reason, diagnosis.message, retry_s=REFUSED_RETRY_S)
    return None


def resolved_update(proposal: ResolvedPlan) -> ConditionUpdate:
    """Return that every parameter has its value."""
    plan = proposal.plan
    overrides = sum(one.source == "Override" for one in proposal.parameters)
    message = (
        f"{len(proposal.parameters)} parameters are resolved by policy {plan.policy.value}, "
        f"{overrides} of them overridden; the plan is {plan.hash[:8]}."
    )
    return ConditionUpdate(conditions.RESOLVED, "True", conditions.RULES_APPLIED, message)


def plan_report(
    state: ReconcileState, *, proposal: ResolvedPlan, config_map: str = ""
) -> PlanReport:
    """Return the plan as status shows it; `config_map` holds it, where it is written down."""
    return replace(
        measured_report(state, max_seq_length=proposal.plan.training.max_seq_length),
        plan=build_plan_status(
            proposal.plan,
            spec_hash=hash_spec(proposal.resource.spec),
            config_map=config_map or _kept_config_map(state, plan_hash=proposal.plan.hash),
            total_steps=proposal.total_steps,
            estimated_seconds=proposal.forecast.seconds,
        ),
        parameters=proposal.parameters,
        warnings=proposal.warnings,
        memory=proposal.forecast.memory,
    )


def _kept_config_map(state: ReconcileState, *, plan_hash: str) -> str:
    """Return where the plan of a run that has begun is written down, also while its Job is gone."""
    before, plan = state.before, state.before.plan
    is_same = plan is not None and plan.hash == plan_hash and before.run == state.run
    return plan.config_map if plan is not None and is_same else ""


def refused_report(state: ReconcileState) -> PlanReport:
    """Return what stays known of a resource that may not run now: the plan of a run that has begun."""
    before = state.before
    has_begun = before.plan is not None and bool(before.plan.config_map)
    if has_begun and before.run == state.run:
        return PlanReport.remember(before)
    return measured_report(state)


def report_refusal(state: ReconcileState, *, refusal: SpecRefusal) -> Actions:
    """Return that nothing starts until the spec changes, and what to change."""
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


def measured_report(state: ReconcileState, *, max_seq_length: int | None = None) -> PlanReport:
    """Return what was measured as status shows it, cut at the resolved length where it is known."""
    measured = state.measured
    if measured.profile is None:
        return PlanReport()
    corpus = corpus_statuses(measured.profile, max_seq_length=max_seq_length)
    return PlanReport(corpus=tuple(corpus), measurement=measured.kept)


def measured_updates(state: ReconcileState) -> tuple[ConditionUpdate, ...]:
    """Return that the text is measured, where it is."""
    profile = state.measured.profile
    if profile is None:
        return ()
    examples = sum(one.examples for one in profile.languages)
    tokens = sum(one.tokens for one in profile.languages)
    message = f"{tokens:,} tokens were counted in {examples:,} examples before the training."
    return (ConditionUpdate(conditions.CORPUS_MEASURED, "True", conditions.MEASURED, message),)


def measure_attempts(state: ReconcileState) -> tuple[Attempt, ...]:
    """Return an attempt for each pod that has ended measuring."""
    return tuple(
        attempt
        for job in state.measure_jobs
        for attempt in build_attempts(
            (pod for pod in state.pods_of(job) if pod.ended), job=job, failed=""
        )
    )


def earlier_attempts(state: ReconcileState, *, job: ObservedJob) -> tuple[Attempt, ...]:
    """Return the attempts of the run's other Jobs, which stay where a deadline ended them."""
    others = (one for one in state.training_jobs if one.uid != job.uid)
    return tuple(
        attempt
        for one in others
        if one.run == state.run
        for attempt in build_attempts(state.pods_of(one), job=one, failed="")
    )


def build_report(
    state: ReconcileState,
    *,
    phase: str,
    message: str,
    updates: tuple[ConditionUpdate, ...],
    plan: PlanReport | None = None,
    attempts: tuple[Attempt, ...] = (),
    outcome: Outcome | None = None,
    active: ActiveTime | None = None,
) -> Report:
    """Return what is known now of the resource."""
    return Report(
        generation=state.metadata.generation,
        run=state.run,
        phase=phase,
        message=message,
        updates=updates,
        languages_text=_languages_text(state),
        plan=plan or PlanReport(),
        attempts=(*measure_attempts(state), *attempts),
        outcome=outcome,
        active=active if active is not None else _kept_active_time(state),
        checkpoint=find_checkpoint(state.before, pods=state.training_pods, run=state.run),
    )


def build_pending_report(
    state: ReconcileState,
    *,
    reason: str,
    message: str,
    updates: tuple[ConditionUpdate, ...] = (),
    phase: str = PENDING,
    waits_on: str = conditions.RUNNING,
    plan: PlanReport | None = None,
    attempts: tuple[Attempt, ...] = (),
    active: ActiveTime | None = None,
) -> Report:
    """Return the report of a resource that waits for something.

    Args:
        state: What is known of the resource.
        reason: Why it waits.
        message: The same as a sentence.
        updates: Conditions that are known already, without Accepted.
        phase: Pending, or a more exact word. Stalled and Suspended replace the condition Reconciling.
        waits_on: The condition that is False meanwhile.
        plan: What is known of the plan.
        attempts: Attempts of the run.
        active: How long the run was active.
    """
    kind = {STALLED: conditions.STALLED, SUSPENDED: conditions.SUSPENDED}.get(
        phase, conditions.RECONCILING
    )
    return build_report(
        state,
        phase=phase,
        message=message,
        updates=(
            ACCEPTED,
            *updates,
            ConditionUpdate(waits_on, "False", reason, message),
            ConditionUpdate(kind, "True", reason, message),
        ),
        plan=plan,
        attempts=attempts,
        active=active,
    )


def current_active_time(state: ReconcileState, *, job: ObservedJob) -> ActiveTime | None:
    """Return how long the run was active until now, where there is a deadline."""
    before = state.before.active_time if state.before.run == state.run else None
    if before is None and deadline_of(state.observed.body) is None:
        return None
    if job.attempt == AT_DEADLINE:
        return before  # it has a limit of its own
    return build_active_time(before, job=job, now=state.now)


def _kept_active_time(state: ReconcileState) -> ActiveTime | None:
    before = state.before
    return before.active_time if before.run == state.run else None


def _languages_text(state: ReconcileState) -> str:
    """Return the tags as the spec names them, also where the rest of it cannot be read."""
    spec = state.observed.body.get("spec")
    languages = spec.get("languages") if isinstance(spec, Mapping) else None
    entries = languages if isinstance(languages, list) else []
    tags = [one["tag"] for one in entries if isinstance(one, Mapping) and "tag" in one]
    return ",".join(tag for tag in tags if isinstance(tag, str))[:TEXT_LIMIT]


def write(
    state: ReconcileState,
    *,
    report: Report,
    progress: dict[str, Any] | None = None,
    patches: tuple[Patch, ...] = (),
    deletes: tuple[Delete, ...] = (),
    requeue_after_s: float | None = None,
    lookups: Lookups | None = None,
) -> Actions:
    """Return the actions that say so: the status where it changed, and the events of the change."""
    before = state.before
    after = build_status(report, before=before, now=state.now)
    return Actions(
        progress=progress,
        patches=patches,
        deletes=deletes,
        status=changed_status(after, raw=state.observed.body.get("status")),
        events=(
            *build_events(before.conditions, after=after.conditions),
            *build_warning_events(before.warnings, after=after.warnings),
        ),
        requeue_after_s=requeue_after_s,
        lookups=lookups,
    )


def keep_known_plan(
    state: ReconcileState, *, proposal: ResolvedPlan | None
) -> tuple[tuple[ConditionUpdate, ...], PlanReport]:
    """Return what stays true of the run: its Job was created, and its fields stay frozen.

    Without a `proposal` the run has a Job, whatever status says of it.
    """
    before = state.before
    created = find_condition(before.conditions, conditions.JOB_CREATED)
    if proposal is None or (created is not None and created.status == "True"):
        kept = (
            find_condition(before.conditions, one)
            for one in (conditions.CORPUS_MEASURED, conditions.RESOLVED, conditions.JOB_CREATED)
        )
        return (
            tuple(
                ConditionUpdate(one.type, "True", one.reason, one.message)
                for one in kept
                if one is not None and one.status == "True"
            ),
            PlanReport.remember(before),
        )
    if state.measured.is_missing:
        waits = "The parameters wait for what is measured of the text."
        update = ConditionUpdate(
            conditions.RESOLVED, "False", conditions.AWAITING_MEASUREMENT, waits
        )
        return (update,), measured_report(state)
    return (
        (*measured_updates(state), resolved_update(proposal)),
        plan_report(state, proposal=proposal),
    )
