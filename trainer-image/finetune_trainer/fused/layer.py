"""One decoder layer: attention and a gated MLP, each behind a norm, forward and backward by hand.

Called by `stack` alone. T is the tokens of a micro-batch, H the hidden size, F the MLP's width. The residual
stream and its gradient are updated in place; of what forward computes, only what backward reads is
kept, and nothing twice: an input's norm is kept by its output alone.

Where a model norms what attention and MLP put out, the norm stands between product and stream. There the
product is kept, which the norm leaves as it was: its output is never written, only added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.fused.architecture import Architecture
from finetune_trainer.fused.attention import Attended, Attention, DocumentBounds
from finetune_trainer.fused.dropout import Dropout, Mask
from finetune_trainer.fused.ops import HeadNorm, HeadShape, Ops, Rotation
from finetune_trainer.fused.projection import PROJECTIONS, Projection, Workspace


@dataclass(frozen=True)
class LayerContext:
    """What all layers share in one micro-batch."""

    ops: Ops
    attention: Attention
    documents: DocumentBounds
    rotations: Mapping[str | None, Rotation]
    """By `LayerKind.rotation`."""
    dropout: Dropout


@dataclass(frozen=True)
class SavedOutput:
    """What stays of an output that went into the stream."""

    adapted: torch.Tensor
    """What the adapter made of the input, (T, ranks)."""
    product: torch.Tensor | None = None
    """Before its norm, (T, H); None without one."""
    rstd: torch.Tensor | None = None


@dataclass
class SavedActivations:
    """What one layer's backward reads."""

    qkv_input: torch.Tensor
    """Shape: (T, H + ranks)."""
    qkv_rstd: torch.Tensor
    qkv: torch.Tensor
    """Rotated, (T, q + 2 k)."""
    head_rstd: torch.Tensor | None
    attended: Attended
    output: SavedOutput
    mlp_input: torch.Tensor
    """Shape: (T, H + ranks)."""
    mlp_rstd: torch.Tensor
    gate_up: torch.Tensor
    """Shape: (T, 2F + ranks)."""
    down: SavedOutput


