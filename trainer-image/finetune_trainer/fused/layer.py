"""One decoder layer: attention and a gated MLP, each behind a norm, forward and backward by hand.

Called by `stack` alone. T is the tokens of a launch, H the hidden size, F the MLP's width. The residual
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
from finetune_trainer.fused.attention import Attended, Attention, Documents
from finetune_trainer.fused.dropout import Dropout, Mask
from finetune_trainer.fused.ops import HeadNorm, Heads, Pieces, Rotation
from finetune_trainer.fused.projection import PROJECTIONS, Projection, Workspace


@dataclass(frozen=True)
class Launching:
    """What all layers share in one launch."""

    pieces: Pieces
    attention: Attention
    documents: Documents
    rotations: Mapping[str | None, Rotation]
    """By `LayerKind.rotation`."""
    dropout: Dropout


@dataclass(frozen=True)
class Left:
    """What stays of an output that went into the stream."""

    adapted: torch.Tensor
    """What the adapter made of the input, (T, ranks)."""
    product: torch.Tensor | None = None
    """Before its norm, (T, H); None without one."""
    rstd: torch.Tensor | None = None


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
    output: Left
    mlp_input: torch.Tensor
    """Shape: (T, H + ranks)."""
    mlp_rstd: torch.Tensor
    gate_up: torch.Tensor
    """Shape: (T, 2F + ranks)."""
    down: Left


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

    def forward(self, stream: torch.Tensor, launching: Launching) -> Kept:
        """Add the layer to the residual stream (T, H), in place."""
        pieces, heads, qkv_of = launching.pieces, self.heads, self.qkv
        qkv_input, qkv_rstd = self._enter(qkv_of, stream, self.input_norm, launching)
        qkv = qkv_of.forward(qkv_input, stream.new_empty(len(stream), qkv_of.outputs))
        rotation = launching.rotations[self.kind.rotation]
        head_rstd = pieces.rotate(qkv, rotation, heads=heads, norm=self.head_norm)
        attended = launching.attention.forward(
            *_divide(qkv, heads), documents=launching.documents, sight=self.kind.sight
        )
        self.output.load()
        extended = self.output.extended(stream)
        # Copied, because attention chooses where it writes.
        extended[:, : self.output.inputs].copy_(attended.out.flatten(1))
        output = self._leave(self.output, self.output_norm, stream, extended, launching)
        del extended

        mlp_input, mlp_rstd = self._enter(self.gate_up, stream, self.mlp_norm, launching)
        width = self.gate_up.outputs
        gate_up = stream.new_empty(len(stream), width + self.gate_up.ranks)
        self.gate_up.forward(mlp_input, gate_up[:, :width])
        self.down.load()
        extended = self.down.extended(stream)
        pieces.glu(gate_up, extended[:, : self.down.inputs], gate=self.gate)
        down = self._leave(self.down, self.down_norm, stream, extended, launching)
        return Kept(
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
        norm: torch.Tensor | None,
        stream: torch.Tensor,
        extended: torch.Tensor,
        launching: Launching,
    ) -> Left:
        """Add a projection's output, normed where the model does so, to the stream.

        One product for both parts: a young adapter's alone would be smaller than half a step of the
        stream's 16 bits almost everywhere, and be rounded away.
        """
        x, adapted = extended[:, : projection.inputs], extended[:, projection.inputs :]
        projection.adapt(launching.pieces, x, adapted, projection.mask(launching.dropout))
        # A copy of its own: a view would keep the whole of `extended`.
        adapted = adapted.clone()
        if norm is None:
            stream.addmm_(extended, projection.matrix[: projection.outputs].t())
            return Left(adapted)
        product = projection.forward(extended, torch.empty_like(stream))
        rstd = launching.pieces.add_rms_norm(stream, product, norm, eps=self.eps)
        return Left(adapted, product, rstd)

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
        dy = _gradient_of_product(pieces, down, self.down_norm, gradient, kept.down)
        of_adapter = down.project(dy)
        dropped: tuple[torch.Tensor, torch.Tensor, Mask] | None = None
        if mask is None:
            hidden = torch.mm(dy, down.matrix[:, : down.inputs])
        else:
            # The adapter's part joins inside the gate, which draws the mask anyway.
            hidden = torch.mm(dy[:, : down.outputs], down.weight)
            dropped = (of_adapter[:, : mask.width], down.a[: mask.width], mask)
        pieces.glu_backward(kept.gate_up, hidden, gate=self.gate, dropped=dropped)
        of_down = down.gradients(
            pieces, dy, x=hidden, adapted=kept.down.adapted, mask=mask, x_is_masked=True
        )
        del hidden, dy, of_adapter, dropped
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
        output.load()
        dy = _gradient_of_product(pieces, output, self.output_norm, gradient, kept.output)
        output.project(dy)
        d_attended = output.backward_input(pieces, dy, mask)
        flat = kept.attended.out.flatten(1)
        of_output = output.gradients(pieces, dy, x=flat, adapted=kept.output.adapted, mask=mask)
        del dy
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
        heads = self.heads
        gradients = launching.attention.backward(
            d_attended.view(-1, heads.queries, heads.size),
            *_divide(kept.qkv, heads),
            attended=kept.attended,
            documents=launching.documents,
            sight=self.kind.sight,
        )
        width = self.qkv.outputs
        d_qkv = d_attended.new_empty(len(d_attended), width + self.qkv.ranks)
        launching.pieces.rotate_backward(
            gradients,
            d_qkv[:, :width],
            launching.rotations[self.kind.rotation],
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


def _gradient_of_product(
    pieces: Pieces,
    projection: Projection,
    norm: torch.Tensor | None,
    gradient: torch.Tensor,
    left: Left,
) -> torch.Tensor:
    """Return the gradient of a projection's output, (T, H + ranks); the last columns are scratch."""
    if norm is None or left.product is None or left.rstd is None:
        # The stream's own: what comes out of the projection is added to it as it is.
        return gradient[:, : projection.outputs + projection.ranks]
    dy = gradient.new_empty(len(gradient), projection.outputs + projection.ranks)
    pieces.rms_norm_backward(
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
