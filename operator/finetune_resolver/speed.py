"""How long a training will take, where this trainer's speed on such a GPU was measured.

Two shapes were measured on one GPU (docs/performance.md); between them the rate of arithmetic is
interpolated, beyond them nothing is said. Loading, evaluation and publishing come on top. Pure.
"""

from math import log
from typing import Final

from finetune_resolver.model_shape import ModelShape

MEASURED_PRODUCTS: Final = frozenset({"NVIDIA-H100-80GB-HBM3"})
"""Values of the node label nvidia.com/gpu.product whose speed was measured."""
MEASURED_FAMILIES: Final = frozenset({"llama"})
"""Model types that the fused engine was measured with."""
SMALL: Final = (1.236e9, 85_222.0)
LARGE: Final = (7.505e9, 16_928.0)
"""Multiplied weights, and tokens a second on one H100 80 GB (2026-11-25): LoRA r 16 on all linear
modules; of the 8B's rows the one with dropout."""
FLOPS_A_WEIGHT: Final = 4
"""Of one token: forward, and backward through frozen weights."""


def estimate_tokens_per_second(shape: ModelShape, *, product: str) -> float | None:
    """Return tokens a second on one GPU, or None where nothing near was measured."""
    if product not in MEASURED_PRODUCTS or shape.model_type not in MEASURED_FAMILIES:
        return None
    weights = shape.linear_parameters() + shape.vocabulary_size * shape.hidden_size
    if not SMALL[0] * 0.9 <= weights <= LARGE[0] * 1.1:
        return None
    share = log(weights / SMALL[0]) / log(LARGE[0] / SMALL[0])
    slow, fast = (FLOPS_A_WEIGHT * count * speed for count, speed in (SMALL, LARGE))
    return (slow + (fast - slow) * share) / (FLOPS_A_WEIGHT * weights)
