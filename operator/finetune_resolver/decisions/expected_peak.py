"""The micro-batches that the trainer will choose on a GPU, and the peak that follows from them.

The least that a run needs (`memory_fit`) says whether it fits; what it will hold is more, because the
trainer keeps layers' activations and fills micro-batches while there is room. It looks at its GPU and decides
by `finetune_trainer.engine.tuning`; operator and CLI foretell the same here, from the GPU's size and the text's
lengths, and a test holds the two to each other. Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from finetune_api.quantity import parse_quantity
from finetune_api.resource import LanguageFinetuneSpec
from finetune_resolver.memory.estimate import (
    MemoryEstimate,
    TrainingEngine,
    Workload,
    estimate_memory,
)
from finetune_resolver.memory.model_shape import ModelShape
from finetune_resolver.policies.workload import build_workload
from finetune_resolver.resolution import Resolution
from finetune_resolver.steps import Values, count
from finetune_resolver.traits.measurement import LanguageMeasurement, Measurements

ENOUGH_TOKENS = 4096
"""Of a micro-batch; below it layers are recomputed to make room (the trainer's measurement)."""
MOST_TOKENS = 32_768
"""Of a micro-batch; above it nothing is gained (the trainer's measurement)."""
SPARE_BYTES = 3 * 2**30
"""Of the GPU; the trainer leaves them free."""
FUSED_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Model types for which the trainer takes its fused stack by itself; the others run on Unsloth's own path."""
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
    """Return the micro-batch of a resource; None on CPU, and where model, GPU or text are unknown."""
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
    fused = shape.model_type in FUSED_TYPES
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
    """Return the tokens of the largest step of `sequences`; None where a text was not measured."""
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
    """Return tokens of a micro-batch and layers kept: all layers, unless fewer than enough tokens fit."""
    needed = min(max(ENOUGH_TOKENS, step.longest), step.tokens)
    base = estimate_memory(shape, workload, tokens_per_micro_batch=0).total_bytes
    spare = gpu_memory_bytes - SPARE_BYTES - base
    kept = shape.layers
    if can_recompute and spare < needed * _bytes_a_token(shape, workload, layers_kept=kept):
        kept = _layers_that_fit(shape, workload, spare_a_token=spare / needed)
    fits = int(max(0, spare) / _bytes_a_token(shape, workload, layers_kept=kept))
    tokens = min(MOST_TOKENS, step.tokens, max(fits, step.longest))
    peak = estimate_memory(shape, workload, tokens_per_micro_batch=tokens, layers_kept=kept)
    return ExpectedMicroBatch(tokens=tokens, layers_kept=kept, peak=peak)


def _layers_that_fit(shape: ModelShape, workload: Workload, *, spare_a_token: float) -> int:
    """Return how many layers can keep their activations, where not all can."""
    # Unsloth's path keeps all layers or none.
    if workload.engine is not TrainingEngine.FUSED:
        return 0
    none, one = (_bytes_a_token(shape, workload, layers_kept=kept) for kept in (0, 1))
    return min(shape.layers - 1, max(0, int((spare_a_token - none) / (one - none))))


def _bytes_a_token(shape: ModelShape, workload: Workload, *, layers_kept: int) -> float:
    """Return what a token more of a micro-batch takes."""
    none, many = (
        estimate_memory(shape, workload, tokens_per_micro_batch=tokens, layers_kept=layers_kept)
        for tokens in (0, MOST_TOKENS)
    )
    return (many.total_bytes - none.total_bytes) / MOST_TOKENS


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
