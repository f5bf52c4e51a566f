"""Products with an input whose elements are dropped on the way, as Triton kernels.

Called by `kernels` alone. Up to three adapters read one input, each with a mask of its own; the input
is read once for all of them and no mask is ever stored.
"""

import torch
import triton
import triton.language as tl

from finetune_trainer.fused.dropout import STEPS, Mask

WIDE = 64
"""From this width of a slot on, tiles are narrower: three slots would not fit the shared memory."""
SMALLEST_SHARED = 99 * 1024
"""Bytes of shared memory that a program may have on the smallest GPUs with bf16 (8.6, 8.9)."""
ROWS_OF_OUTER = 1024
"""Tokens that one program of the outer product sums up before it adds to the others' sum."""


@triton.jit
def hash_bits(index, seed):
    """Return 32 well-mixed bits of an element's index; ten of them decide one mask."""
    bits = index.to(tl.uint32) * 0x9E3779B1 + seed.to(tl.uint32)
    bits = (bits ^ (bits >> 16)) * 0x85EBCA6B
    bits = (bits ^ (bits >> 13)) * 0xC2B2AE35
    return bits ^ (bits >> 16)


@triton.jit
def _drop(x, bits, slot: tl.constexpr, threshold: tl.constexpr, steps: tl.constexpr):
    kept = ((bits >> (10 * slot)) & (steps - 1)) >= threshold
    return tl.where(kept, x, 0.0)


@triton.jit(do_not_specialize=["tokens", "seed", "first"])
def _dropped_product(
    x,
    a,
    out,
    tokens,
    x_stride,
    a_stride,
    out_stride,
    seed,
    first,
    columns: tl.constexpr,
    slots: tl.constexpr,
    width: tl.constexpr,
    threshold: tl.constexpr,
    steps: tl.constexpr,
    block_t: tl.constexpr,
    block_k: tl.constexpr,
):
    token = (tl.program_id(0) * block_t + tl.arange(0, block_t)).to(tl.int64)
    is_token = (token < tokens)[:, None]
    rank = tl.arange(0, width)
    kind = x.dtype.element_ty
    sum_0 = tl.zeros((block_t, width), tl.float32)
    sum_1 = tl.zeros((block_t, width), tl.float32)
    sum_2 = tl.zeros((block_t, width), tl.float32)
    for start in range(0, columns, block_k):
        column = start + tl.arange(0, block_k)
        is_column = column < columns
        value = tl.load(
            x + token[:, None] * x_stride + column[None, :],
            mask=is_token & is_column[None, :],
            other=0,
        )
        bits = hash_bits((first + token)[:, None] * columns + column[None, :], seed)
        at = a + rank[None, :] * a_stride + column[:, None]
        right = tl.load(at, mask=is_column[:, None], other=0)
        sum_0 = tl.dot(_drop(value, bits, 0, threshold, steps).to(kind), right, sum_0)
        if slots > 1:
            right = tl.load(at + width * a_stride, mask=is_column[:, None], other=0)
            sum_1 = tl.dot(_drop(value, bits, 1, threshold, steps).to(kind), right, sum_1)
        if slots > 2:
            right = tl.load(at + 2 * width * a_stride, mask=is_column[:, None], other=0)
            sum_2 = tl.dot(_drop(value, bits, 2, threshold, steps).to(kind), right, sum_2)
    scale: tl.constexpr = steps / (steps - threshold)
    to = out + token[:, None] * out_stride + rank[None, :]
    tl.store(to, (sum_0 * scale).to(kind), mask=is_token)
    if slots > 1:
        tl.store(to + width, (sum_1 * scale).to(kind), mask=is_token)
    if slots > 2:
        tl.store(to + 2 * width, (sum_2 * scale).to(kind), mask=is_token)


@triton.jit
def _product_of_slot(e, a, is_token, is_column, slot: tl.constexpr, width: tl.constexpr, a_stride):
    left = tl.load(e + slot * width, mask=is_token[:, None], other=0)
    right = tl.load(a + slot * width * a_stride, mask=is_column[None, :], other=0)
    return tl.dot(left, right, out_dtype=tl.float32)


