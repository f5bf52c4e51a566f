"""What a run would be: parameters, steps, tokens, memory and time, from what is known before it.

Between the resolver, whose resolution it wraps, and `plan_rendering`. Nothing is measured here: what
was measured comes in as a profile, and what was not stays unknown and is said to be. Pure.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.profile import Profile
from finetune_api.quantity import parse_quantity
from finetune_api.resource import LanguageFinetuneSpec, Method
from finetune_api.status import CorpusStatus
from finetune_cli.errors import CliError
from finetune_resolver import (
    Measurements,
    Need,
    Resolution,
    build_measurements,
    corpus_statuses,
    measurement_needs,
)
from finetune_resolver.decisions.expected_peak import (
    ExpectedMicroBatch,
    estimate_expected_micro_batch,
)
from finetune_resolver.memory.model_shape import ModelShape, shape_from_config
from finetune_resolver.steps import Values, count, effective_batch, number, workers
from finetune_text.survey.language_report import LanguageReport

GPU_MEMORY = "gpuMemory"
"""Name of the need for the model's shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLength:
    """How long a run is; None is unknown."""

    effective_batch: int
    """Sequences of one optimizer step, over all workers."""
    epochs: float | None
    """Passes over the text; None where steps end the run."""
    steps: int | None
    """Optimizer steps."""
    steps_are_rough: bool = False
    """Whether blocks were counted by their tokens, before anything was packed."""
    tokens: int | None = None
    """Tokens that the model reads over the whole run; texts that will be cut count whole."""
    tokens_per_second: float | None = None
    """What the caller knows of the speed."""

    @property
    def seconds(self) -> float | None:
        """Time of training alone; loading, evaluating and publishing come on top."""
        if self.tokens is None or not self.tokens_per_second:
            return None
        return self.tokens / self.tokens_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run before it runs."""

    resolution: Resolution
    course: RunLength
    profile: Profile | None
    """What was measured of the text."""
    corpus: tuple[CorpusStatus, ...]
    """As status shows it; empty where no text was measured."""
    reports: tuple[LanguageReport, ...]
    """The defects of the text with their places."""
    shape: ModelShape | None
    """Of the base model."""
    trainable_parameters: int | None
    gpu_memory_bytes: int | None
    """Of one GPU."""
    micro_batch: ExpectedMicroBatch | None
    """What the trainer will choose on it; None where GPU, model or text are unknown."""
    needs: tuple[Need, ...]
    """What a Measure Job would have to find out; empty where the text was measured."""


def with_gpu_memory(spec: LanguageFinetuneSpec, text: str) -> LanguageFinetuneSpec:
    """Return the resource as if `resources.gpuMemory` were `text`; as it is where that is empty.

    Raises:
        CliError: it is no quantity, or the resource trains on CPU.
    """
    if not text:
        return spec
    try:
        is_positive = parse_quantity(text) > 0
    except ValueError:
        is_positive = False
    if not is_positive:
        raise CliError(
            [f"--gpu-memory is {text}, expected the memory of one GPU such as 80Gi; correct it."]
        )
    if spec.resources.gpus == 0:
        raise CliError(
            [
                (
                    "--gpu-memory is set and spec.resources.gpus is 0, which trains on CPU; leave one of "
                    "them out."
                )
            ]
        )
    resources = spec.resources.model_copy(update={"gpu_memory": text})
    return spec.model_copy(update={"resources": resources})


def gather_measurements(
    spec: LanguageFinetuneSpec, *, profile: Profile | None, config: Mapping[str, object] | None
) -> Measurements:
    """Return what is known of text and model.

    Args:
        spec: the resource.
        profile: what was measured of its text, if anything.
        config: the model's config.json, where it was named apart from the tokenizer.

    Raises:
        UnsupportedModelError: the model is built otherwise than we know.
    """
    if profile is not None:
        return build_measurements(spec, profile)
    return Measurements(shape=shape_from_config(config) if config else None)


def build_plan(
    spec: LanguageFinetuneSpec,
    *,
    resolution: Resolution,
    measured: Measurements,
    profile: Profile | None,
    reports: tuple[LanguageReport, ...],
    tokens_per_second: float | None,
) -> Plan:
    """Return the run of a resolution."""
    values = values_of(resolution)
    memory = spec.resources.gpu_memory
    length = count(values, "max_seq_length")
    return Plan(
        resolution=resolution,
        course=_build_course(
            spec, values=values, resolution=resolution, profile=profile, speed=tokens_per_second
        ),
        profile=profile,
        corpus=tuple(corpus_statuses(profile, max_seq_length=length)) if profile else (),
        reports=reports,
        shape=measured.shape,
        trainable_parameters=_trainable(measured.shape, values, method=resolution.method.value),
        gpu_memory_bytes=int(parse_quantity(memory)) if memory and spec.resources.gpus else None,
        micro_batch=estimate_expected_micro_batch(spec, resolution=resolution, measured=measured),
        needs=() if profile else _needs(spec, knows_shape=measured.shape is not None),
    )


def values_of(resolution: Resolution) -> Values:
    """Return the decided values by the guide's name."""
    return {decision.parameter: decision.value for decision in resolution.decisions}


def _needs(spec: LanguageFinetuneSpec, *, knows_shape: bool) -> tuple[Need, ...]:
    """Return what a Measure Job would find out beyond the model's shape, which may be here already."""
    needs = measurement_needs(spec)
    return tuple(need for need in needs if not (knows_shape and need.name == GPU_MEMORY))


def _build_course(
    spec: LanguageFinetuneSpec,
    *,
    values: Values,
    resolution: Resolution,
    profile: Profile | None,
    speed: float | None,
) -> RunLength:
    by_steps = count(values, "max_steps") > 0
    epochs = None if by_steps else number(values, "num_train_epochs")
    batch = effective_batch(values, world=workers(spec.resources))
    steps, rough = resolution.total_steps, False
    texts = profile.languages if profile else ()
    tokens, examples = sum(t.tokens for t in texts), sum(t.examples for t in texts)
    if steps is None and epochs and tokens:
        blocks = math.ceil(tokens / count(values, "max_seq_length"))
        steps, rough = math.ceil(blocks / batch) * math.ceil(epochs), True
    read = None
    if epochs and tokens:
        read = round(tokens * epochs)
    elif steps and examples:
        a_sequence = count(values, "max_seq_length") if values["packing"] else tokens / examples
        read = round(steps * batch * a_sequence)
    return RunLength(
        effective_batch=batch,
        epochs=epochs,
        steps=steps,
        steps_are_rough=rough,
        tokens=read,
        tokens_per_second=speed,
    )


def _trainable(shape: ModelShape | None, values: Values, *, method: Method) -> int | None:
    """Return the weights that are trained."""
    if shape is None:
        return None
    if method is Method.FULL:
        return shape.parameters()
    modules = values["target_modules"]
    names = [str(name) for name in modules] if isinstance(modules, list) else []
    return shape.lora_parameters(rank=count(values, "r"), modules=names)
