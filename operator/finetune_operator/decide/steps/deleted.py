"""Step: a resource that is being deleted, or was never stored. Pure."""

from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.values.actions import Actions


def skip_deleted(state: ReconcileState) -> Actions | None:
    """Do nothing: owner references make the garbage collector remove the Jobs."""
    metadata = state.metadata
    return Actions() if metadata.deletion_timestamp or not metadata.uid else None
