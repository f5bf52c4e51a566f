"""The small operations as Triton kernels: each reads and writes its tensors once.

The launchers of the kernels in `norm_kernels`, `rotary_kernels`, `dropout_kernels` and below; what each operation means
stands in `ops`, and in torch in `reference`. Sums are in fp32 whatever the tensors hold. Tile
sizes were measured on one H100 at the shapes of an 8B and a 1B.
"""

import torch
import triton
import triton.language as tl

from finetune_trainer.fused.dropout import STEPS, Mask
from finetune_trainer.fused.kernels import dropout, rotary
from finetune_trainer.fused.kernels import norm as norm_kernels
from finetune_trainer.fused.ops import Gate, HeadNorm, HeadShape, Ops, Rotation

GATE_BLOCK = 2048
"""Columns of one program of the forward gate."""
GATE_TILE = (8, 512)
"""Tokens and columns of one program of the backward gate without dropout."""
DROPPED_GATE_TILE = (32, 128)
"""The same with dropout, whose adapter term needs a row of A for each column."""
LARGEST_PLAIN_WIDTH = 32
"""Above it that term is a matrix product of the tensor cores."""
VOCABULARY_BLOCK = 4096
"""Logits that one program holds at a time."""


@triton.jit
def _sigmoid_of_gate(gate, linear: tl.constexpr, cubic: tl.constexpr):
    inner = gate * linear
    if cubic != 0.0:
        inner = gate * (linear + cubic * gate * gate)
    return tl.sigmoid(inner)


@triton.jit
def _slope_of_inner(gate, linear: tl.constexpr, cubic: tl.constexpr):
    slope = linear
    if cubic != 0.0:
        slope = linear + 3 * cubic * gate * gate
    return slope


