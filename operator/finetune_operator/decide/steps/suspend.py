"""Step: `spec.suspend` of a resource without a Job. Nothing is created while it is set. Pure."""

from finetune_operator.decide.job.checkpoint_status import describe_place, find_checkpoint, steps_of
from finetune_operator.decide.job.run_view import SUSPENDED
from finetune_operator.decide.job.suspend_request import is_held
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.state.reporting import build_pending_report, keep_known_plan, write
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions, delete_job


def suspend(state: ReconcileState) -> Actions | None:
    """Create nothing while the resource is suspended, and stop its measurement."""
    if not is_held(state.observed.body):
        return None
    updates, plan = keep_known_plan(state, proposal=state.require_plan())
    message = _message(state)
    job = state.measured.job
    is_measuring = job is not None and not job.finished and not job.deleting
    report = build_pending_report(
        state,
        reason=conditions.SUSPENDED_BY_SPEC,
        message=message,
        updates=updates,
        phase=SUSPENDED,
        plan=plan,
    )
    return write(
        state,
        report=report,
        deletes=(delete_job(job),) if job is not None and is_measuring else (),
    )


def _message(state: ReconcileState) -> str:
    before = state.before
    checkpoint = find_checkpoint(before, pods=(), run=state.run)
    if checkpoint is None:
        return "The run is suspended; set spec.suspend to false, and it begins."
    place = describe_place(checkpoint, total_steps=steps_of(before, run=state.run))
    return f"The run is suspended {place}; set spec.suspend to false, and it goes on there."
