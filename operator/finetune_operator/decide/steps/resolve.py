"""Step: traits and measurement become a plan, or the resource is refused until it changes. Pure."""

from finetune_operator.decide.plan.accept import SpecRefusal
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.state.reporting import report_refusal
from finetune_operator.decide.values.actions import Actions


def resolve(state: ReconcileState) -> Actions | None:
    """Refuse a spec that has no plan, such as a model that does not fit the GPU."""
    refusal = state.current_plan()
    return report_refusal(state, refusal=refusal) if isinstance(refusal, SpecRefusal) else None
