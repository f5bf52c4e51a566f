"""What a GPU's memory allows: the guide's memory class, LoRA or QLoRA, or a refusal with what would fit.

Between `memory`, which estimates bytes, and `resolve`, which asks. Every decision has a sentence with
the numbers in it. Pure.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from finetune_api.resource import GpuMemoryClass, Method
from finetune_resolver.memory.estimate import (
    GB,
    MEMORY_CEILING,
    MemoryEstimate,
    Workload,
    estimate_largest_batch,
    estimate_largest_micro_batch,
    estimate_memory,
)
from finetune_resolver.memory.model_shape import ModelShape

GPU_SIZES_GB = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 180)
"""Memory of GPUs that one can rent or buy, as sold; H200 has 141 and B200 180."""
LENGTH_STEP = 256
"""Suggested sequence lengths are multiples of it, in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemoryDecision:
    """Whether the nominal batch fits the GPU."""

    value: GpuMemoryClass
    largest_batch: int
    """Sequences that fit in one micro-batch; 0 where not even one does."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodDecision:
    """What to train so that it fits, or why nothing asked for does."""

    method: Method
    """Never Auto; where nothing fits, what was asked for or the leanest."""
    fits: bool
    """False refuses the run."""
    estimate: MemoryEstimate
    """Of one sequence of the full length."""
    message: str
    nearest: tuple[str, ...] = ()
    """What would fit, where this does not."""


def decide_gpu_memory_class(
    shape: ModelShape,
    workload: Workload,
    *,
    batch_size: int,
    max_seq_length: int,
    gpu_memory_bytes: int,
) -> GpuMemoryDecision:
    """Return Constrained where fewer than the nominal batch of sequences fit in one micro-batch.

    Args:
        shape: the sizes of the base model.
        workload: what is trained, and how.
        batch_size: the guide's nominal batch, in sequences.
        max_seq_length: tokens at which a sequence is cut.
        gpu_memory_bytes: memory of one GPU, in bytes.
    """
    largest = estimate_largest_batch(
        shape, workload, max_seq_length=max_seq_length, gpu_memory_bytes=gpu_memory_bytes
    )
    value = GpuMemoryClass.CONSTRAINED if largest < batch_size else GpuMemoryClass.AMPLE
    message = (
        f"{value.value}: the largest micro-batch with {workload.method.value} is {largest:,} x "
        f"{max_seq_length:,} tokens in {_ceiling_text(gpu_memory_bytes)}, the guide's batch "
        f"{batch_size}.{_caveat(shape)}"
    )
    return GpuMemoryDecision(value=value, largest_batch=largest, message=message)


def methods_to_try(asked: Method) -> tuple[Method, ...]:
    """Return what is tried in turn: Auto is LoRA, else QLoRA."""
    return (Method.LORA, Method.QLORA) if asked is Method.AUTO else (asked,)


def decide_method_by_memory(
    shape: ModelShape, workload: Workload, *, max_seq_length: int, gpu_memory_bytes: int | None
) -> MethodDecision:
    """Return the method by what fits: Auto becomes LoRA, else QLoRA; anything else must fit itself.

    One sequence of the full length has to fit: more of them in a micro-batch change speed and not the
    result, whereas 4-bit weights do change it. So QLoRA is never chosen only for a larger micro-batch.

    Args:
        shape: the base model.
        workload: what is asked for; its method may be Auto.
        max_seq_length: the longest sequence, in tokens.
        gpu_memory_bytes: of one GPU; None is unknown, and then nothing is refused.
    """
    methods = methods_to_try(workload.method)
    if gpu_memory_bytes is None:
        return _decide_unknown(shape, replace(workload, method=methods[0]), max_seq_length)
    too_large = ""
    for method in methods:
        candidate = workload if method is workload.method else replace(workload, method=method)
        estimate = estimate_memory(shape, candidate, tokens_per_micro_batch=max_seq_length)
        if not estimate.fits(gpu_memory_bytes):
            too_large = f" {method.value} would need {_peak_text(estimate)}."
            continue
        message = (
            f"{method.value}: one sequence of {max_seq_length:,} tokens needs "
            f"{_peak_text(estimate)} of {_ceiling_text(gpu_memory_bytes)}.{too_large}"
        )
        message += _caveat(shape)
        return MethodDecision(method=method, fits=True, estimate=estimate, message=message)
    return _refuse(
        shape, candidate, max_seq_length=max_seq_length, gpu_memory_bytes=gpu_memory_bytes
    )


def _decide_unknown(shape: ModelShape, workload: Workload, max_seq_length: int) -> MethodDecision:
    estimate = estimate_memory(shape, workload, tokens_per_micro_batch=max_seq_length)
    message = (
        f"{workload.method.value}: the GPU's memory is unknown, so nothing was compared; one sequence "
        f"of {max_seq_length:,} tokens needs {_peak_text(estimate)}. Set resources.gpuMemory to have it "
        f"checked.{_caveat(shape)}"
    )
    return MethodDecision(method=workload.method, fits=True, estimate=estimate, message=message)


def _refuse(
    shape: ModelShape, workload: Workload, *, max_seq_length: int, gpu_memory_bytes: int
) -> MethodDecision:
    estimate = estimate_memory(shape, workload, tokens_per_micro_batch=max_seq_length)
    nearest = _nearest_that_fits(
        shape, workload, max_seq_length=max_seq_length, gpu_memory_bytes=gpu_memory_bytes
    )
    message = (
        f"A model of {shape.parameters():,} parameters does not fit: {workload.method.value} with one "
        f"sequence of {max_seq_length:,} tokens needs {_peak_text(estimate)}, expected at most "
        f"{_ceiling_text(gpu_memory_bytes)}; use {', or '.join(nearest)}."
        f"{_caveat(shape)}"
    )
    return MethodDecision(
        method=workload.method, fits=False, estimate=estimate, message=message, nearest=nearest
    )


def _nearest_that_fits(
    shape: ModelShape, workload: Workload, *, max_seq_length: int, gpu_memory_bytes: int
) -> tuple[str, ...]:
    """Return what would fit: shorter sequences, then a leaner method, then a larger GPU."""
    nearest = []
    shorter = _longest_sequence(shape, workload, gpu_memory_bytes)
    if shorter:
        nearest.append(f"parameters.maxSeqLength {shorter}")
    leaner = _leaner_method(
        shape, workload, max_seq_length=max_seq_length, gpu_memory_bytes=gpu_memory_bytes
    )
    if leaner:
        nearest.append(leaner)
    larger = _smallest_gpu(shape, workload, max_seq_length)
    if larger:
        nearest.append(larger)
    if workload.method is not Method.QLORA and not leaner:
        qlora = _smallest_gpu(shape, replace(workload, method=Method.QLORA), max_seq_length)
        nearest += [f"method QLoRA with {qlora}"] if qlora else []
    return tuple(nearest) or ("a smaller base model",)


def _smallest_gpu(shape: ModelShape, workload: Workload, max_seq_length: int) -> str:
    """Return the smallest GPU that one sequence fits; nothing where none is large enough."""
    peak = estimate_memory(shape, workload, tokens_per_micro_batch=max_seq_length)
    return next((f"a GPU of {size} GB" for size in GPU_SIZES_GB if peak.fits(size * GB)), "")


def _longest_sequence(shape: ModelShape, workload: Workload, gpu_memory_bytes: int) -> int:
    """Return the longest sequence that fits alone, a multiple of 256 tokens; 0 where none does."""
    tokens = estimate_largest_micro_batch(shape, workload, gpu_memory_bytes)
    return tokens // LENGTH_STEP * LENGTH_STEP


def _leaner_method(
    shape: ModelShape, workload: Workload, *, max_seq_length: int, gpu_memory_bytes: int
) -> str:
    """Return the first method with fewer bytes that fits, with a shorter length if it must."""
    order = (Method.FULL, Method.LORA, Method.QLORA)
    for method in order[order.index(workload.method) + 1 :]:
        candidate = replace(workload, method=method)
        estimate = estimate_memory(shape, candidate, tokens_per_micro_batch=max_seq_length)
        if estimate.fits(gpu_memory_bytes):
            return f"method {method.value}"
        shorter = _longest_sequence(shape, candidate, gpu_memory_bytes)
        if method is order[-1] and shorter:
            return f"method {method.value} with parameters.maxSeqLength {shorter}"
    return ""


def _peak_text(estimate: MemoryEstimate) -> str:
    low, high = estimate.low_bytes / GB, estimate.high_bytes / GB
    return f"about {estimate.total_bytes / GB:.1f} GB ({low:.1f} to {high:.1f})"


def _caveat(shape: ModelShape) -> str:
    """Return what the figures leave out, as a sentence of its own; nothing where nothing is."""
    caveat = ""
    if not shape.exact:
        caveat += f' A model of type "{shape.model_type}" is unknown and was counted as a Llama.'
    if shape.not_counted:
        caveat += f" The model's {' and '.join(shape.not_counted)} comes on top."
    return caveat


@lru_cache(maxsize=len(GPU_SIZES_GB))
def _ceiling_text(gpu_memory_bytes: int) -> str:
    planned = MEMORY_CEILING * gpu_memory_bytes / GB
    return f"{planned:.1f} GB ({MEMORY_CEILING:.0%} of the GPU's {gpu_memory_bytes / GB:.1f})"
