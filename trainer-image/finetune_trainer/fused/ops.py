"""The small operations of a layer, which are bound by memory and not by arithmetic.

`kernels` has them in Triton for a GPU, `reference` in plain torch, which states what they mean and
runs everywhere else. Nothing here knows a model.
"""

from dataclasses import dataclass
from importlib import import_module
from math import pi, sqrt
from typing import Any, Protocol

import torch

from finetune_trainer.fused.dropout import Mask


@dataclass(frozen=True)
class HeadShape:
    """How a row of q, k and v is divided."""

    queries: int
    keys: int
    size: int

    @property
    def query_width(self) -> int:
        """Columns of q."""
        return self.queries * self.size

    @property
    def key_width(self) -> int:
        """Columns of k, and of v."""
        return self.keys * self.size


@dataclass(frozen=True)
class Gate:
    """What the gate of an MLP does: g·σ(linear·g + cubic·g³)."""

    linear: float
    cubic: float


SILU = Gate(1.0, 0.0)
GELU_TANH = Gate(2 * sqrt(2 / pi), 2 * sqrt(2 / pi) * 0.044715)
"""GELU by its tanh: g·(1 + tanh z)/2 is g·σ(2z)."""


@dataclass(frozen=True)
class HeadNorm:
    """The norm of each query and key head before the rotation, as Qwen3 and Gemma 3 have it."""

    query_weight: torch.Tensor
    """Shape: (head size,)."""
    key_weight: torch.Tensor
    """Shape: (head size,)."""
    eps: float


@dataclass(frozen=True)
class Rotation:
    """Where each token stands, and the rotation of its heads there."""

    cosines: torch.Tensor
    """Shape: (positions, head size / 2)."""
    sines: torch.Tensor
    """Shape: (positions, head size / 2)."""
    positions: torch.Tensor
    """Shape: (tokens,); the place in its own document."""


