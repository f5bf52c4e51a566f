"""Step: a run that has ended, Complete or Failed. Pure."""

from finetune_operator.decide.job.job_limits import decide_patches
from finetune_operator.decide.plan.measurement import is_at_work
from finetune_operator.decide.state.next_run import begin_next_run, is_outdated
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.status.build_status import (
    changed_status,
    find_condition,
    has_ended_before_training,
    with_generation,
)
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions, Delete, delete_job
from finetune_operator.decide.values.conditions import is_terminal


def keep_finished(state: ReconcileState) -> Actions | None:
    """Keep the end: no second Job after TTL, restart, relabelling or a lost Job."""
    before, generation = state.before, state.metadata.generation
    if not is_terminal(before.conditions):
        return None
    is_changed = before.observed_generation != generation
    if is_changed and has_ended_before_training(before.conditions):
        return None  # nothing was trained yet: the changed spec decides again
    if is_outdated(state):
        return begin_next_run(state)
    status = None
    if is_changed:
        kept = with_generation(before, generation=generation)
        status = changed_status(kept, raw=state.observed.body.get("status"))
    failed = find_condition(before.conditions, conditions.FAILED)
    job = state.job
    # The operator may have died between that status and this delete.
    unused = failed is not None and failed.reason == conditions.IMAGE_PULL_FAILED
    is_active = job is not None and not job.finished and not job.deleting
    deletes: tuple[Delete, ...] = ()
    if job is not None and unused and is_active:
        deletes = (delete_job(job),)
    pods = state.observed.pods
    beside = (*state.measure_jobs, *state.probe_jobs)
    needless = (one for one in beside if is_at_work(one, pods=pods))
    deletes += tuple(delete_job(one) for one in needless)
    patches = decide_patches(state.observed.body, job=job) if job is not None else ()
    return Actions(status=status, patches=() if deletes else patches, deletes=deletes)
