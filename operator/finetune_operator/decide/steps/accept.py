"""Step: the spec is valid and allowed, or the resource is refused until it changes. Pure."""

from finetune_operator.decide.plan.accept import SpecRefusal
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.state.reporting import report_refusal
from finetune_operator.decide.values.actions import Actions


def accept(state: ReconcileState) -> Actions | None:
    """Refuse a spec that is malformed, contradicts itself or is not allowed here."""
    refusal = state.admitted
    return report_refusal(state, refusal=refusal) if isinstance(refusal, SpecRefusal) else None
