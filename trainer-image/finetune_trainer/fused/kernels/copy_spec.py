"""One copy of an adapter parameter into a fused matrix, as a value."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Copy:
    """One parameter and its place."""

    to: torch.Tensor
    """A view into a matrix; its rows may be apart."""
    parameter: torch.nn.Parameter
    """Of the same shape."""
    factor: float
    is_b: bool
    """Whether it is a B, which is zero where the base model alone is asked for."""
