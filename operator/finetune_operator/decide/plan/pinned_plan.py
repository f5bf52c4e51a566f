"""The plan that a run began with, which it keeps if its Job is gone and another Job is created. Pure.

The spec alone does not fix the plan: an upgraded operator may know other rules, and another plan would
make every checkpoint of the run useless. So the plan is read from the ConfigMap of the run's first Job,
which the shell fetches if `find_pinned_plan` names one.
"""

from typing import Final

from pydantic import ValidationError

from finetune_api.plan import TrainingPlan, plan_hash
from finetune_api.resource import LanguageFinetune
from finetune_api.status import LanguageFinetuneStatus, PlanStatus, WarningStatus
from finetune_operator.decide.plan.accept import ResolvedPlan
from finetune_operator.decide.plan.build_plan import build_identity, hash_spec
from finetune_operator.decide.plan.estimate import Forecast
from finetune_operator.decide.status.build_status import find_condition
from finetune_operator.decide.values import conditions

NOT_KEPT: Final = "plan-not-kept"
"""Id of the warning that a run could not keep its plan."""


def find_pinned_plan(
    before: LanguageFinetuneStatus, *, run: int, resource: LanguageFinetune
) -> PlanStatus | None:
    """Return the plan that the current run began with, or None if it has not begun."""
    plan = before.plan
    if before.run != run or plan is None or not plan.config_map:
        return None
    created = find_condition(before.conditions, conditions.JOB_CREATED)
    is_frozen = created is not None and created.status == "True"
    # If the last attempt to create the Job was refused, the spec may change again.
    return plan if is_frozen or plan.spec_hash == hash_spec(resource.spec) else None


def read_pinned_plan(
    text: str | None,
    *,
    wanted: str,
    before: LanguageFinetuneStatus,
    run: int,
    resource: LanguageFinetune,
) -> ResolvedPlan | None:
    """Return the plan with its reasons from status, or None if the text does not hold it.

    Args:
        text: The plan that was fetched, as JSON.
        wanted: Its hash.
        before: The stored status.
        run: Number of the current run.
        resource: The resource as it is now.
    """
    plan = _read(text or "", wanted=wanted)
    if plan is None:
        return None
    return ResolvedPlan(
        resource=resource,
        # A resource that was restored from a backup has another uid.
        plan=plan.model_copy(update={"identity": build_identity(resource, run=run)}),
        parameters=tuple(before.parameters),
        warnings=tuple(before.warnings),
        total_steps=before.plan.total_steps if before.plan else None,
        forecast=Forecast(
            memory=before.gpu_memory,
            seconds=before.plan.estimated_seconds if before.plan else None,
        ),
    )


def warn_of_another_plan(
    before: LanguageFinetuneStatus, *, run: int, plan: TrainingPlan
) -> tuple[WarningStatus, ...]:
    """Return the warning that a run goes on with another plan than it began with."""
    kept = before.plan
    created = find_condition(before.conditions, conditions.JOB_CREATED)
    has_begun = before.run == run and created is not None and created.status == "True"
    if not has_begun or kept is None or not kept.config_map or kept.hash == plan.hash:
        return ()
    message = (
        f"The run began with plan {kept.hash[:8]}, which ConfigMap {kept.config_map} does not hold any "
        f"more as this version reads it; it begins again with plan {plan.hash[:8]}, without the "
        "checkpoints of the other."
    )
    return (WarningStatus(id=NOT_KEPT, severity="warn", message=message),)


def _read(text: str, *, wanted: str) -> TrainingPlan | None:
    """Return the plan, if the trainer of this release computes the wanted hash for it too."""
    try:
        plan = TrainingPlan.model_validate_json(text)
    except ValidationError:
        return None
    return plan if plan.hash == wanted == plan_hash(plan) else None
