"""A run that has begun keeps its plan, also where its Job is gone and another one is made.

What a spec resolves to is not fixed by the spec alone: an operator that was upgraded meanwhile knows
other rules, and another plan would leave every checkpoint of the run behind. So the plan that its first
Job was made from is taken from its ConfigMap, which `gather` fetches where `plan_to_keep` names one. Pure.
"""

from typing import Final

from pydantic import ValidationError

from finetune_api.plan import TrainingPlan, plan_hash
from finetune_api.resource import LanguageFinetune
from finetune_api.status import PlanStatus, WarningStatus
from finetune_operator.decide.plan.accept import ResolvedPlan
from finetune_operator.decide.plan.build_plan import build_identity, hash_spec
from finetune_operator.decide.plan.estimate import Forecast
from finetune_operator.decide.status.build_status import find_condition
from finetune_operator.decide.steps.reconcile_state import ReconcileState
from finetune_operator.decide.values import conditions

NOT_KEPT: Final = "plan-not-kept"
"""Id of the warning that a run could not keep its plan."""


def plan_to_keep(state: ReconcileState, *, resource: LanguageFinetune) -> PlanStatus | None:
    """Return the plan that the run of now began with, or None where it has not begun."""
    before, plan = state.before, state.before.plan
    if before.run != state.run or plan is None or not plan.config_map:
        return None
    created = find_condition(before.conditions, conditions.JOB_CREATED)
    is_frozen = created is not None and created.status == "True"
    # Where the last try to make the Job was refused, the spec may change again.
    return plan if is_frozen or plan.spec_hash == hash_spec(resource.spec) else None


def find_begun(state: ReconcileState, *, resource: LanguageFinetune) -> ResolvedPlan | None:
    """Return the plan that the run goes on with, or None where it has none or it cannot be read."""
    kept = plan_to_keep(state, resource=resource)
    if kept is None:
        return None
    return read_begun(state, resource=resource, plan_hash=kept.hash)


def read_begun(
    state: ReconcileState, *, resource: LanguageFinetune, plan_hash: str
) -> ResolvedPlan | None:
    """Return the plan of this hash that was fetched, or None where it is not there or cannot be read."""
    plan = _read(state.observed.begun_plan or "", wanted=plan_hash)
    if plan is None:
        return None
    before = state.before
    now = build_identity(resource, run=state.run)
    return ResolvedPlan(
        resource=resource,
        # A resource that was restored from a backup has another uid.
        plan=plan.model_copy(update={"identity": now}),
        parameters=tuple(before.parameters),
        warnings=tuple(before.warnings),
        total_steps=before.plan.total_steps if before.plan else None,
        forecast=Forecast(
            memory=before.gpu_memory,
            seconds=before.plan.estimated_seconds if before.plan else None,
        ),
    )


def warn_of_another_plan(state: ReconcileState, *, plan: TrainingPlan) -> tuple[WarningStatus, ...]:
    """Return the warning that a run goes on with another plan than it began with."""
    before, kept = state.before, state.before.plan
    created = find_condition(before.conditions, conditions.JOB_CREATED)
    has_begun = before.run == state.run and created is not None and created.status == "True"
    if not has_begun or kept is None or not kept.config_map or kept.hash == plan.hash:
        return ()
    message = (
        f"The run began with plan {kept.hash[:8]}, which ConfigMap {kept.config_map} does not hold any "
        f"more as this version reads it; it begins again with plan {plan.hash[:8]}, without the "
        "checkpoints of the other."
    )
    return (WarningStatus(id=NOT_KEPT, severity="warn", message=message),)


def _read(text: str, *, wanted: str) -> TrainingPlan | None:
    """Return the plan, where it is the wanted one for the trainer of this release too."""
    try:
        plan = TrainingPlan.model_validate_json(text)
    except ValidationError:
        return None
    return plan if plan.hash == wanted == plan_hash(plan) else None
