"""The rotation's tables: cosine and sine of each position, by the model's own frequencies."""

from typing import Any

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from finetune_trainer.fused.architecture import rotations_of
from finetune_trainer.fused.ops import Rotation

SMALLEST_TABLE = 4096
"""Positions computed at first; more follow when a document is longer."""


class RotaryTables:
    """Cosines and sines, in fp32, of as many positions as were needed so far."""

    def __init__(self, frequencies: torch.Tensor, *, scaling: float, device: torch.device) -> None:
        self._frequencies = frequencies.double().cpu()
        self._scaling = scaling
        self._device = device
        self._dtype = frequencies.dtype
        self._fill(SMALLEST_TABLE)

    def _fill(self, positions: int) -> None:
        angles = torch.arange(positions, dtype=torch.float64)[:, None] * self._frequencies[None]
        self._cosines = (angles.cos() * self._scaling).to(self._device, self._dtype)
        self._sines = (angles.sin() * self._scaling).to(self._device, self._dtype)

    def rotation(self, positions: torch.Tensor, *, longest: int) -> Rotation:
        """Return the rotation of tokens at `positions` (tokens,), all below `longest`.

        Args:
            positions: Of the tokens within their documents, (tokens,).
            longest: Tokens of the longest document.
        """
        if longest > len(self._cosines):
            self._fill(1 << (longest - 1).bit_length())
        return Rotation(self._cosines, self._sines, positions)


def compute_frequencies(
    config: Any, *, head_size: int, rotation: str | None = None
) -> tuple[torch.Tensor, float]:
    """Return the angle a position for each pair of columns (head size / 2,), and the tables' factor.

    Args:
        config: Of the model.
        head_size: Columns of a head.
        rotation: Which one, where layers have different ones.
    """
    parameters = rotations_of(config)[rotation]
    kind = parameters.get("rope_type", "default")
    if kind != "default":
        frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](
            config, torch.device("cpu"), layer_type=rotation
        )
        return frequencies, float(scaling)
    # In fp32, as the models compute them: the same rounding as every other engine's.
    even = torch.arange(0, head_size, 2, dtype=torch.int64).float()
    return 1.0 / parameters["rope_theta"] ** (even / head_size), 1.0
