"""The decision about one resource: an ordered list of steps, of which the first that answers decides. Pure.

Between `gather`, which observes, and `apply`, which writes. `decide` is total: it answers for every
resource, however old or broken, in the same way for a new one, after a restart and after a failure. It
reads no cluster, no clock and no setting that was not passed in.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from pydantic import ValidationError

from finetune_api.resource import ObjectMeta
from finetune_operator.decide.job.suspend_request import is_held
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.steps.accept import accept
from finetune_operator.decide.steps.check_published import check_published
from finetune_operator.decide.steps.create_job import create_job
from finetune_operator.decide.steps.deleted import skip_deleted
from finetune_operator.decide.steps.finished import keep_finished
from finetune_operator.decide.steps.follow_job import follow_job
from finetune_operator.decide.steps.measure import measure
from finetune_operator.decide.steps.orphaned_pods import await_orphaned_pods
from finetune_operator.decide.steps.plan_mode import end_plan_mode
from finetune_operator.decide.steps.publish_at_deadline import publish_at_deadline
from finetune_operator.decide.steps.recreate import recreate
from finetune_operator.decide.steps.resolve import resolve
from finetune_operator.decide.steps.suspend import suspend
from finetune_operator.decide.values.actions import Actions, Lookups, delete_job
from finetune_operator.decide.values.observation import Observed
from finetune_operator.decide.values.operator_config import DecisionContext

Step = Callable[[ReconcileState], Actions | None]

STEPS: Final[tuple[Step, ...]] = (
    skip_deleted,  # deleted: the garbage collector removes what it owns
    keep_finished,  # Complete or Failed: no second Job
    recreate,  # updatePolicy Recreate: the older run stops first, then the next begins
    publish_at_deadline,  # deadlinePolicy PublishBest: one more Job publishes the best checkpoint
    follow_job,  # a Job exists: it is the truth, not the spec
    accept,  # Accepted: the spec is valid and allowed
    measure,  # CorpusMeasured: a Measure Job reads the text
    resolve,  # Resolved: every parameter has a value
    suspend,  # Suspended: nothing is created while spec.suspend is set
    end_plan_mode,  # mode Plan: the plan is the result
    await_orphaned_pods,  # a pod whose Job is gone stops before the next Job
    check_published,  # a finished run of this plan in S3 needs no GPU
    create_job,  # JobCreated: from here on follow_job answers
)
"""The state machine of a resource, in the order of its conditions."""

WITHOUT_JOB: Final = frozenset(STEPS[STEPS.index(measure) :])
"""Steps that are reached only by an accepted resource without a training Job."""


def decide(observed: Observed, *, now: datetime, context: DecisionContext) -> Actions:
    """Return everything to do for one resource now.

    Args:
        observed: The resource, its Jobs and their pods.
        now: The present time.
        context: What the administrator decided.
    """
    try:
        metadata = ObjectMeta.model_validate(observed.body.get("metadata"))
    except ValidationError:
        return Actions()  # nothing can be written about an object without a name
    state = ReconcileState(observed=observed, metadata=metadata, now=now, context=context)
    step, actions = next((step, actions) for step in STEPS if (actions := step(state)) is not None)
    return _without_job(state, actions) if step in WITHOUT_JOB else actions


def _without_job(state: ReconcileState, actions: Actions) -> Actions:
    """Add what holds for every resource without a Job: needless measurements, and the plan to fetch."""
    # A spec that changed while its text was measured does not need that measurement.
    stale = tuple(delete_job(job) for job in state.measured.stale)
    actions = replace(actions, deletes=(*actions.deletes, *stale))
    pinned = state.pinned
    # While the run is suspended, nothing is created from the plan.
    is_known = state.observed.pinned_plan is not None or is_held(state.observed.body)
    if pinned is None or is_known:
        return actions
    events = actions.lookups is not None and actions.lookups.job_events
    return replace(actions, lookups=Lookups(pinned_plan=pinned.config_map, job_events=events))
