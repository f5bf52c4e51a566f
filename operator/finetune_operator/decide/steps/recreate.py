"""Step: `updatePolicy: Recreate`. A changed spec ends the run and begins the next one. Pure."""

from dataclasses import replace

from finetune_operator.decide.state.next_run import await_older_runs, begin_next_run, is_outdated
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.values.actions import Actions, delete_job


def recreate(state: ReconcileState) -> Actions | None:
    """Stop the Jobs of older runs, and begin the next run if the spec asks for another plan."""
    waiting = await_older_runs(state)
    if waiting is not None:
        return waiting
    if state.job is not None:
        return begin_next_run(state) if not state.job.finished and is_outdated(state) else None
    if state.pinned is None or not is_outdated(state):
        return None
    actions = begin_next_run(state)
    stale = tuple(delete_job(job) for job in state.measured.stale)
    return replace(actions, deletes=(*actions.deletes, *stale))
