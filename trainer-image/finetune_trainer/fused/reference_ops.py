"""The small operations in plain torch: what `kernels` means, and what runs without a GPU.

Nothing here is fast. Each function does what `ops.Ops` says of it.
"""

import torch

from finetune_trainer.fused.dropout import Mask, build_factors
from finetune_trainer.fused.ops import Gate, HeadNorm, HeadShape, Ops, Rotation


class Reference:
    """Every operation, written for reading."""

    def rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, *, eps: float
    ) -> torch.Tensor:
        """Norm each row."""
        rstd = torch.rsqrt(x.square().mean(1) + eps)
        out.copy_(x * rstd[:, None] * weight)
        return rstd

    def add_rms_norm(
        self, stream: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *, eps: float
    ) -> torch.Tensor:
        """Norm each row and add it."""
        rstd = torch.rsqrt(x.square().mean(1) + eps)
        stream += x * rstd[:, None] * weight
        return rstd

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
        out.copy_(_norm_backward(dy, x * rstd[:, None], weight, rstd[:, None]))

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
        dx.add_(_norm_backward(dy, _before_weight(y, weight), weight, rstd[:, None]))

    def rotate(
        self, qkv: torch.Tensor, rotation: Rotation, *, heads: HeadShape, norm: HeadNorm | None
    ) -> torch.Tensor | None:
        """Norm and rotate q and k where they stand."""
        rotated, every_rstd = [], []
        for part, weight in zip(_query_and_key(qkv, heads), _weights(norm), strict=True):
            x = part.clone()
            if norm is not None:
                rstd = torch.rsqrt(x.square().mean(-1) + norm.eps)
                x = x * rstd[..., None] * weight
                every_rstd.append(rstd)
            rotated.append(_turn(x, rotation, sign=1))
        for part, x in zip(_query_and_key(qkv, heads), rotated, strict=True):
            part.copy_(x)
        return torch.cat(every_rstd, 1) if every_rstd else None

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
        turned = [_turn(gradient, rotation, sign=-1) for gradient in gradients[:2]]
        if norm is not None and rstd is not None:
            every_rstd = rstd.split([heads.queries, heads.keys], 1)
            parts = zip(
                turned, _query_and_key(rotated, heads), _weights(norm), every_rstd, strict=True
            )
            turned = [
                _norm_backward(
                    dy,
                    _before_weight(_turn(x, rotation, sign=-1), weight),
                    weight,
                    one[..., None],
                )
                for dy, x, weight, one in parts
            ]
        out.copy_(torch.cat([part.flatten(1) for part in (*turned, gradients[2])], 1))

    def glu(self, gate_up: torch.Tensor, out: torch.Tensor, *, gate: Gate) -> None:
        """Gate."""
        width = out.shape[1]
        g, up = gate_up[:, :width], gate_up[:, width : 2 * width]
        out.copy_(g * torch.sigmoid(gate.linear * g + gate.cubic * g**3) * up)

    def glu_backward(
        self,
        gate_up: torch.Tensor,
        dh: torch.Tensor,
        *,
        gate: Gate,
        dropped: tuple[torch.Tensor, torch.Tensor, Mask] | None,
    ) -> None:
        """Put the gradients where gate and up were, and the gated value where its gradient was."""
        width = dh.shape[1]
        factors: torch.Tensor | float = 1.0
        gradient = dh.clone()
        if dropped is not None:
            e, a, mask = dropped
            factors = _factors(dh, mask, slot=0)
            gradient += (e @ a) * factors
        g, up = gate_up[:, :width].clone(), gate_up[:, width : 2 * width].clone()
        sigmoid = torch.sigmoid(gate.linear * g + gate.cubic * g**3)
        slope = gate.linear + 3 * gate.cubic * g**2
        gate_up[:, :width] = gradient * up * sigmoid * (1 + g * slope * (1 - sigmoid))
        gate_up[:, width : 2 * width] = gradient * g * sigmoid
        dh.copy_(g * sigmoid * up * factors)

    def dropped_product(
        self, x: torch.Tensor, a: torch.Tensor, out: torch.Tensor, *, mask: Mask
    ) -> None:
        """Multiply what each slot sees of `x`."""
        for slot, place in _slots(mask):
            out[:, place] = (x * _factors(x, mask, slot=slot)) @ a[place].t()

    def add_dropped_product(
        self, dx: torch.Tensor, e: torch.Tensor, a: torch.Tensor, *, mask: Mask
    ) -> None:
        """Give back to `x` what its slots have seen of it."""
        for slot, place in _slots(mask):
            dx += (e[:, place] @ a[place]) * _factors(dx, mask, slot=slot)

    def dropped_outer(self, e: torch.Tensor, x: torch.Tensor, *, mask: Mask) -> torch.Tensor:
        """Return the gradient of `a`."""
        return torch.cat(
            [e[:, place].t() @ (x * _factors(x, mask, slot=slot)) for slot, place in _slots(mask)]
        )

    def cross_entropy(
        self, logits: torch.Tensor, targets: torch.Tensor, *, scale: float
    ) -> torch.Tensor:
        """Return the losses, and leave the gradient."""
        logarithms = logits.log_softmax(1)
        losses = -logarithms.gather(1, targets[:, None])[:, 0]
        gradient = logarithms.exp()
        gradient[torch.arange(len(targets)), targets] -= 1
        logits.copy_(gradient * scale)
        return losses

    def wide_product(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Multiply in the type of the arguments."""
        return a @ b


def _norm_backward(
    dy: torch.Tensor, normed: torch.Tensor, weight: torch.Tensor, rstd: torch.Tensor
) -> torch.Tensor:
    return rstd * (dy * weight - normed * (dy * normed * weight).mean(-1, keepdim=True))


def _before_weight(y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    # A weight of zero lets nothing through.
    return torch.where(weight == 0, 0.0, y / weight)


def _query_and_key(qkv: torch.Tensor, heads: HeadShape) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, middle = qkv.shape[0], heads.query_width
    query, key = qkv[:, :middle], qkv[:, middle : middle + heads.key_width]
    return (
        query.unflatten(1, (heads.queries, heads.size)).view(tokens, heads.queries, heads.size),
        key.unflatten(1, (heads.keys, heads.size)).view(tokens, heads.keys, heads.size),
    )


def _weights(norm: HeadNorm | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    return (norm.query_weight, norm.key_weight) if norm is not None else (None, None)


def _turn(x: torch.Tensor, rotation: Rotation, *, sign: int) -> torch.Tensor:
    """Rotate (T, heads, size) by its positions, or back."""
    half = x.shape[-1] // 2
    cosine = rotation.cosines[rotation.positions.long()][:, None]
    sine = sign * rotation.sines[rotation.positions.long()][:, None]
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def _slots(mask: Mask) -> list[tuple[int, slice]]:
    return [(slot, slice(slot * mask.width, (slot + 1) * mask.width)) for slot in range(mask.slots)]


def _factors(like: torch.Tensor, mask: Mask, *, slot: int) -> torch.Tensor:
    tokens, columns = like.shape
    factors = build_factors(mask, slot=slot, tokens=tokens, columns=columns, dtype=like.dtype)
    return factors.to(like.device)


OPS: Ops = Reference()
