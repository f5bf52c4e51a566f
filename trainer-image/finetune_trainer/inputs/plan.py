"""The plan as it is mounted: read, proved to be the operator's own, and within what is supported.

First thing in the pod, before any byte is fetched. What is not supported is refused by name: a
parameter that was silently ignored would make another adapter than the one that was promised.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from finetune_api import wire
from finetune_api.measure_plan import MeasurePlan, measure_hash
from finetune_api.plan import PlannedDataset, PlannedModel, TrainingPlan, plan_hash
from finetune_api.resource import Method, OutputFormat
from finetune_trainer.errors import PlanInvalid


def load_plan(path: Path, *, expected_sha256: str) -> TrainingPlan:
    """Read the plan and check that it was not changed.

    Args:
        path: The plan's file.
        expected_sha256: Of the file's bytes, in hex; empty where none is given.

    Raises:
        PlanInvalid: It is absent, malformed, or not the one that was resolved.
    """
    return parse_plan(_read_plan(path, expected_sha256=expected_sha256))


def load_measure_plan(path: Path, *, expected_sha256: str) -> MeasurePlan:
    """Read the measure plan and check that it was not changed; arguments as `load_plan`.

    Raises:
        PlanInvalid: It is absent, malformed, or not the one that was planned.
    """
    content = _read_plan(path, expected_sha256=expected_sha256)
    try:
        plan = MeasurePlan.model_validate_json(content)
    except ValidationError as fault:
        raise _build_malformed(fault) from fault
    _check_hash(plan, found=measure_hash(plan))
    return plan


def _read_plan(path: Path, *, expected_sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise PlanInvalid(
            f"The plan {path} cannot be read ({fault.strerror}): expected the plan of the operator's"
            " ConfigMap there; mount it, or name it in"
            f" {wire.ENV_PLAN_PATH}.",
            reason="PlanMissing",
        ) from fault
    found = hashlib.sha256(content).hexdigest()
    if expected_sha256 and found != expected_sha256:
        raise PlanInvalid(
            f"The plan {path} has SHA-256 {found[:12]}… and the Job expects"
            f" {expected_sha256[:12]}…: the ConfigMap was replaced; delete the LanguageFinetune and"
            " apply it again, and the operator writes the plan again; checkpoints of it stay good.",
            reason="PlanTampered",
        )
    return content


def parse_plan(content: bytes) -> TrainingPlan:
    """Return the plan that the bytes hold.

    Raises:
        PlanInvalid: They hold none, or its hash is not the one it carries.
    """
    try:
        plan = TrainingPlan.model_validate_json(content)
    except ValidationError as fault:
        raise _build_malformed(fault) from fault
    _check_hash(plan, found=plan_hash(plan))
    return plan


def _build_malformed(fault: ValidationError) -> PlanInvalid:
    first = fault.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the document"
    return PlanInvalid(
        f"The plan is malformed at {where}: {first['msg']} ({fault.error_count()} problems in"
        " all); operator and trainer must be of one release.",
        reason="PlanMalformed",
    )


def _check_hash(plan: TrainingPlan | MeasurePlan, *, found: str) -> None:
    if plan.hash != found:
        raise PlanInvalid(
            f"The plan of {plan.identity.namespace}/{plan.identity.name} says its hash is"
            f" {plan.hash[:12] or 'empty'}, its content has {found[:12]}: it was changed after it"
            " was resolved; delete the LanguageFinetune and apply it again, and the operator writes"
            " the plan again.",
            reason="PlanTampered",
        )


def check_supported(plan: TrainingPlan) -> None:
    """See that this trainer can do all that the plan asks for.

    Raises:
        PlanInvalid: It cannot.
    """
    _refuse_unsupported(list(_find_unsupported(plan)))


def check_measurable(plan: MeasurePlan) -> None:
    """See that this trainer can read all that the plan names.

    Raises:
        PlanInvalid: It cannot.
    """
    _refuse_unsupported(list(_find_unreadable(plan.model, plan.datasets)))


def _refuse_unsupported(problems: Sequence[str]) -> None:
    if problems:
        raise PlanInvalid(
            f"The plan asks for what is not supported yet: {'; '.join(problems)}. Change the resource"
            " and apply again.",
            reason="NotSupported",
        )


def _find_unsupported(plan: TrainingPlan) -> Iterator[str]:
    if plan.method not in (Method.LORA, Method.QLORA):
        yield f"method {plan.method.value} (LoRA and QLoRA are)"
    if plan.method is Method.QLORA and plan.resources.gpus == 0:
        yield "method QLoRA without a GPU (LoRA is)"
    if plan.resources.nodes > 1:
        yield f"{plan.resources.nodes} nodes (one with any number of GPUs is)"
    others = [each.value for each in plan.output.formats if each is not OutputFormat.ADAPTER]
    if others:
        yield f"output format {', '.join(others)} (Adapter is)"
    if plan.training.packing:
        yield "parameters.packing (false is)"
    if len(plan.datasets) != 1:
        yield f"{len(plan.datasets)} datasets (one is)"
    yield from _find_unreadable(plan.model, plan.datasets)


def _find_unreadable(model: PlannedModel, datasets: Sequence[PlannedDataset]) -> Iterator[str]:
    if model.revision is not None and not model.uri.startswith("hf://"):
        yield f"a revision of {model.uri} (one of a model at hf:// is)"
    for dataset in datasets:
        if dataset.split != "train" and not dataset.uri.startswith("hf://"):
            yield f"split {dataset.split} of {dataset.uri} (one of a dataset at hf:// is)"
