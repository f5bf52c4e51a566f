"""Rotation of query and key heads, with their norm where a model has one, as Triton kernels.

Called by `kernels` alone. A program owns a token and walks over its heads; the norm's backward needs
only the rotated heads, because turning them back gives the norm's output.
"""

import torch
import triton
import triton.language as tl

from finetune_trainer.fused.ops import HeadNorm, HeadShape, Rotation

HEADS_AT_ONCE = 8
"""HeadShape that a program holds."""


@triton.jit
def _rotate(
    x,
    cosines,
    sines,
    positions,
    query_weight,
    key_weight,
    rstd,
    eps,
    stride,
    queries: tl.constexpr,
    total: tl.constexpr,
    half: tl.constexpr,
    with_norm: tl.constexpr,
    block_heads: tl.constexpr,
    block_half: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block_half)[None, :]
    is_column = column < half
    place = tl.load(positions + token)
    cosine = tl.load(cosines + place * half + column, mask=is_column, other=0).to(tl.float32)
    sine = tl.load(sines + place * half + column, mask=is_column, other=0).to(tl.float32)
    for start in tl.static_range(0, total, block_heads):
        head = start + tl.arange(0, block_heads)[:, None]
        inside = (head < total) & is_column
        at = x + token * stride + head * 2 * half + column
        first = tl.load(at, mask=inside, other=0).to(tl.float32)
        second = tl.load(at + half, mask=inside, other=0).to(tl.float32)
        if with_norm:
            squares = tl.sum(first * first + second * second, 1)
            one = 1.0 / tl.sqrt(squares / (2 * half) + eps)
            heads = start + tl.arange(0, block_heads)
            tl.store(rstd + token * total + heads, one, mask=heads < total)
            kind = x.dtype.element_ty
            # Rounded between norm and weight as in `kernels`.
            of_weight = query_weight.dtype.element_ty
            of_query = tl.load(query_weight + column, mask=is_column, other=0).to(tl.float32)
            of_key = tl.load(key_weight + column, mask=is_column, other=0).to(tl.float32)
            first = (first * one[:, None]).to(of_weight).to(tl.float32)
            first = (first * tl.where(head < queries, of_query, of_key)).to(kind).to(tl.float32)
            of_query = tl.load(query_weight + half + column, mask=is_column, other=0)
            of_key = tl.load(key_weight + half + column, mask=is_column, other=0)
            weight = tl.where(head < queries, of_query.to(tl.float32), of_key.to(tl.float32))
            second = (second * one[:, None]).to(of_weight).to(tl.float32)
            second = (second * weight).to(kind).to(tl.float32)
        turned = first * cosine - second * sine
        tl.store(at, turned.to(x.dtype.element_ty), mask=inside)
        turned = second * cosine + first * sine
        tl.store(at + half, turned.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _turn_back(
    gradient,
    rotated,
    out,
    weight,
    rstd,
    cosine,
    sine,
    column,
    is_column,
    heads: tl.constexpr,
    half: tl.constexpr,
    with_norm: tl.constexpr,
    block_heads: tl.constexpr,
):
    """Turn the heads of q, or of k, of one token; every pointer is at the first of them."""
    for start in tl.static_range(0, heads, block_heads):
        head = start + tl.arange(0, block_heads)[:, None]
        inside = (head < heads) & is_column
        at = head * 2 * half + column
        first = tl.load(gradient + at, mask=inside, other=0).to(tl.float32)
        second = tl.load(gradient + at + half, mask=inside, other=0).to(tl.float32)
        to_first = first * cosine + second * sine
        to_second = second * cosine - first * sine
        if with_norm:
            first = tl.load(rotated + at, mask=inside, other=0).to(tl.float32)
            second = tl.load(rotated + at + half, mask=inside, other=0).to(tl.float32)
            y_first = first * cosine + second * sine
            y_second = second * cosine - first * sine
            w_first = tl.load(weight + column, mask=is_column, other=1).to(tl.float32)
            w_second = tl.load(weight + half + column, mask=is_column, other=1).to(tl.float32)
            mean = tl.sum(to_first * y_first + to_second * y_second, 1)[:, None] / (2 * half)
            one = tl.load(rstd + head, mask=head < heads, other=0)
            normed = tl.where(w_first == 0, 0.0, y_first / w_first)
            to_first = one * (to_first * w_first - normed * mean)
            normed = tl.where(w_second == 0, 0.0, y_second / w_second)
            to_second = one * (to_second * w_second - normed * mean)
        tl.store(out + at, to_first.to(out.dtype.element_ty), mask=inside)
        tl.store(out + at + half, to_second.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_backward(
    dq,
    dk,
    dv,
    out,
    rotated,
    cosines,
    sines,
    positions,
    query_weight,
    key_weight,
    rstd,
    out_stride,
    rotated_stride,
    queries: tl.constexpr,
    keys: tl.constexpr,
    half: tl.constexpr,
    with_norm: tl.constexpr,
    block_heads: tl.constexpr,
    block_half: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block_half)[None, :]
    is_column = column < half
    place = tl.load(positions + token)
    cosine = tl.load(cosines + place * half + column, mask=is_column, other=0).to(tl.float32)
    sine = tl.load(sines + place * half + column, mask=is_column, other=0).to(tl.float32)
    query_width: tl.constexpr = queries * 2 * half
    key_width: tl.constexpr = keys * 2 * half
    to_row = out + token * out_stride
    from_row = rotated + token * rotated_stride
    of_row = rstd + token * (queries + keys)
    _turn_back(
        dq + token * query_width,
        from_row,
        to_row,
        query_weight,
        of_row,
        cosine,
        sine,
        column,
        is_column,
        queries,
        half,
        with_norm,
        block_heads,
    )
    _turn_back(
        dk + token * key_width,
        from_row + query_width,
        to_row + query_width,
        key_weight,
        of_row + queries,
        cosine,
        sine,
        column,
        is_column,
        keys,
        half,
        with_norm,
        block_heads,
    )
    for start in tl.static_range(0, keys, block_heads):
        head = start + tl.arange(0, block_heads)[:, None]
        inside = (head < keys) & is_column
        at = head * 2 * half + column
        value = dv + token * key_width + at
        to_value = to_row + query_width + key_width + at
        tl.store(to_value, tl.load(value, mask=inside, other=0), mask=inside)
        tl.store(to_value + half, tl.load(value + half, mask=inside, other=0), mask=inside)


def rotate(
    qkv: torch.Tensor, rotation: Rotation, *, heads: HeadShape, norm: HeadNorm | None
) -> torch.Tensor | None:
    """Norm and rotate q and k where they stand; return 1/rms of each head."""
    tokens, total, half = qkv.shape[0], heads.queries + heads.keys, heads.size // 2
    rstd = torch.empty(tokens, total, dtype=torch.float32, device=qkv.device) if norm else None
    _rotate[(tokens,)](
        qkv,
        rotation.cosines,
        rotation.sines,
        rotation.positions,
        norm.query_weight if norm else qkv,
        norm.key_weight if norm else qkv,
        qkv if rstd is None else rstd,
        norm.eps if norm else 0.0,
        qkv.stride(0),
        heads.queries,
        total,
        half,
        norm is not None,
        HEADS_AT_ONCE,
        triton.next_power_of_2(half),
        num_warps=4,
    )
    return rstd


def rotate_backward(
    gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    out: torch.Tensor,
    rotation: Rotation,
    *,
    heads: HeadShape,
    norm: HeadNorm | None,
    rotated: torch.Tensor,
    rstd: torch.Tensor | None,
) -> None:
    """Write the gradients side by side to `out`, turned back and through the norm."""
    tokens, half = out.shape[0], heads.size // 2
    dq, dk, dv = (gradient.contiguous() for gradient in gradients)
    _rotate_backward[(tokens,)](
        dq,
        dk,
        dv,
        out,
        rotated,
        rotation.cosines,
        rotation.sines,
        rotation.positions,
        norm.query_weight if norm else out,
        norm.key_weight if norm else out,
        out if rstd is None else rstd,
        out.stride(0),
        rotated.stride(0),
        heads.queries,
        heads.keys,
        half,
        norm is not None,
        HEADS_AT_ONCE,
        triton.next_power_of_2(half),
        num_warps=4,
    )
