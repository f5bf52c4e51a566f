"""`spec.suspend`: what it asks of the Job that exists, and what is said where there is none.

A Job that this operator may suspend is suspended, and marked: only what it suspended itself does it
resume. Where a queue (or anybody else) decides when a Job may run, `suspend` is theirs to write, and the
run gives its place back instead: the Job is deleted, and made anew to go on from the checkpoint. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetune_api import wire
from finetune_operator.decide.job.checkpoint_status import describe_place, find_checkpoint, steps_of
from finetune_operator.decide.job.run_view import SUSPENDED
from finetune_operator.decide.plan.accept import ResolvedPlan
from finetune_operator.decide.status.build_status import PlanReport, find_condition
from finetune_operator.decide.steps.reconcile_state import ReconcileState
from finetune_operator.decide.steps.reporting import (
    ACCEPTED,
    build_report,
    delete_of,
    measured_report,
    measured_updates,
    plan_report,
    resolved_update,
    write,
)
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions, Delete, Patch
from finetune_operator.decide.values.conditions import ConditionUpdate
from finetune_operator.decide.values.observation import HELD, ObservedJob
from finetune_operator.raw_object import RawObject


@dataclass(frozen=True)
class SuspendDecision:
    """What spec.suspend asks of a Job."""

    job: ObservedJob
    """The Job as it will be, so that the status need not be written twice."""
    patch: Patch | None = None
    delete: Delete | None = None


def is_held(body: RawObject) -> bool:
    """Return whether the resource wants its run suspended, however broken the rest of its spec is."""
    spec = body.get("spec")
    return isinstance(spec, Mapping) and spec.get("suspend") is True


def decide_hold(job: ObservedJob, *, body: RawObject) -> SuspendDecision:
    """Return what spec.suspend asks of this Job."""
    if not job.uid or job.finished or job.deleting:
        return SuspendDecision(job)
    if not is_held(body):
        return _resume(job) if job.suspended and job.held else SuspendDecision(job)
    if job.held and job.suspended:
        return SuspendDecision(job)
    if job.queue or job.suspended:
        return SuspendDecision(job, delete=replace(delete_of(job), keeps_until_stopped=True))
    mark = {wire.ANNOTATION_HELD: HELD}
    return SuspendDecision(
        replace(job, suspended=True, held=True),
        patch=_patch(job, suspend=True, annotations=mark),
    )


def _resume(job: ObservedJob) -> SuspendDecision:
    return SuspendDecision(
        replace(job, suspended=False, held=False),
        patch=_patch(job, suspend=False, annotations={wire.ANNOTATION_HELD: None}),
    )


def _patch(job: ObservedJob, *, suspend: bool, annotations: Mapping[str, str | None]) -> Patch:
    return Patch(
        kind="Job",
        namespace=job.namespace,
        name=job.name,
        uid=job.uid,
        spec={"suspend": suspend},
        annotations=annotations,
    )


# --- Without a Job ----------------------------------------------------------------------------------


def hold_back(state: ReconcileState, *, proposal: ResolvedPlan) -> Actions:
    """Return that nothing is created while the resource is suspended."""
    updates, plan = keep_known_plan(state, proposal=proposal)
    message = _message(state)
    job = state.measured.job
    is_measuring = job is not None and not job.finished and not job.deleting
    report = build_report(
        state,
        phase=SUSPENDED,
        message=message,
        updates=(
            ACCEPTED,
            *updates,
            ConditionUpdate(conditions.RUNNING, "False", conditions.SUSPENDED_BY_SPEC, message),
            ConditionUpdate(conditions.SUSPENDED, "True", conditions.SUSPENDED_BY_SPEC, message),
        ),
        plan=plan,
    )
    return write(
        state,
        report=report,
        deletes=(delete_of(job),) if job is not None and is_measuring else (),
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


def _message(state: ReconcileState) -> str:
    before = state.before
    checkpoint = find_checkpoint(before, pods=(), run=state.run)
    if checkpoint is None:
        return "The run is suspended; set spec.suspend to false, and it begins."
    place = describe_place(checkpoint, total_steps=steps_of(before, run=state.run))
    return f"The run is suspended {place}; set spec.suspend to false, and it goes on there."
