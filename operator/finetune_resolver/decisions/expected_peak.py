"""The micro-batches that the trainer will choose on a GPU, and the peak that follows from them.

The least that a run needs (`memory_fit`) says whether it fits; what it will hold is more, because the
trainer keeps layers' activations and fills micro-batches while there is room. It plans with the memory that
its GPU has free; operator and CLI predict the same here by the same `plan_micro_batch`, from the GPU's size
and the text's lengths. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from finetune_api.micro_batch import FUSED_MODEL_TYPES, MicroBatchLimits, plan_micro_batch
from finetune_api.quantity import parse_quantity
from finetune_api.resource import LanguageFinetuneSpec
from finetune_resolver.memory.estimate import (
    MemoryEstimate,
    TrainingEngine,
    Workload,
    estimate_activation_cost,
    estimate_memory,
)
from finetune_resolver.memory.model_shape import ModelShape
from finetune_resolver.policies.workload import build_workload
from finetune_resolver.resolution import Resolution
from finetune_resolver.steps import Values, count
from finetune_resolver.traits.measurement import LanguageMeasurement, Measurements

DEVIATIONS_OF_LARGEST_STEP = 3.0
"""How far the largest of some thousand steps lies above the mean one, in standard deviations of a step
(normal distribution; assumption: lengths are independent)."""
DEVIATIONS_OF_P95 = 1.645
"""How far the 95th percentile lies above the mean (normal distribution)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedMicroBatch:
    """What the trainer is expected to choose."""

    tokens: int
    """Of the largest micro-batch."""
    layers_kept: int
    """Layers whose activations are kept."""
    peak: MemoryEstimate


def estimate_expected_micro_batch(
    spec: LanguageFinetuneSpec, *, resolution: Resolution, measured: Measurements
) -> ExpectedMicroBatch | None:
    """Return the micro-batch of a resource; None on CPU, and where model, GPU or text are unknown.

    Args:
        spec: the spec of the resource.
        resolution: the resolved parameters.
        measured: what is known of texts, model and GPU; unset fields are unknown.
    """
    shape, resources = measured.shape, spec.resources
    declared = resources.gpu_memory
    memory = int(parse_quantity(declared)) if declared else measured.gpu_memory_bytes
    values = {decision.parameter: decision.value for decision in resolution.decisions}
    texts = [measured.language(index) for index in range(len(spec.languages))]
    sequences = _count_sequences_per_device(values)
    step = estimate_largest_step(
        texts, sequences=sequences, max_seq_length=count(values, "max_seq_length")
    )
    if shape is None or memory is None or step is None or values["packing"] or not resources.gpus:
        return None
    fused = shape.model_type in FUSED_MODEL_TYPES
    workload = replace(
        build_workload(values, method=resolution.method.value),
        engine=TrainingEngine.FUSED if fused else TrainingEngine.UNSLOTH,
        offloads_inputs=False,
    )
    return estimate_micro_batch(
        shape,
        workload,
        step=step,
        gpu_memory_bytes=memory,
        can_recompute=values["gradient_checkpointing"] is True,
    )


@dataclass(frozen=True, slots=True)
class LargestStep:
    """What the largest optimizer step of a run holds on one GPU."""

    longest: int
    """Tokens of the longest sequence."""
    tokens: int


def estimate_largest_step(
    texts: Sequence[LanguageMeasurement], *, sequences: int, max_seq_length: int
) -> LargestStep | None:
    """Return the tokens of the largest step of `sequences`; None where a text was not measured.

    Args:
        texts: one measurement a language.
        sequences: of one optimizer step on one GPU.
        max_seq_length: tokens at which a sequence is cut.
    """
    lengths = [_lengths(text, max_seq_length=max_seq_length) for text in texts]
    known = [each for each in lengths if each is not None]
    if not known or len(known) < len(lengths):
        return None
    rows = sum(one.rows for one in known)
    longest = max(one.longest for one in known)
    mean = sum(one.mean * one.rows for one in known) / rows
    deviation = max(0.0, max(one.p95 for one in known) - mean) / DEVIATIONS_OF_P95
    together = min(sequences, rows)
    above = DEVIATIONS_OF_LARGEST_STEP * math.sqrt(together) * deviation
    tokens = min(together * longest, math.ceil(together * mean + above))
    return LargestStep(longest, max(longest, tokens))


def estimate_micro_batch(
    shape: ModelShape,
    workload: Workload,
    *,
    step: LargestStep,
    gpu_memory_bytes: int,
    can_recompute: bool,
) -> ExpectedMicroBatch:
    """Return what the trainer plans on a GPU of this memory.

    Args:
        shape: the sizes of the base model.
        workload: what is trained, and how.
        step: tokens of the largest step, and of its longest sequence.
        gpu_memory_bytes: memory of one GPU, in bytes.
        can_recompute: whether gradient checkpointing is on.

    Raises:
        UnsupportedModelError: the workload names a module that the model lacks.
    """
    base = estimate_memory(shape, workload, tokens_per_micro_batch=0).total_bytes
    limits = MicroBatchLimits(
        free_bytes=gpu_memory_bytes - base,
        longest=step.longest,
        step_tokens=step.tokens,
        layers=shape.layers,
        can_recompute=can_recompute,
        # Unsloth's path keeps all layers or none.
        keeps_some_layers=workload.engine is TrainingEngine.FUSED,
    )
    plan = plan_micro_batch(estimate_activation_cost(shape, workload), limits)
    peak = estimate_memory(
        shape, workload, tokens_per_micro_batch=plan.tokens, layers_kept=plan.layers_kept
    )
    return ExpectedMicroBatch(tokens=plan.tokens, layers_kept=plan.layers_kept, peak=peak)


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Of one language's examples, in tokens, none longer than what they are cut at."""

    rows: int
    mean: float
    p95: int
    longest: int


def _lengths(text: LanguageMeasurement, *, max_seq_length: int) -> _Lengths | None:
    rows, tokens = text.trained_examples, text.tokens
    if not rows or tokens is None or text.p95_tokens is None or text.max_tokens is None:
        return None
    return _Lengths(
        rows=rows,
        mean=min(tokens / rows, max_seq_length),
        p95=min(text.p95_tokens, max_seq_length),
        longest=min(text.max_tokens, max_seq_length),
    )


def _count_sequences_per_device(values: Values) -> int:
    per_device = count(values, "per_device_train_batch_size")
    return per_device * count(values, "gradient_accumulation_steps")
