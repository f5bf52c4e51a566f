"""Mode Plan: the end of a resource that is measured and resolved and trains nothing.

`decide` asks once everything is resolved. The answer is final for this generation of the spec and for
no other: the fields stay open, because no training Job was made from them, and mode Run goes on from
what is known. Pure.
"""

from finetune_api.resource import Mode
from finetune_api.status import short_duration
from finetune_operator.decide.job.run_view import COMPLETE
from finetune_operator.decide.plan.accept import ResolvedPlan
from finetune_operator.decide.status.build_status import find_condition
from finetune_operator.decide.steps.reconcile_state import ReconcileState
from finetune_operator.decide.steps.reporting import (
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
"""What makes a time known that no measured speed tells."""


def end_plan(state: ReconcileState, *, proposal: ResolvedPlan) -> Actions | None:
    """Return that the plan is ready, or None where it is to be run."""
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


def ended_before_training(state: ReconcileState) -> bool:
    """Return whether the end came before any training, which a change of the spec undoes."""
    stored = state.before.conditions
    complete = find_condition(stored, conditions.COMPLETE)
    if complete is not None and complete.reason == conditions.PLAN_READY:
        return True
    # What ended before any Job was to train: a measurement, or the look for finished work.
    created = find_condition(stored, conditions.JOB_CREATED)
    return created is None or created.status != "True"


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
