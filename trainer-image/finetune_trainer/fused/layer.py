"""One decoder layer: attention and a gated MLP, each behind a norm, forward and backward by hand.

Called by `stack` alone. T is the tokens of a launch, H the hidden size, F the MLP's width. The residual
stream and its gradient are updated in place; of what forward computes, only what backward reads is
kept, and nothing twice: a norm's output stands for its input.
"""

from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.fused.attention import Attended, Attention, Documents
from finetune_trainer.fused.dropout import Dropout, Mask
from finetune_trainer.fused.pieces import HeadNorm, Heads, Pieces, Rotation
from finetune_trainer.fused.projection import PROJECTIONS, Projection, Workspace


@dataclass(frozen=True)
class Launching:
    """What all layers share in one launch."""

    pieces: Pieces
    attention: Attention
    heads: Heads
    documents: Documents
    rotation: Rotation
    dropout: Dropout


@dataclass
class Kept:
    """What one layer's backward reads."""

    qkv_input: torch.Tensor
    """Shape: (T, H + ranks)."""
    qkv_rstd: torch.Tensor
    qkv: torch.Tensor
    """Rotated, (T, q + 2 k)."""
    head_rstd: torch.Tensor | None
    attended: Attended
    output_adapted: torch.Tensor
    """Shape: (T, ranks)."""
    mlp_input: torch.Tensor
    """Shape: (T, H + ranks)."""
    mlp_rstd: torch.Tensor
    gate_up: torch.Tensor
    """Shape: (T, 2F + ranks)."""
    down_adapted: torch.Tensor
    """Shape: (T, ranks)."""


