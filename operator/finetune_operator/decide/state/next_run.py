"""The next run of a resource whose spec changed under `updatePolicy: Recreate`. Pure.

A run begins again only if a field that it was made from changed and the plan becomes another: neither an
upgrade of the rules nor another key discards hours of training. The number of the run is written first and
then counts, so that a crash between any two steps has the same result.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from finetune_api.resource import UpdatePolicy
from finetune_operator.decide.plan.accept import ResolvedPlan, SpecRefusal
from finetune_operator.decide.plan.build_plan import hash_spec
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.state.reporting import build_pending_report, write
from finetune_operator.decide.status.build_status import build_attempts
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions, delete_job
from finetune_operator.decide.values.observation import ObservedJob

NEXT_RUN_S: Final = 1.0
"""Seconds until the next reconcile after a run has ended: its own write is no event for the operator."""


def is_outdated(state: ReconcileState) -> bool:
    """Return whether the spec asks for another run than the current one."""
    declared, plan = state.observed.body.get("spec"), state.before.plan
    if not isinstance(declared, Mapping) or plan is None or not plan.spec_hash:
        return False
    # Evaluated for every resource: nothing is parsed for those with another policy.
    if declared.get("updatePolicy") != UpdatePolicy.RECREATE:
        return False
    admitted = state.admitted
    if isinstance(admitted, SpecRefusal) or plan.spec_hash == hash_spec(admitted.resource.spec):
        return False
    if state.measured.is_missing:
        # What it resolves to is not known before it is measured; should it be the same plan after
        # all, the next run finds the checkpoints of this one.
        return True
    resolved = state.resolve_plan()
    return isinstance(resolved, ResolvedPlan) and resolved.plan.hash != plan.hash


def begin_next_run(state: ReconcileState) -> Actions:
    """Return that the current run is over, and which of its Jobs must stop first."""
    return _next_run(state, run=state.run + 1)


def await_older_runs(state: ReconcileState) -> Actions | None:
    """Return that Jobs of older runs must stop first, or None if all have: never two pods at once."""
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
    report = build_pending_report(
        state,
        reason=conditions.RECREATING,
        message=message,
        waits_on=conditions.JOB_CREATED,
        attempts=tuple(
            attempt
            for job in older
            for attempt in build_attempts(state.pods_of(job), job=job, failed=conditions.RECREATING)
        ),
    )
    return write(
        state,
        report=replace(report, run=run, checkpoint=None, active=None),
        deletes=tuple(
            delete_job(job, keeps_until_stopped=True) for job in older if not job.deleting
        ),
        requeue_after_s=None if older else NEXT_RUN_S,
    )


def _unfinished(state: ReconcileState, *, run: int) -> tuple[ObservedJob, ...]:
    return tuple(job for job in state.training_jobs if job.run < run and not job.finished)
