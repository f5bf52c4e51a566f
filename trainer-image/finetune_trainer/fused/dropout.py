"""Dropout whose masks are computed and never stored.

A mask is a hash of seed, token and column, so backward draws the one of forward again. The token
counts from the start of the optimizer step, not of the micro-batch: however a step is split, and however
often it is done again, its masks are the same. There is no counter, hence nothing to save.
"""

from dataclasses import dataclass, replace

import torch

STEPS = 1024
"""Masks are drawn from 10 bits of a hash: three of them fit its 32. The probability is rounded to
1/1024 (0.1 becomes 0.0996) and what is kept is scaled by the rounded one, so nothing is biased."""
SLOTS = 3
"""Projections that read one input and drop it each for itself: q, k and v."""
_MASK_32 = 0xFFFFFFFF
_MASK_64 = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Mask:
    """The masks of one input, one a slot."""

    seed: int
    """Below 2^31."""
    threshold: int
    """Of 1024; an element whose hash lies below is dropped."""
    first_token: int
    """Place of the micro-batch's first token in its optimizer step."""
    slots: int
    """Adapters that drop this input."""
    width: int
    """Columns of each slot: the rank, padded."""

    @property
    def scale(self) -> float:
        """Factor on what is kept."""
        return STEPS / (STEPS - self.threshold)


@dataclass(frozen=True)
class Dropout:
    """What a micro-batch needs to draw its masks."""

    threshold: int
    seed: int
    first_token: int

    def mask(self, *, place: int, slots: int, width: int) -> Mask | None:
        """Return the masks of the input that is number `place` in the stack; None without dropout.

        Args:
            place: Number of the input in the stack.
            slots: Adapters that read it.
            width: Columns of one slot.
        """
        if not self.threshold:
            return None
        return Mask(
            seed=mix(self.seed, place) & 0x7FFFFFFF,
            threshold=self.threshold,
            first_token=self.first_token,
            slots=slots,
            width=width,
        )

    def off(self) -> "Dropout":
        """Return the same without dropping anything."""
        return replace(self, threshold=0)


def count_threshold(probability: float) -> int:
    """Return the probability in 1/1024; what is not zero stays at least one of them."""
    return max(1, round(STEPS * probability)) if probability else 0


def mix(seed: int, place: int) -> int:
    """Return 64 well-mixed bits of two numbers (the finaliser of splitmix64).

    Args:
        seed: First number, 64 bits.
        place: Second number.
    """
    bits = (seed + (place + 1) * 0x9E3779B97F4A7C15) & _MASK_64
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return bits ^ (bits >> 31)


def build_factors(
    mask: Mask, *, slot: int, tokens: int, columns: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return 0 or `mask.scale` for each element, (tokens, columns): what the kernels compute inline.

    Args:
        mask: Seed, threshold and scale of the masks.
        slot: Number of the adapter within its input.
        tokens: Rows.
        columns: Of the input.
        dtype: Of the result.
    """
    rows = (mask.first_token + torch.arange(tokens))[:, None]
    bits = ((rows * columns + torch.arange(columns)[None]) * 0x9E3779B1 + mask.seed) & _MASK_32
    bits = ((bits ^ (bits >> 16)) * 0x85EBCA6B) & _MASK_32
    bits = ((bits ^ (bits >> 13)) * 0xC2B2AE35) & _MASK_32
    bits = bits ^ (bits >> 16)
    kept = ((bits >> (10 * slot)) & (STEPS - 1)) >= mask.threshold
    return kept.to(dtype) * mask.scale