class Ops(Protocol):
    """What every implementation offers; T is the tokens of a micro-batch."""

    def rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, *, eps: float
    ) -> torch.Tensor:
        """Write the normed `x` (T, N) to `out` (T, N); return 1/rms, (T,).

        What is normed is rounded to the type of `weight` (N,) before it is multiplied with it.

        Args:
            x: The input, (T, N).
            weight: Of the norm, (N,).
            out: Where the result is written, (T, N).
            eps: Added to the mean square.
        """

    def add_rms_norm_backward(
        self,
        dx: torch.Tensor,
        dy: torch.Tensor,
        *,
        y: torch.Tensor,
        weight: torch.Tensor,
        rstd: torch.Tensor,
    ) -> None:
        """Add to `dx` (T, N) the gradient of the norm's input, from its output `y` and `dy`.

        Args:
            dx: Gradient that is added to, (T, N).
            dy: Gradient of the output, (T, N).
            y: Output of the norm, (T, N).
            weight: Of the norm, (N,).
            rstd: 1/rms of each row, (T,).
        """

    def add_rms_norm(
        self, stream: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *, eps: float
    ) -> torch.Tensor:
        """Add the normed `x` (T, N) to `stream` (T, N) and leave `x`; return 1/rms, (T,).

        Args:
            stream: Residual stream, added to, (T, N).
            x: The input, (T, N).
            weight: Of the norm, (N,).
            eps: Added to the mean square.
        """

    def rms_norm_backward(
        self,
        dy: torch.Tensor,
        out: torch.Tensor,
        *,
        x: torch.Tensor,
        weight: torch.Tensor,
        rstd: torch.Tensor,
    ) -> None:
        """Write to `out` (T, N) the gradient of the norm's input `x`, from its output's, `dy`.

        Args:
            dy: Gradient of the output, (T, N).
            out: Where the gradient is written, (T, N).
            x: The input, (T, N).
            weight: Of the norm, (N,).
            rstd: 1/rms of each row, (T,).
        """

    def rotate(
        self, qkv: torch.Tensor, rotation: Rotation, *, heads: HeadShape, norm: HeadNorm | None
    ) -> torch.Tensor | None:
        """Norm, where asked for, and rotate q and k in place; return 1/rms (T, q and k heads).

        Args:
            qkv: Q, k and v side by side, (T, columns); q and k are overwritten.
            rotation: Cosines and sines of the tokens.
            heads: How many query and key heads, and their size.
            norm: The heads' own norm; None where the model has none.
        """

    def rotate_backward(
        self,
        gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        out: torch.Tensor,
        rotation: Rotation,
        *,
        heads: HeadShape,
        norm: HeadNorm | None,
        rotated: torch.Tensor,
        rstd: torch.Tensor | None,
    ) -> None:
        """Write the gradient of q, k and v before `rotate` to `out`, side by side.

        Args:
            gradients: Of q, k and v as attention read them, each (T, heads, size).
            out: (T, q + 2 k columns).
            rotation: The same as `rotate` got.
            heads: The same.
            norm: The same.
            rotated: q and k as attention read them, (T, at least q + k columns); read with a norm.
            rstd: What `rotate` returned.
        """

    def glu(self, gate_up: torch.Tensor, out: torch.Tensor, *, gate: Gate) -> None:
        """Write gate(g)·u (T, F), g and u side by side in `gate_up` (T, at least 2F), to `out`.

        Args:
            gate_up: Gate and up side by side, (T, at least 2F).
            out: Where the result is written, (T, F).
            gate: The activation of the gate.
        """

    def glu_backward(
        self,
        gate_up: torch.Tensor,
        dh: torch.Tensor,
        *,
        gate: Gate,
        dropped: tuple[torch.Tensor, torch.Tensor, Mask] | None,
    ) -> None:
        """Overwrite `gate_up` with its gradient, and `dh` (T, F) with the down projection's input.

        With `dropped` = (e, a, mask), the adapter's part mask·(e·a) is added to `dh` first, and what
        replaces it is the masked input, as the adapter saw it.

        Args:
            gate_up: Gate and up of the forward pass; overwritten.
            dh: Gradient of the gated product, (T, F); overwritten.
            gate: The activation of the gate.
            dropped: Adapter gradient e, rows a and masks of the down projection; None without them.
        """

    def dropped_product(
        self, x: torch.Tensor, a: torch.Tensor, out: torch.Tensor, *, mask: Mask
    ) -> None:
        """Write to each slot j of `out` (T, slots x width) the product of mask_j(x) and a_jᵀ.

        Args:
            x: The input, (T, N).
            a: Rows of all slots, (slots x width, N).
            out: Where the result is written, (T, slots x width).
            mask: The dropout masks; None without dropout.
        """

    def add_dropped_product(
        self, dx: torch.Tensor, e: torch.Tensor, a: torch.Tensor, *, mask: Mask
    ) -> None:
        """Add to `dx` the sum over the slots of mask_j(e_j·a_j).

        Args:
            dx: Gradient that is added to, (T, N).
            e: Gradient of the adapter's inner columns, (T, slots x width).
            a: Rows of all slots, (slots x width, N).
            mask: The dropout masks; None without dropout.
        """

    def dropped_outer(self, e: torch.Tensor, x: torch.Tensor, *, mask: Mask) -> torch.Tensor:
        """Return e_jᵀ·mask_j(x) of all slots, (slots x width, columns of x), at least in fp32.

        Args:
            e: Gradient of the adapter's inner columns, (T, slots x width).
            x: The input, (T, N).
            mask: The dropout masks; None without dropout.
        """

    def cross_entropy(
        self, logits: torch.Tensor, targets: torch.Tensor, *, scale: float
    ) -> torch.Tensor:
        """Return the loss of each row and overwrite `logits` with the gradient of scale·loss.

        Args:
            logits: (rows, vocabulary), overwritten.
            targets: Token ids, (rows,).
            scale: Factor of the gradient.
        """

    def wide_product(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return a·b without rounding the sum to 16 bits.

        Args:
            a: Left matrix, 16 bits.
            b: Right matrix, 16 bits.
        """


def load_ops(device: torch.device) -> Ops:
    """Return the implementation for a device; Triton is imported only where it runs."""
    name = "kernels.elementwise" if device.type == "cuda" else "reference_ops"
    module: Any = import_module(f"finetune_trainer.fused.{name}")
    ops: Ops = module.OPS
    return ops


def find_kernel_faults(device: torch.device) -> tuple[type[Exception], ...]:
    """Return what is raised where a kernel cannot be compiled, started or trusted here."""
    if device.type != "cuda":
        return (RuntimeError, ArithmeticError)
    triton_errors: Any = import_module("triton.errors")
    return (RuntimeError, ArithmeticError, triton_errors.TritonError)
