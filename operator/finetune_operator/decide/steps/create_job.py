"""Step: the plan's ConfigMap and the training Job are created, or status says why they were refused. Pure."""

from finetune_operator.decide.job.checkpoint_status import decide_grace, find_checkpoint
from finetune_operator.decide.manifests.job import build_run
from finetune_operator.decide.state.job_report import create_job_of
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.state.reporting import (
    build_pending_report,
    find_create_block,
    measured_updates,
    plan_report,
    resolved_update,
    write,
)
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions


def create_job(state: ReconcileState) -> Actions:
    """Create the Job, or say why the last attempt to create it failed."""
    plan, block = state.require_plan(), find_create_block(state)
    if block is None:
        checkpoint = find_checkpoint(state.before, pods=state.training_pods, run=state.run)
        objects = build_run(
            plan.resource,
            plan=plan.plan,
            attempt=state.next_attempt,
            context=state.context,
            grace_s=decide_grace(checkpoint),
        )
        return create_job_of(state, objects=objects)
    report = build_pending_report(
        state,
        reason=block.reason,
        message=block.message,
        updates=(*measured_updates(state), resolved_update(plan)),
        phase=block.phase,
        waits_on=conditions.JOB_CREATED,
        plan=plan_report(state, proposal=plan),
    )
    return write(state, report=report, requeue_after_s=block.retry_s)