class Layer:
    """The frozen weights of one layer with the adapters in them."""

    def __init__(
        self, module: Any, *, number: int, architecture: Architecture, workspace: Workspace
    ) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.projections = tuple(
            Projection(modules, place=number * PROJECTIONS + place, workspace=workspace)
            for place, modules in enumerate(
                (
                    [attention.q_proj, attention.k_proj, attention.v_proj],
                    [attention.o_proj],
                    [mlp.gate_proj, mlp.up_proj],
                    [mlp.down_proj],
                )
            )
        )
        self.qkv, self.output, self.gate_up, self.down = self.projections
        weight_of, names = architecture.norm_weight, architecture.family.norms
        self.input_norm = weight_of(getattr(module, names.attention_input))
        self.mlp_norm = weight_of(getattr(module, names.mlp_input))
        self.output_norm, self.down_norm = (
            None if name is None else weight_of(getattr(module, name))
            for name in (names.attention_output, names.mlp_output)
        )
        self.eps = architecture.eps
        self.head_norm = _find_head_norm(attention, architecture)
        self.heads, self.gate = architecture.heads, architecture.gate
        self.kind = architecture.layers[number]
        self.is_first = number == 0

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is trained, in the order of `backward`'s gradients."""
        return [each for projection in self.projections for each in projection.parameters()]

    # --- Forward ----------------------------------------------------------------------------------

    def forward(self, stream: torch.Tensor, context: LayerContext) -> SavedActivations:
        """Add the layer to the residual stream (T, H), in place.

        Args:
            stream: Residual stream, (T, H).
            context: What all layers of a micro-batch share.
        """
        ops, heads, qkv_of = context.ops, self.heads, self.qkv
        qkv_input, qkv_rstd = self._enter(qkv_of, stream, self.input_norm, context)
        qkv = qkv_of.forward(qkv_input, stream.new_empty(len(stream), qkv_of.outputs))
        rotation = context.rotations[self.kind.rotation]
        head_rstd = ops.rotate(qkv, rotation, heads=heads, norm=self.head_norm)
        attended = context.attention.forward(
            *_divide(qkv, heads),
            documents=context.documents,
            attention_window=self.kind.attention_window,
        )
        self.output.load()
        extended = self.output.extended(stream)
        # Copied, because attention chooses where it writes.
        extended[:, : self.output.inputs].copy_(attended.out.flatten(1))
        output = self._leave(self.output, self.output_norm, stream, extended, context)
        del extended

        mlp_input, mlp_rstd = self._enter(self.gate_up, stream, self.mlp_norm, context)
        width = self.gate_up.outputs
        gate_up = stream.new_empty(len(stream), width + self.gate_up.ranks)
        self.gate_up.forward(mlp_input, gate_up[:, :width])
        self.down.load()
        extended = self.down.extended(stream)
        ops.glu(gate_up, extended[:, : self.down.inputs], gate=self.gate)
        down = self._leave(self.down, self.down_norm, stream, extended, context)
        return SavedActivations(
            qkv_input=qkv_input,
            qkv_rstd=qkv_rstd,
            qkv=qkv,
            head_rstd=head_rstd,
            attended=attended,
            output=output,
            mlp_input=mlp_input,
            mlp_rstd=mlp_rstd,
            gate_up=gate_up,
            down=down,
        )

    def _enter(
        self,
        projection: Projection,
        stream: torch.Tensor,
        norm: torch.Tensor,
        context: LayerContext,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normed stream with A·x beside it, (T, H + ranks), and 1/rms."""
        projection.load()
        extended = projection.extended(stream)
        x = extended[:, : projection.inputs]
        rstd = context.ops.rms_norm(stream, norm, x, eps=self.eps)
        adapted = extended[:, projection.inputs :]
        projection.adapt(context.ops, x, adapted, projection.mask(context.dropout))
        return extended, rstd

    def _leave(
        self,
        projection: Projection,
        norm: torch.Tensor | None,
        stream: torch.Tensor,
        extended: torch.Tensor,
        context: LayerContext,
    ) -> SavedOutput:
        """Add a projection's output, normed where the model does so, to the stream.

        One product for both parts: a young adapter's alone would be smaller than half a step of the
        stream's 16 bits almost everywhere, and be rounded away.
        """
        x, adapted = extended[:, : projection.inputs], extended[:, projection.inputs :]
        projection.adapt(context.ops, x, adapted, projection.mask(context.dropout))
        # A copy of its own: a view would keep the whole of `extended`.
        adapted = adapted.clone()
        if norm is None:
            stream.addmm_(extended, projection.matrix[: projection.outputs].t())
            return SavedOutput(adapted)
        product = projection.forward(extended, torch.empty_like(stream))
        rstd = context.ops.add_rms_norm(stream, product, norm, eps=self.eps)
        return SavedOutput(adapted, product, rstd)

    # --- Backward ---------------------------------------------------------------------------------

    def backward(
        self, gradient: torch.Tensor, kept: SavedActivations, context: LayerContext
    ) -> list[torch.Tensor]:
        """Take the gradient of the stream back through the layer, in place.

        Args:
            gradient: (T, H + at least the ranks of both o and down); the last columns are scratch.
            kept: What forward returned; it is overwritten.
            context: As in forward.

        Returns:
            The gradients of `parameters`.
        """
        of_gate_up, of_down = self._backward_mlp(gradient, kept, context)
        of_qkv, of_output = self._backward_attention(gradient, kept, context)
        return [*of_qkv, *of_output, *of_gate_up, *of_down]

    def _backward_mlp(
        self, gradient: torch.Tensor, kept: SavedActivations, context: LayerContext
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        ops, down, gate_up = context.ops, self.down, self.gate_up
        mask = down.mask(context.dropout)
        down.load()
        dy = _gradient_of_product(ops, down, self.down_norm, gradient, kept.down)
        of_adapter = down.project(dy)
        dropped: tuple[torch.Tensor, torch.Tensor, Mask] | None = None
        if mask is None:
            hidden = torch.mm(dy, down.matrix[:, : down.inputs])
        else:
            # The adapter's part joins inside the gate, which draws the mask anyway.
            hidden = torch.mm(dy[:, : down.outputs], down.weight)
            dropped = (of_adapter[:, : mask.width], down.a[: mask.width], mask)
        ops.glu_backward(kept.gate_up, hidden, gate=self.gate, dropped=dropped)
        of_down = down.gradients(
            ops, dy, x=hidden, adapted=kept.down.adapted, mask=mask, x_is_masked=True
        )
        del hidden, dy, of_adapter, dropped
        gate_mask = gate_up.mask(context.dropout)
        x = kept.mlp_input[:, : gate_up.inputs]
        adapted = kept.mlp_input[:, gate_up.inputs :]
        gate_up.load()
        gate_up.project(kept.gate_up)
        dx = gate_up.backward_input(ops, kept.gate_up, gate_mask)
        of_gate_up = gate_up.gradients(ops, kept.gate_up, x=x, adapted=adapted, mask=gate_mask)
        stream = gradient[:, : gate_up.inputs]
        ops.add_rms_norm_backward(stream, dx, y=x, weight=self.mlp_norm, rstd=kept.mlp_rstd)
        return of_gate_up, of_down

    def _backward_attention(
        self, gradient: torch.Tensor, kept: SavedActivations, context: LayerContext
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        ops, output, qkv = context.ops, self.output, self.qkv
        mask = output.mask(context.dropout)
        output.load()
        dy = _gradient_of_product(ops, output, self.output_norm, gradient, kept.output)
        output.project(dy)
        d_attended = output.backward_input(ops, dy, mask)
        flat = kept.attended.out.flatten(1)
        of_output = output.gradients(ops, dy, x=flat, adapted=kept.output.adapted, mask=mask)
        del dy
        d_qkv = self._backward_heads(d_attended, kept, context)
        del d_attended

        qkv_mask = qkv.mask(context.dropout)
        x, adapted = kept.qkv_input[:, : qkv.inputs], kept.qkv_input[:, qkv.inputs :]
        qkv.load()
        qkv.project(d_qkv)
        of_qkv = qkv.gradients(ops, d_qkv, x=x, adapted=adapted, mask=qkv_mask)
        if not self.is_first:
            # Below the first layer nothing is trained, so nothing needs a gradient.
            dx = qkv.backward_input(ops, d_qkv, qkv_mask)
            stream = gradient[:, : qkv.inputs]
            ops.add_rms_norm_backward(stream, dx, y=x, weight=self.input_norm, rstd=kept.qkv_rstd)
        return of_qkv, of_output

    def _backward_heads(
        self, d_attended: torch.Tensor, kept: SavedActivations, context: LayerContext
    ) -> torch.Tensor:
        """Return the gradient of q, k and v before norm and rotation, (T, q + 2 k + ranks)."""
        heads = self.heads
        gradients = context.attention.backward(
            d_attended.view(-1, heads.queries, heads.size),
            *_divide(kept.qkv, heads),
            attended=kept.attended,
            documents=context.documents,
            attention_window=self.kind.attention_window,
        )
        width = self.qkv.outputs
        d_qkv = d_attended.new_empty(len(d_attended), width + self.qkv.ranks)
        context.ops.rotate_backward(
            gradients,
            d_qkv[:, :width],
            context.rotations[self.kind.rotation],
            heads=heads,
            norm=self.head_norm,
            rotated=kept.qkv,
            rstd=kept.head_rstd,
        )
        return d_qkv


def _divide(qkv: torch.Tensor, heads: HeadShape) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return views of q, k and v, each (T, heads, size)."""
    q, k, v = qkv.split([heads.query_width, heads.key_width, heads.key_width], 1)
    return (
        q.unflatten(1, (heads.queries, heads.size)),
        k.unflatten(1, (heads.keys, heads.size)),
        v.unflatten(1, (heads.keys, heads.size)),
    )


def _gradient_of_product(
    ops: Ops,
    projection: Projection,
    norm: torch.Tensor | None,
    gradient: torch.Tensor,
    left: SavedOutput,
) -> torch.Tensor:
    """Return the gradient of a projection's output, (T, H + ranks); the last columns are scratch."""
    if norm is None or left.product is None or left.rstd is None:
        # The stream's own: what comes out of the projection is added to it as it is.
        return gradient[:, : projection.outputs + projection.ranks]
    dy = gradient.new_empty(len(gradient), projection.outputs + projection.ranks)
    ops.rms_norm_backward(
        gradient[:, : projection.outputs],
        dy[:, : projection.outputs],
        x=left.product,
        weight=norm,
        rstd=left.rstd,
    )
    return dy


def _find_head_norm(attention: Any, architecture: Architecture) -> HeadNorm | None:
    if getattr(attention, "q_norm", None) is None:
        return None
    return HeadNorm(
        query_weight=architecture.norm_weight(attention.q_norm),
        key_weight=architecture.norm_weight(attention.k_norm),
        eps=architecture.eps,
    )
