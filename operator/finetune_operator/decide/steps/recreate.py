"""`updatePolicy: Recreate`: a changed spec ends the run that it was changed from, and begins the next.

Asked of a run that goes on and of one that has ended. It is begun anew only where a field that the run
was made from changed and the plan that follows is another: neither an upgrade of the rules nor a changed
key takes hours of training away. The number of the run is written first and then counts, so that a crash
between any two steps ends the same way. Pure.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from finetune_api.resource import UpdatePolicy
from finetune_operator.decide.job.run_view import PENDING
from finetune_operator.decide.plan.accept import ResolvedPlan, SpecRefusal
from finetune_operator.decide.plan.build_plan import hash_spec
from finetune_operator.decide.status.build_status import build_attempts
from finetune_operator.decide.steps.reconcile_state import ReconcileState
from finetune_operator.decide.steps.reporting import ACCEPTED, build_report, delete_of, write
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions, Delete
from finetune_operator.decide.values.conditions import ConditionUpdate
from finetune_operator.decide.values.observation import ObservedJob

NEXT_RUN_S: Final = 1.0
"""Until the next look after a run has ended: its own write is no news to the operator."""


def is_outdated(state: ReconcileState) -> bool:
    """Return whether the spec asks for another run than the one of now."""
    declared, plan = state.observed.body.get("spec"), state.before.plan
    if not isinstance(declared, Mapping) or plan is None or not plan.spec_hash:
        return False
    # Asked of every resource: nothing is parsed for those that never begin anew.
    if declared.get("updatePolicy") != UpdatePolicy.RECREATE:
        return False
    admitted = state.admitted
    if isinstance(admitted, SpecRefusal) or plan.spec_hash == hash_spec(admitted.resource.spec):
        return False
    if state.measured.is_missing:
        # What it resolves to is not known before it is measured; should it be the same plan after
        # all, the next run finds the checkpoints of this one.
        return True
    proposal = state.proposal
    return isinstance(proposal, ResolvedPlan) and proposal.plan.hash != plan.hash


def begin_next_run(state: ReconcileState) -> Actions:
    """Return that the run of now is over, and what of it must stop first."""
    return _next_run(state, run=state.run + 1)


def await_older_runs(state: ReconcileState) -> Actions | None:
    """Return that an older run must stop first, or None where none is left: never two pods at once."""
    if not _unfinished(state, run=state.run):
        return None
    return _next_run(state, run=state.run)


def _next_run(state: ReconcileState, *, run: int) -> Actions:
    older = _unfinished(state, run=run)
    stopping = ", ".join(job.name for job in older)
    message = (
        f"The spec resolves to another plan: {stopping} saves a checkpoint and stops, then run {run} begins."
        if older
        else f"The spec resolves to another plan: run {run} begins."
    )
    report = build_report(
        state,
        phase=PENDING,
        message=message,
        updates=(
            ACCEPTED,
            ConditionUpdate(conditions.JOB_CREATED, "False", conditions.RECREATING, message),
            ConditionUpdate(conditions.RECONCILING, "True", conditions.RECREATING, message),
        ),
        attempts=tuple(
            attempt
            for job in older
            for attempt in build_attempts(state.pods_of(job), job=job, failed=conditions.RECREATING)
        ),
    )
    return write(
        state,
        report=replace(report, run=run, checkpoint=None, active=None),
        deletes=tuple(_stop(job) for job in older if not job.deleting),
        requeue_after_s=None if older else NEXT_RUN_S,
    )


def _unfinished(state: ReconcileState, *, run: int) -> tuple[ObservedJob, ...]:
    return tuple(job for job in state.training_jobs if job.run < run and not job.finished)


def _stop(job: ObservedJob) -> Delete:
    return replace(delete_of(job), keeps_until_stopped=True)
