"""Final norm, language-model head and loss, without ever holding all logits.

Called by `engine` alone. Only rows that are scored are multiplied with the vocabulary, a few thousand
at a time. The head is frozen, so the gradient of its input is computed in the same pass as the loss,
while the logits are there.
"""

from dataclasses import dataclass
from typing import Any

import torch

from finetune_api.micro_batch import LOGIT_ROWS
from finetune_trainer.fused.ops import Ops

ROW_STEP = 128
"""Rows of a tile of the tensor cores."""


@dataclass(frozen=True)
class Head:
    """The frozen end of a model."""

    ops: Ops
    norm: torch.Tensor
    """Shape: (H,)."""
    eps: float
    weight: torch.Tensor
    """Shape: (vocabulary, H)."""

    def sum_of_losses(
        self, stream: torch.Tensor, *, scored: torch.Tensor, targets: torch.Tensor, divisor: float
    ) -> torch.Tensor:
        """Return the losses of the scored rows, summed and divided by `divisor`.

        Args:
            stream: (T, H), after all layers; it is overwritten.
            scored: Numbers of the rows that carry loss.
            targets: The token that each of them predicts.
            divisor: Of the sum.
        """
        if torch.is_grad_enabled():
            loss: torch.Tensor = _Loss.apply(self, stream, scored, targets, divisor)
            return loss
        normed, _ = self._norm(stream)
        losses = [
            self._losses(normed[rows], targets[part], divisor=divisor)[0]
            for rows, part in _portions(scored)
        ]
        return sum(losses, stream.new_zeros((), dtype=torch.float32)) / divisor

    def _norm(self, stream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normed = torch.empty_like(stream)
        return normed, self.ops.rms_norm(stream, self.norm, normed, eps=self.eps)

    def _losses(
        self, rows: torch.Tensor, targets: torch.Tensor, *, divisor: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the rows' losses, and the logits, which became their gradient."""
        logits = torch.mm(rows, self.weight.t())
        losses = self.ops.cross_entropy(logits, targets, scale=1 / divisor)
        return losses.sum(), logits

    def loss_and_gradient(
        self, stream: torch.Tensor, scored: torch.Tensor, targets: torch.Tensor, divisor: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss, and its gradient by the stream.

        Args:
            stream: Residual stream, (T, H).
            scored: Rows that are scored, (S,).
            targets: Token ids of those rows, (S,).
            divisor: Supervised tokens of the whole step.
        """
        normed, rstd = self._norm(stream)
        d_normed = torch.zeros_like(normed)
        total = stream.new_zeros((), dtype=torch.promote_types(stream.dtype, torch.float32))
        for rows, part in _portions(scored):
            losses, d_logits = self._losses(normed[rows], targets[part], divisor=divisor)
            d_normed[rows] = torch.mm(d_logits, self.weight)
            total += losses
            # Else the next portion's logits would exist beside these.
            del d_logits
        gradient = torch.zeros_like(stream)
        self.ops.add_rms_norm_backward(gradient, d_normed, y=normed, weight=self.norm, rstd=rstd)
        return total / divisor, gradient


def _portions(scored: torch.Tensor) -> list[tuple[torch.Tensor, slice]]:
    """Return the scored rows in portions of like size, and the place of each portion.

    All but the last hold a multiple of `ROW_STEP`: at odd addresses Triton compiles its kernel again.
    """
    count = max(1, -(-len(scored) // LOGIT_ROWS))
    size = max(1, -(-len(scored) // (count * ROW_STEP))) * ROW_STEP
    places = [slice(first, first + size) for first in range(0, len(scored), size)]
    return [(scored[place], place) for place in places]


class _Loss(torch.autograd.Function):
    """A scalar whose gradient was computed with it."""

    @staticmethod
    def forward(
        ctx: Any,
        head: Head,
        stream: torch.Tensor,
        scored: torch.Tensor,
        targets: torch.Tensor,
        divisor: float,
    ) -> torch.Tensor:
        loss, gradient = head.loss_and_gradient(stream, scored, targets, divisor)
        ctx.gradient = gradient
        return loss

    @staticmethod
    def backward(ctx: Any, of_loss: torch.Tensor) -> tuple[None, torch.Tensor, None, None, None]:
        return None, ctx.gradient * of_loss.to(ctx.gradient.dtype), None, None, None
