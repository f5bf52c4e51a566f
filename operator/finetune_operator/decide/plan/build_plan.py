"""From a resource to the plans that pods obey: what to measure, and with its resolution what to train.

Between `finetune_resolver`, which decides every number, and `manifests`, which puts a plan into a
ConfigMap. Everything here is a renaming of what was decided; nothing is chosen.
"""

import hashlib
from typing import Final

from finetune_api import wire
from finetune_api.frozen import FROZEN
from finetune_api.measure_plan import MeasurePlan
from finetune_api.plan import (
    PlannedCheckpoints,
    PlannedColumns,
    PlannedDataset,
    PlannedDecision,
    PlannedModel,
    PlannedOutput,
    PlannedResources,
    PlannedValidation,
    RunIdentity,
    TrainingPlan,
    canonical_json,
)
from finetune_api.quantity import parse_duration, parse_quantity
from finetune_api.resource import (
    Checkpoints,
    Dataset,
    Language,
    LanguageFinetune,
    LanguageFinetuneSpec,
    Resources,
    SecretRef,
)
from finetune_resolver.decisions.build import (
    build_training,
    learns_answers_only,
    unusual_length,
)
from finetune_resolver.resolution import Decision, Resolution

DEFAULT_FRACTION: Final = 0.05
"""Share held out where the resource says nothing (API.md: 5 %)."""


def build_plan(resource: LanguageFinetune, *, resolution: Resolution, run: int) -> TrainingPlan:
    """Return the plan of run number `run`, its hash filled in."""
    spec = resource.spec
    training, lora = build_training(resolution)
    plan = TrainingPlan(
        identity=build_identity(resource, run=run),
        model=_model(resource),
        datasets=_datasets(resource),
        stage=spec.stage,
        method=resolution.method.value,
        policy=resolution.policy,
        training=training,
        lora=lora,
        resources=_resources(spec.resources),
        output=_output(resource),
        checkpoints=_checkpoints(spec.checkpoints),
        decisions=tuple(_decision(one) for one in resolution.decisions),
    )
    return plan.with_hash()


def build_measure_plan(resource: LanguageFinetune, *, run: int) -> MeasurePlan:
    """Return what run number `run` has measured, its hash filled in."""
    plan = MeasurePlan(
        identity=build_identity(resource, run=run),
        model=_model(resource),
        datasets=_datasets(resource),
        stage=resource.spec.stage,
        completion_only_loss=learns_answers_only(resource.spec),
        max_seq_length=unusual_length(resource.spec),
        output=_output(resource),
    )
    return plan.with_hash()


def build_identity(resource: LanguageFinetune, *, run: int) -> RunIdentity:
    """Return whose plan it is."""
    metadata = resource.metadata
    return RunIdentity(namespace=metadata.namespace, name=metadata.name, uid=metadata.uid, run=run)


def _model(resource: LanguageFinetune) -> PlannedModel:
    model = resource.spec.model
    return PlannedModel(
        uri=model.uri.rstrip("/"),
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        credentials=_use(wire.CREDENTIALS_MODEL, reference=model.secret_ref),
    )


def _output(resource: LanguageFinetune) -> PlannedOutput:
    output = resource.spec.output
    return PlannedOutput(
        uri=output.uri.rstrip("/"),
        formats=tuple(output.formats),
        credentials=_use(wire.CREDENTIALS_OUTPUT, reference=output.secret_ref),
    )


def _datasets(resource: LanguageFinetune) -> tuple[PlannedDataset, ...]:
    return tuple(
        _dataset(language, index=index) for index, language in enumerate(resource.spec.languages)
    )


def _dataset(language: Language, *, index: int) -> PlannedDataset:
    dataset = language.dataset
    use = wire.credentials_dataset(index)
    columns = dataset.columns.model_dump() if dataset.columns else {}
    return PlannedDataset(
        tag=language.tag,
        uri=dataset.uri,
        sha256=dataset.sha256,
        format=dataset.format,
        columns=PlannedColumns(**columns),
        split=dataset.split,
        validation=_validation(dataset),
        weight=language.weight,
        credentials=_use(use, reference=dataset.secret_ref),
        on_bad_row=dataset.on_bad_row,
        max_row_characters=dataset.max_row_characters,
    )


def _validation(dataset: Dataset) -> PlannedValidation:
    if dataset.validation is None:
        return PlannedValidation(fraction=DEFAULT_FRACTION)
    declared = dataset.validation
    return PlannedValidation(
        uri=declared.uri,
        fraction=DEFAULT_FRACTION if declared.fraction is None else declared.fraction,
        max_examples=declared.max_examples,
    )


def _resources(resources: Resources) -> PlannedResources:
    memory = resources.gpu_memory
    return PlannedResources(
        gpus=resources.gpus,
        nodes=resources.nodes,
        gpu_memory_bytes=int(parse_quantity(memory)) if memory else None,
    )


def _checkpoints(checkpoints: Checkpoints | None) -> PlannedCheckpoints:
    """Return when to save; who names only steps does not want a clock beside them."""
    if checkpoints is None:
        return PlannedCheckpoints()
    every = checkpoints.every_duration
    if every is None and checkpoints.every_steps is None:
        return PlannedCheckpoints(keep=checkpoints.keep)
    return PlannedCheckpoints(
        every_seconds=parse_duration(every) if every else None,
        every_steps=checkpoints.every_steps,
        keep=checkpoints.keep,
    )


def _decision(decision: Decision) -> PlannedDecision:
    return PlannedDecision(
        name=decision.parameter,
        value=decision.value,
        rule=decision.rule,
        guide_ids=decision.guide_ids,
        source=decision.source.value,
        message=decision.message,
    )


def _use(use: str, *, reference: SecretRef | None) -> str | None:
    return use if reference is not None else None


def hash_spec(spec: LanguageFinetuneSpec) -> str:
    """Return the SHA-256 over the fields that a run is made from; a default that is written is none."""
    whole = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
    made_from = {name: whole[name] for name in FROZEN if name in whole}
    return hashlib.sha256(canonical_json(made_from).encode()).hexdigest()