@triton.jit(do_not_specialize=["tokens", "seed", "first"])
def _add_dropped_product(
    dx,
    e,
    a,
    tokens,
    dx_stride,
    e_stride,
    a_stride,
    seed,
    first,
    columns: tl.constexpr,
    slots: tl.constexpr,
    width: tl.constexpr,
    threshold: tl.constexpr,
    steps: tl.constexpr,
    block_t: tl.constexpr,
    block_n: tl.constexpr,
):
    column = tl.program_id(0) * block_n + tl.arange(0, block_n)
    token = (tl.program_id(1) * block_t + tl.arange(0, block_t)).to(tl.int64)
    is_token, is_column = token < tokens, column < columns
    inside = is_token[:, None] & is_column[None, :]
    rank = tl.arange(0, width)
    bits = hash_bits((first + token)[:, None] * columns + column[None, :], seed)
    at_e = e + token[:, None] * e_stride + rank[None, :]
    at_a = a + rank[:, None] * a_stride + column[None, :]
    one = _product_of_slot(at_e, at_a, is_token, is_column, 0, width, a_stride)
    added = _drop(one, bits, 0, threshold, steps)
    if slots > 1:
        one = _product_of_slot(at_e, at_a, is_token, is_column, 1, width, a_stride)
        added += _drop(one, bits, 1, threshold, steps)
    if slots > 2:
        one = _product_of_slot(at_e, at_a, is_token, is_column, 2, width, a_stride)
        added += _drop(one, bits, 2, threshold, steps)
    scale: tl.constexpr = steps / (steps - threshold)
    to = dx + token[:, None] * dx_stride + column[None, :]
    before = tl.load(to, mask=inside, other=0).to(tl.float32)
    tl.store(to, (before + added * scale).to(dx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens", "seed", "first"])
def _dropped_outer(
    x,
    e,
    out,
    tokens,
    x_stride,
    e_stride,
    out_stride,
    seed,
    first,
    columns: tl.constexpr,
    rows: tl.constexpr,
    slots: tl.constexpr,
    width: tl.constexpr,
    threshold: tl.constexpr,
    steps: tl.constexpr,
    block_t: tl.constexpr,
    block_n: tl.constexpr,
):
    column = tl.program_id(0) * block_n + tl.arange(0, block_n)
    is_column = column < columns
    rank = tl.arange(0, width)
    begin = tl.program_id(1).to(tl.int64) * rows
    kind = x.dtype.element_ty
    sum_0 = tl.zeros((width, block_n), tl.float32)
    sum_1 = tl.zeros((width, block_n), tl.float32)
    sum_2 = tl.zeros((width, block_n), tl.float32)
    for step in range(0, rows, block_t):
        token = begin + step + tl.arange(0, block_t)
        is_token = token < tokens
        value = tl.load(
            x + token[:, None] * x_stride + column[None, :],
            mask=is_token[:, None] & is_column[None, :],
            other=0,
        )
        bits = hash_bits((first + token)[:, None] * columns + column[None, :], seed)
        at = e + token[None, :] * e_stride + rank[:, None]
        left = tl.load(at, mask=is_token[None, :], other=0)
        sum_0 = tl.dot(left, _drop(value, bits, 0, threshold, steps).to(kind), sum_0)
        if slots > 1:
            left = tl.load(at + width, mask=is_token[None, :], other=0)
            sum_1 = tl.dot(left, _drop(value, bits, 1, threshold, steps).to(kind), sum_1)
        if slots > 2:
            left = tl.load(at + 2 * width, mask=is_token[None, :], other=0)
            sum_2 = tl.dot(left, _drop(value, bits, 2, threshold, steps).to(kind), sum_2)
    scale: tl.constexpr = steps / (steps - threshold)
    to = out + rank[:, None] * out_stride + column[None, :]
    tl.atomic_add(to, sum_0 * scale, mask=is_column[None, :], sem="relaxed")
    if slots > 1:
        tl.atomic_add(
            to + width * out_stride, sum_1 * scale, mask=is_column[None, :], sem="relaxed"
        )
    if slots > 2:
        tl.atomic_add(
            to + 2 * width * out_stride, sum_2 * scale, mask=is_column[None, :], sem="relaxed"
        )


def count_stages(tensor: torch.Tensor, *, tile_bytes: int, most: int) -> int:
    """Return how many tiles a program can load ahead: as many as the GPU's shared memory holds."""
    shared = SMALLEST_SHARED
    if tensor.device.type == "cuda":
        properties = torch.cuda.get_device_properties(tensor.device)
        shared = getattr(properties, "shared_memory_per_block_optin", shared)
    return max(1, min(most, shared // tile_bytes))


def dropped_product(x: torch.Tensor, a: torch.Tensor, out: torch.Tensor, *, mask: Mask) -> None:
    """Write the product of each slot's view of `x` with its rows of `a`."""
    tokens, columns = x.shape
    block_t, block_k = 32, 64 if mask.width >= WIDE else 128
    tile_bytes = 2 * block_k * (block_t + mask.slots * mask.width)
    _dropped_product[(triton.cdiv(tokens, block_t),)](
        x,
        a,
        out,
        tokens,
        x.stride(0),
        a.stride(0),
        out.stride(0),
        mask.seed,
        mask.first_token,
        columns,
        mask.slots,
        mask.width,
        mask.threshold,
        STEPS,
        block_t,
        block_k,
        num_warps=4,
        num_stages=count_stages(x, tile_bytes=tile_bytes, most=2 if mask.width >= WIDE else 4),
    )


def add_dropped_product(dx: torch.Tensor, e: torch.Tensor, a: torch.Tensor, *, mask: Mask) -> None:
    """Add to `dx` what flows back through each slot's mask."""
    tokens, columns = dx.shape
    block_t, block_n = 32, 64 if mask.width >= WIDE else 128
    _add_dropped_product[(triton.cdiv(columns, block_n), triton.cdiv(tokens, block_t))](
        dx,
        e,
        a,
        tokens,
        dx.stride(0),
        e.stride(0),
        a.stride(0),
        mask.seed,
        mask.first_token,
        columns,
        mask.slots,
        mask.width,
        mask.threshold,
        STEPS,
        block_t,
        block_n,
        num_warps=4,
    )


def dropped_outer(e: torch.Tensor, x: torch.Tensor, *, mask: Mask) -> torch.Tensor:
    """Return the gradient of `a` in fp32: the sums of all programs, added atomically."""
    tokens, columns = x.shape
    out = torch.zeros(mask.slots * mask.width, columns, dtype=torch.float32, device=x.device)
    block_t, block_n = 64, 64 if mask.width >= WIDE else 128
    tile_bytes = 2 * block_t * (block_n + mask.slots * mask.width)
    _dropped_outer[(triton.cdiv(columns, block_n), triton.cdiv(tokens, ROWS_OF_OUTER))](
        x,
        e,
        out,
        tokens,
        x.stride(0),
        e.stride(0),
        out.stride(0),
        mask.seed,
        mask.first_token,
        columns,
        ROWS_OF_OUTER,
        mask.slots,
        mask.width,
        mask.threshold,
        STEPS,
        block_t,
        block_n,
        num_warps=4,
        num_stages=count_stages(x, tile_bytes=tile_bytes, most=2 if mask.width >= WIDE else 3),
    )
    return out