@triton.jit
def _glu(
    gate_up,
    out,
    gate_stride,
    out_stride,
    width,
    linear: tl.constexpr,
    cubic: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    at = gate_up + row * gate_stride + column
    gate = tl.load(at, mask=inside, other=0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0).to(tl.float32)
    # Rounded between gate and product, as the models do it.
    gated = gate * _sigmoid_of_gate(gate, linear, cubic)
    gated = gated.to(out.dtype.element_ty).to(tl.float32) * up
    tl.store(out + row * out_stride + column, gated.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens", "seed", "first"])
def _glu_backward(
    gate_up,
    dh,
    e,
    a,
    tokens,
    width,
    gate_stride,
    dh_stride,
    e_stride,
    a_stride,
    seed,
    first,
    linear: tl.constexpr,
    cubic: tl.constexpr,
    threshold: tl.constexpr,
    steps: tl.constexpr,
    rank: tl.constexpr,
    on_tensor_cores: tl.constexpr,
    block_t: tl.constexpr,
    block_n: tl.constexpr,
):
    column = tl.program_id(0) * block_n + tl.arange(0, block_n)
    token = (tl.program_id(1) * block_t + tl.arange(0, block_t)).to(tl.int64)
    is_token, is_column = token < tokens, column < width
    inside = is_token[:, None] & is_column[None, :]
    at_gate = gate_up + token[:, None] * gate_stride + column[None, :]
    at_dh = dh + token[:, None] * dh_stride + column[None, :]
    gate = tl.load(at_gate, mask=inside, other=0).to(tl.float32)
    up = tl.load(at_gate + width, mask=inside, other=0).to(tl.float32)
    gradient = tl.load(at_dh, mask=inside, other=0).to(tl.float32)
    sigmoid = _sigmoid_of_gate(gate, linear, cubic)
    activated = gate * sigmoid
    gated = activated.to(gate_up.dtype.element_ty).to(tl.float32) * up
    if threshold > 0:
        if on_tensor_cores:
            slot = tl.arange(0, rank)
            left = tl.load(
                e + token[:, None] * e_stride + slot[None, :], mask=is_token[:, None], other=0
            )
            right = tl.load(
                a + slot[:, None] * a_stride + column[None, :], mask=is_column[None, :], other=0
            )
            term = tl.dot(left, right, out_dtype=tl.float32)
        else:
            term = tl.zeros((block_t, block_n), tl.float32)
            for slot in tl.static_range(rank):
                left = tl.load(e + token * e_stride + slot, mask=is_token, other=0).to(tl.float32)
                right = tl.load(a + slot * a_stride + column, mask=is_column, other=0)
                term += left[:, None] * right.to(tl.float32)[None, :]
        bits = dropout.hash_bits((first + token)[:, None] * width + column[None, :], seed)
        kept = (bits & (steps - 1)) >= threshold
        scale: tl.constexpr = steps / (steps - threshold)
        gradient += tl.where(kept, term * scale, 0.0)
        gated = tl.where(kept, gated * scale, 0.0)
    slope = _slope_of_inner(gate, linear, cubic)
    to_gate = gradient * up * sigmoid * (1 + gate * slope * (1 - sigmoid))
    tl.store(at_gate, to_gate.to(gate_up.dtype.element_ty), mask=inside)
    tl.store(at_gate + width, (gradient * activated).to(gate_up.dtype.element_ty), mask=inside)
    tl.store(at_dh, gated.to(dh.dtype.element_ty), mask=inside)


@triton.jit
def _cross_entropy(
    logits, targets, losses, stride, scale, vocabulary: tl.constexpr, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = logits + row * stride
    target = tl.load(targets + row)
    of_target = tl.load(at + target).to(tl.float32)
    # One running maximum and sum a lane; lanes meet only after the last block.
    largest = tl.full((block,), -1e30, tl.float32)
    total = tl.zeros((block,), tl.float32)
    for start in range(0, vocabulary, block):
        column = start + tl.arange(0, block)
        value = tl.load(at + column, mask=column < vocabulary, other=-1e30).to(tl.float32)
        higher = tl.maximum(largest, value)
        total = total * tl.exp(largest - higher) + tl.exp(value - higher)
        largest = higher
    top = tl.max(largest, 0)
    logarithm = top + tl.log(tl.sum(total * tl.exp(largest - top), 0))
    tl.store(losses + row, logarithm - of_target)
    for start in range(0, vocabulary, block):
        column = start + tl.arange(0, block)
        inside = column < vocabulary
        value = tl.load(at + column, mask=inside, other=-1e30).to(tl.float32)
        gradient = (tl.exp(value - logarithm) - tl.where(column == target, 1.0, 0.0)) * scale
        tl.store(at + column, gradient.to(logits.dtype.element_ty), mask=inside)


class Kernels:
    """Every operation as one kernel."""

    def rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, *, eps: float
    ) -> torch.Tensor:
        """Norm each row."""
        return norm_kernels.rms_norm(x, weight, out, eps=eps)

    def add_rms_norm_backward(
        self,
        dx: torch.Tensor,
        dy: torch.Tensor,
        *,
        y: torch.Tensor,
        weight: torch.Tensor,
        rstd: torch.Tensor,
    ) -> None:
        """Add the gradient of the norm's input."""
        norm_kernels.add_rms_norm_backward(dx, dy, y=y, weight=weight, rstd=rstd)

    def add_rms_norm(
        self, stream: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *, eps: float
    ) -> torch.Tensor:
        """Norm each row and add it."""
        return norm_kernels.add_rms_norm(stream, x, weight, eps=eps)

    def rms_norm_backward(
        self,
        dy: torch.Tensor,
        out: torch.Tensor,
        *,
        x: torch.Tensor,
        weight: torch.Tensor,
        rstd: torch.Tensor,
    ) -> None:
        """Write the gradient of the norm's input."""
        norm_kernels.rms_norm_backward(dy, out, x=x, weight=weight, rstd=rstd)

    def rotate(
        self, qkv: torch.Tensor, rotation: Rotation, *, heads: HeadShape, norm: HeadNorm | None
    ) -> torch.Tensor | None:
        """Norm and rotate q and k where they stand."""
        return rotary.rotate(qkv, rotation, heads=heads, norm=norm)

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
        """Turn the gradients back, through the norm where there was one."""
        rotary.rotate_backward(
            gradients, out, rotation, heads=heads, norm=norm, rotated=rotated, rstd=rstd
        )

    def glu(self, gate_up: torch.Tensor, out: torch.Tensor, *, gate: Gate) -> None:
        """Gate."""
        tokens, width = out.shape
        _glu[(tokens, triton.cdiv(width, GATE_BLOCK))](
            gate_up,
            out,
            gate_up.stride(0),
            out.stride(0),
            width,
            gate.linear,
            gate.cubic,
            GATE_BLOCK,
            num_warps=8,
        )

    def glu_backward(
        self,
        gate_up: torch.Tensor,
        dh: torch.Tensor,
        *,
        gate: Gate,
        dropped: tuple[torch.Tensor, torch.Tensor, Mask] | None,
    ) -> None:
        """Put the gradients where gate and up were, and the gated value where its gradient was."""
        tokens, width = dh.shape
        e, a, mask = dropped or (dh, dh, Mask(0, 0, 0, 1, 1))
        block_t, block_n = DROPPED_GATE_TILE if dropped else GATE_TILE
        _glu_backward[(triton.cdiv(width, block_n), triton.cdiv(tokens, block_t))](
            gate_up,
            dh,
            e,
            a,
            tokens,
            width,
            gate_up.stride(0),
            dh.stride(0),
            e.stride(0),
            a.stride(0),
            mask.seed,
            mask.first_token,
            gate.linear,
            gate.cubic,
            mask.threshold,
            STEPS,
            mask.width,
            mask.width > LARGEST_PLAIN_WIDTH,
            block_t,
            block_n,
            num_warps=8,
        )

    def dropped_product(
        self, x: torch.Tensor, a: torch.Tensor, out: torch.Tensor, *, mask: Mask
    ) -> None:
        """Multiply what each slot sees of `x`."""
        dropout.dropped_product(x, a, out, mask=mask)

    def add_dropped_product(
        self, dx: torch.Tensor, e: torch.Tensor, a: torch.Tensor, *, mask: Mask
    ) -> None:
        """Give back to `x` what its slots have seen of it."""
        dropout.add_dropped_product(dx, e, a, mask=mask)

    def dropped_outer(self, e: torch.Tensor, x: torch.Tensor, *, mask: Mask) -> torch.Tensor:
        """Return the gradient of `a`, in fp32."""
        return dropout.dropped_outer(e, x, mask=mask)

    def cross_entropy(
        self, logits: torch.Tensor, targets: torch.Tensor, *, scale: float
    ) -> torch.Tensor:
        """Return the losses, and leave the gradient."""
        rows, vocabulary = logits.shape
        losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
        _cross_entropy[(rows,)](
            logits,
            targets,
            losses,
            logits.stride(0),
            scale,
            vocabulary,
            VOCABULARY_BLOCK,
            num_warps=8,
        )
        return losses

    def wide_product(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Multiply 16-bit matrices into fp32."""
        if a.dtype == torch.float32:
            return a @ b
        return torch.mm(a, b, out_dtype=torch.float32)


OPS: Ops = Kernels()