class Layer:
    """The frozen weights of one layer with the adapters in them."""

    def __init__(self, module: Any, *, number: int, workspace: Workspace) -> None:
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
        self.input_norm = module.input_layernorm.weight.data
        self.mlp_norm = module.post_attention_layernorm.weight.data
        self.eps = float(module.input_layernorm.variance_epsilon)
        self.head_norm = _find_head_norm(attention)
        self.is_first = number == 0

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is trained, in the order of `backward`'s gradients."""
        return [each for projection in self.projections for each in projection.parameters()]

    # --- Forward ----------------------------------------------------------------------------------

    def forward(self, stream: torch.Tensor, launching: Launching) -> Kept:
        """Add the layer to the residual stream (T, H), in place."""
        pieces, heads, qkv_of = launching.pieces, launching.heads, self.qkv
        qkv_input, qkv_rstd = self._enter(qkv_of, stream, self.input_norm, launching)
        qkv = qkv_of.forward(qkv_input, stream.new_empty(len(stream), qkv_of.outputs))
        head_rstd = pieces.rotate(qkv, launching.rotation, heads=heads, norm=self.head_norm)
        attended = launching.attention.forward(*_divide(qkv, heads), documents=launching.documents)
        self.output.load()
        extended = self.output.extended(stream)
        # Copied, because attention chooses where it writes.
        extended[:, : self.output.inputs].copy_(attended.out.flatten(1))
        output_adapted = self._leave(self.output, stream, extended, launching)
        del extended

        mlp_input, mlp_rstd = self._enter(self.gate_up, stream, self.mlp_norm, launching)
        width = self.gate_up.outputs
        gate_up = stream.new_empty(len(stream), width + self.gate_up.ranks)
        self.gate_up.forward(mlp_input, gate_up[:, :width])
        self.down.load()
        extended = self.down.extended(stream)
        pieces.swiglu(gate_up, extended[:, : self.down.inputs])
        down_adapted = self._leave(self.down, stream, extended, launching)
        return Kept(
            qkv_input=qkv_input,
            qkv_rstd=qkv_rstd,
            qkv=qkv,
            head_rstd=head_rstd,
            attended=attended,
            output_adapted=output_adapted,
            mlp_input=mlp_input,
            mlp_rstd=mlp_rstd,
            gate_up=gate_up,
            down_adapted=down_adapted,
        )

    def _enter(
        self, projection: Projection, stream: torch.Tensor, norm: torch.Tensor, launching: Launching
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normed stream with A·x beside it, (T, H + ranks), and 1/rms."""
        projection.load()
        extended = projection.extended(stream)
        x = extended[:, : projection.inputs]
        rstd = launching.pieces.rms_norm(stream, norm, x, eps=self.eps)
        adapted = extended[:, projection.inputs :]
        projection.adapt(launching.pieces, x, adapted, projection.mask(launching.dropout))
        return extended, rstd

    def _leave(
        self,
        projection: Projection,
        stream: torch.Tensor,
        extended: torch.Tensor,
        launching: Launching,
    ) -> torch.Tensor:
        """Add a projection's output to the stream; return what the adapter made of its input.

        One product for both parts: a young adapter's alone would be smaller than half a step of the
        stream's 16 bits almost everywhere, and be rounded away.
        """
        x, adapted = extended[:, : projection.inputs], extended[:, projection.inputs :]
        projection.adapt(launching.pieces, x, adapted, projection.mask(launching.dropout))
        stream.addmm_(extended, projection.matrix[: projection.outputs].t())
        # A copy of its own: a view would keep the whole of `extended`.
        return adapted.clone()

    # --- Backward ---------------------------------------------------------------------------------

    def backward(
        self, gradient: torch.Tensor, kept: Kept, launching: Launching
    ) -> list[torch.Tensor]:
        """Take the gradient of the stream back through the layer, in place.

        Args:
            gradient: (T, H + at least the ranks of both o and down); the last columns are scratch.
            kept: What forward returned; it is overwritten.
            launching: As in forward.

        Returns:
            The gradients of `parameters`.
        """
        of_gate_up, of_down = self._backward_mlp(gradient, kept, launching)
        of_qkv, of_output = self._backward_attention(gradient, kept, launching)
        return [*of_qkv, *of_output, *of_gate_up, *of_down]

    def _backward_mlp(
        self, gradient: torch.Tensor, kept: Kept, launching: Launching
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        pieces, down, gate_up = launching.pieces, self.down, self.gate_up
        mask = down.mask(launching.dropout)
        down.load()
        dy = gradient[:, : down.outputs + down.ranks]
        of_adapter = down.project(dy)
        dropped: tuple[torch.Tensor, torch.Tensor, Mask] | None = None
        if mask is None:
            hidden = torch.mm(dy, down.matrix[:, : down.inputs])
        else:
            # The adapter's part joins inside the gate, which draws the mask anyway.
            hidden = torch.mm(dy[:, : down.outputs], down.weight)
            dropped = (of_adapter[:, : mask.width], down.a[: mask.width], mask)
        pieces.swiglu_backward(kept.gate_up, hidden, dropped=dropped)
        of_down = down.gradients(
            pieces, dy, x=hidden, adapted=kept.down_adapted, mask=mask, x_is_masked=True
        )
        del hidden
        gate_mask = gate_up.mask(launching.dropout)
        x = kept.mlp_input[:, : gate_up.inputs]
        adapted = kept.mlp_input[:, gate_up.inputs :]
        gate_up.load()
        gate_up.project(kept.gate_up)
        dx = gate_up.backward_input(pieces, kept.gate_up, gate_mask)
        of_gate_up = gate_up.gradients(pieces, kept.gate_up, x=x, adapted=adapted, mask=gate_mask)
        stream = gradient[:, : gate_up.inputs]
        pieces.add_rms_norm_backward(stream, dx, y=x, weight=self.mlp_norm, rstd=kept.mlp_rstd)
        return of_gate_up, of_down

    def _backward_attention(
        self, gradient: torch.Tensor, kept: Kept, launching: Launching
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        pieces, output, qkv = launching.pieces, self.output, self.qkv
        mask = output.mask(launching.dropout)
        dy = gradient[:, : output.outputs + output.ranks]
        output.load()
        output.project(dy)
        d_attended = output.backward_input(pieces, dy, mask)
        flat = kept.attended.out.flatten(1)
        of_output = output.gradients(pieces, dy, x=flat, adapted=kept.output_adapted, mask=mask)
        d_qkv = self._backward_heads(d_attended, kept, launching)
        del d_attended

        qkv_mask = qkv.mask(launching.dropout)
        x, adapted = kept.qkv_input[:, : qkv.inputs], kept.qkv_input[:, qkv.inputs :]
        qkv.load()
        qkv.project(d_qkv)
        of_qkv = qkv.gradients(pieces, d_qkv, x=x, adapted=adapted, mask=qkv_mask)
        if not self.is_first:
            # Below the first layer nothing is trained, so nothing needs a gradient.
            dx = qkv.backward_input(pieces, d_qkv, qkv_mask)
            stream = gradient[:, : qkv.inputs]
            pieces.add_rms_norm_backward(
                stream, dx, y=x, weight=self.input_norm, rstd=kept.qkv_rstd
            )
        return of_qkv, of_output

    def _backward_heads(
        self, d_attended: torch.Tensor, kept: Kept, launching: Launching
    ) -> torch.Tensor:
        """Return the gradient of q, k and v before norm and rotation, (T, q + 2 k + ranks)."""
        heads = launching.heads
        gradients = launching.attention.backward(
            d_attended.view(-1, heads.queries, heads.size),
            *_divide(kept.qkv, heads),
            attended=kept.attended,
            documents=launching.documents,
        )
        width = self.qkv.outputs
        d_qkv = d_attended.new_empty(len(d_attended), width + self.qkv.ranks)
        launching.pieces.rotate_backward(
            gradients,
            d_qkv[:, :width],
            launching.rotation,
            heads=heads,
            norm=self.head_norm,
            rotated=kept.qkv,
            rstd=kept.head_rstd,
        )
        return d_qkv


def _divide(qkv: torch.Tensor, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return views of q, k and v, each (T, heads, size)."""
    q, k, v = qkv.split([heads.query_width, heads.key_width, heads.key_width], 1)
    return (
        q.unflatten(1, (heads.queries, heads.size)),
        k.unflatten(1, (heads.keys, heads.size)),
        v.unflatten(1, (heads.keys, heads.size)),
    )


def _find_head_norm(attention: Any) -> HeadNorm | None:
    query_norm = getattr(attention, "q_norm", None)
    if query_norm is None:
        return None
    return HeadNorm(
        query_weight=query_norm.weight.data,
        key_weight=attention.k_norm.weight.data,
        eps=float(query_norm.variance_epsilon),
    )
