"""Whether a resource may run, and what it resolves to: a plan, or a refusal that says what to change.

What the API server lets in may still not run: objects older than their schema, a language that is
none, what the administrator does not allow (`admit`); and what was measured may show that it cannot
(`resolve_plan`). `decide` asks this of every resource; nothing here looks at Jobs.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from finetune_api.plan import TrainingPlan
from finetune_api.profile import Profile
from finetune_api.resource import LanguageFinetune
from finetune_api.status import ParameterStatus, WarningStatus
from finetune_api.validation import check_spec
from finetune_operator.decide.plan.allowed_fields import find_refused
from finetune_operator.decide.plan.build_plan import build_plan
from finetune_operator.decide.plan.estimate import Forecast, build_forecast
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.operator_config import DecisionContext
from finetune_operator.raw_object import RawObject
from finetune_resolver.decisions.build import decision_statuses, warning_statuses
from finetune_resolver.errors import (
    InsufficientGpuMemoryError,
    ResolverError,
    UnknownLanguageError,
    UnsupportedModelError,
)
from finetune_resolver.needs import Need, measurement_needs
from finetune_resolver.resolve import resolve
from finetune_resolver.traits.from_profile import build_measurements

SHOWN_FAULTS: Final = 3
"""Faults of one resource that are named in one message; the rest is counted."""
VALUE_LIMIT: Final = 60
"""Characters of a wrong value that are shown."""


@dataclass(frozen=True)
class Admitted:
    """A resource that may run."""

    resource: LanguageFinetune
    needs: tuple[Need, ...]
    """Why its text has to be measured first; empty where it need not."""


@dataclass(frozen=True)
class ResolvedPlan:
    """What the resource resolves to now."""

    resource: LanguageFinetune
    plan: TrainingPlan
    parameters: tuple[ParameterStatus, ...]
    warnings: tuple[WarningStatus, ...]
    total_steps: int | None = None
    """Optimizer steps, where the examples were counted."""
    forecast: Forecast = field(default_factory=Forecast)


@dataclass(frozen=True)
class SpecRefusal:
    """Why the resource cannot run until somebody changes it or the settings."""

    reason: str
    message: str
    is_of_measurement: bool = False
    """Whether only what was measured shows it: the resource itself is accepted."""


def admit(body: RawObject, *, context: DecisionContext) -> Admitted | SpecRefusal:
    """Return the resource, or why it may not run."""
    # The status may be older than its schema; that never makes a spec invalid.
    declared = {key: value for key, value in body.items() if key != "status"}
    try:
        resource = LanguageFinetune.from_object(declared)
    except ValidationError as error:
        return SpecRefusal(reason=conditions.INVALID_SPEC, message=_malformed(body, error=error))
    for check in CHECKS:
        refusal = check(resource, context)
        if refusal is not None:
            return refusal
    try:
        return Admitted(resource=resource, needs=measurement_needs(resource.spec))
    except ResolverError as error:
        return _refusal(error)


def resolve_plan(
    resource: LanguageFinetune, *, run: int, profile: Profile | None = None
) -> ResolvedPlan | SpecRefusal:
    """Return the plan of run number `run`, or why there is none; `profile` is what was measured."""
    spec = resource.spec
    try:
        measured = build_measurements(spec, profile) if profile is not None else None
        resolution = resolve(spec, measured=measured)
    except ResolverError as error:
        return _refusal(error)
    plan = build_plan(resource, resolution=resolution, run=run)
    sequences = (resolution.total_steps or 0) * plan.whole_training.sequences_per_step
    return ResolvedPlan(
        resource=resource,
        plan=plan,
        parameters=tuple(decision_statuses(resolution)),
        warnings=tuple(warning_statuses(resolution)),
        total_steps=resolution.total_steps,
        forecast=build_forecast(
            spec, resolution=resolution, measured=measured, profile=profile, sequences=sequences
        ),
    )


def _refusal(error: ResolverError) -> SpecRefusal:
    reason, is_of_measurement = next(
        (known for family, known in REFUSED.items() if isinstance(error, family)),
        (conditions.INVALID_SPEC, False),
    )
    return SpecRefusal(reason=reason, message=str(error), is_of_measurement=is_of_measurement)


REFUSED: Final[dict[type[ResolverError], tuple[str, bool]]] = {
    UnknownLanguageError: (conditions.UNKNOWN_LANGUAGE, False),
    UnsupportedModelError: (conditions.MODEL_NOT_SUPPORTED, True),
    InsufficientGpuMemoryError: (conditions.INSUFFICIENT_GPU_MEMORY, True),
}
"""The resolver's refusals: their reason, and whether a measurement shows them."""


def _fields_agree(resource: LanguageFinetune, _: DecisionContext) -> SpecRefusal | None:
    faults = [f"{one.path}: {one.message}" for one in check_spec(resource.spec)]
    if not faults:
        return None
    return SpecRefusal(
        reason=conditions.INVALID_SPEC,
        message=f"{_title(resource.metadata.namespace, resource.metadata.name)} cannot run: "
        f"{_list(faults)}.",
    )


def _values_are_allowed(resource: LanguageFinetune, context: DecisionContext) -> SpecRefusal | None:
    message = find_refused(resource.spec, context=context)
    return (
        SpecRefusal(reason=conditions.NOT_ALLOWED, message=message) if message is not None else None
    )


CHECKS: Final[tuple[Callable[[LanguageFinetune, DecisionContext], SpecRefusal | None], ...]] = (
    _fields_agree,  # rules between fields, also for objects older than the rules
    _values_are_allowed,  # the administrator's allow-lists for every field that shapes a pod
)


def _malformed(body: RawObject, *, error: ValidationError) -> str:
    metadata = body.get("metadata")
    named = metadata if isinstance(metadata, Mapping) else {}
    title = _title(named.get("namespace", ""), named.get("name", ""))
    faults = [_fault(one) for one in error.errors(include_url=False, include_context=False)]
    return f"{title} is malformed: {_list(faults)}; correct it and apply again."


def _fault(error: Mapping[str, Any]) -> str:
    path = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"]
    ).lstrip(".")
    if error["type"] == "missing":
        return f"{path} is missing"
    # What stands in a field that does not exist may be a credential; it is never shown.
    if error["type"] == "extra_forbidden":
        return f"{path} is no field of this version"
    value = error["input"]
    shown = ""
    if isinstance(value, str | int | float | bool) or value is None:
        shown = f" is {json.dumps(value, ensure_ascii=False)[:VALUE_LIMIT]}"
    message = str(error["msg"])
    return f"{path}{shown}: {message[:1].lower()}{message[1:]}"


def _list(faults: list[str]) -> str:
    shown = "; ".join(faults[:SHOWN_FAULTS])
    more = len(faults) - SHOWN_FAULTS
    return f"{shown}; and {more} more" if more > 0 else shown


def _title(namespace: object, name: object) -> str:
    return f"LanguageFinetune {namespace}/{name}"
