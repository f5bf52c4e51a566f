"""How long a training will take, where this trainer's speed on such a GPU was measured.

Two shapes were measured on one GPU (docs/performance.md); between them the rate of arithmetic is
interpolated, beyond them nothing is said. Loading, evaluation and publishing come on top. Pure.
"""

from math import log
from typing import Final

from finetune_resolver.memory.model_shape import ModelShape

MEASURED_PRODUCTS: Final = frozenset({"NVIDIA-H100-80GB-HBM3"})
"""Values of the node label nvidia.com/gpu.product whose speed was measured."""
MEASURED_FAMILIES: Final = frozenset({"llama"})
"""Model types that the fused engine was measured with."""
SMALL: Final = (1.236e9, 85_222.0)
LARGE: Final = (7.505e9, 16_928.0)
"""Multiplied weights, and tokens a second on one H100 80 GB (2026-11-25): LoRA r 16 on all linear
modules; of the 8B's rows the one with dropout."""
NEAR: Final = (0.9, 1.1)
"""How far beyond the two sizes a speed is still said, as their shares (assumption)."""
FLOPS_A_WEIGHT: Final = 4
"""Of one token: forward, and backward through frozen weights."""


def estimate_tokens_per_second(shape: ModelShape, *, product: str) -> float | None:
    """Return tokens a second on one GPU, or None where nothing near was measured.

    Args:
        shape: the sizes of the base model.
        product: name of the GPU, as NVIDIA's device plugin labels it.
    """
    if why_unknown(shape, product=product):
        return None
    weights = _multiplied_weights(shape)
    share = log(weights / SMALL[0]) / log(LARGE[0] / SMALL[0])
    slow, fast = (FLOPS_A_WEIGHT * count * speed for count, speed in (SMALL, LARGE))
    return (slow + (fast - slow) * share) / (FLOPS_A_WEIGHT * weights)


def why_unknown(shape: ModelShape, *, product: str) -> str:
    """Return why no speed is known; empty where one is.

    Args:
        shape: the sizes of the base model.
        product: name of the GPU, as NVIDIA's device plugin labels it.
    """
    # The model first: naming the GPU would not help a model that was not measured on it.
    if shape.model_type not in MEASURED_FAMILIES:
        families = " and ".join(sorted(MEASURED_FAMILIES))
        return f"no speed of a {shape.model_type} model was measured, only of {families}"
    if not SMALL[0] * NEAR[0] <= _multiplied_weights(shape) <= LARGE[0] * NEAR[1]:
        return "no speed of a model of this size was measured, only of 1B to 8B"
    measured = " or ".join(sorted(MEASURED_PRODUCTS))
    if not product:
        return (
            "scheduling.nodeSelector names no nvidia.com/gpu.product, and a speed was measured on "
            f"{measured}"
        )
    if product not in MEASURED_PRODUCTS:
        return f"no speed was measured on {product}, only on {measured}"
    return ""


def _multiplied_weights(shape: ModelShape) -> int:
    return shape.linear_parameters() + shape.vocabulary_size * shape.hidden_size
