"""Step: `mode: Plan` ends once everything is resolved, and trains nothing. Pure.

The end is final for this generation of the spec only: no training Job was made from the fields, so they
stay mutable, and `mode: Run` goes on from what is known.
"""

from finetune_api.resource import Mode
from finetune_api.status import short_duration
from finetune_operator.decide.job.run_view import COMPLETE
from finetune_operator.decide.plan.accept import ResolvedPlan
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.state.reporting import (
    ACCEPTED,
    build_report,
    measured_updates,
    plan_report,
    resolved_update,
    write,
)
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.conditions import ConditionUpdate

EARLIER_RUN = "kubectl finetune plan --tokens-per-second tells it by the speed of an earlier run"
"""How to get an estimate of time without a measured speed."""


def end_plan_mode(state: ReconcileState) -> Actions | None:
    """End with the plan as the result if `spec.mode` is Plan."""
    proposal = state.require_plan()
    if proposal.resource.spec.mode is not Mode.PLAN:
        return None
    message = _message(proposal)
    report = build_report(
        state,
        phase=COMPLETE,
        message=message,
        updates=(
            ACCEPTED,
            *measured_updates(state),
            resolved_update(proposal),
            ConditionUpdate(conditions.COMPLETE, "True", conditions.PLAN_READY, message),
        ),
        plan=plan_report(state, proposal=proposal),
    )
    return write(state, report=report)


def _message(proposal: ResolvedPlan) -> str:
    plan, steps = proposal.plan, proposal.total_steps
    batch = plan.whole_training.sequences_per_step
    said = [f"The plan is ready: {plan.method.value}"]
    if steps is not None:
        said.append(f"{steps:,} steps of {batch} sequences")
    memory, seconds = proposal.forecast.memory, proposal.forecast.seconds
    if memory is not None:
        of = "each GPU's" if plan.resources.gpus > 1 else "GPU"
        said.append(f"{memory.least} of {of} memory for one sequence of the full length")
        if memory.predicted != memory.least:
            said.append(f"about {memory.predicted} as the trainer will fill it")
    if seconds is not None:
        said.append(f"about {short_duration(seconds)} of training")
    unknown = proposal.forecast.seconds_unknown
    how_long = f" How long it takes is not known: {unknown}; {EARLIER_RUN}." if unknown else ""
    return f"{', '.join(said)}.{how_long} Nothing was trained; set spec.mode to Run to train by it."
