"""Step: the training Job exists, and status follows it, whatever the spec says by now. Pure."""

from finetune_operator.decide.state.job_report import report_job
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.values.actions import Actions


def follow_job(state: ReconcileState) -> Actions | None:
    """Report where the Job and its pods stand, and pass on limits and suspension of the spec."""
    return None if state.job is None else report_job(state, job=state.job)
