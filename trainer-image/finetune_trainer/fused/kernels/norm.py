"""The norms as Triton kernels: of an input, and of an output that is added to the stream.

Called by `kernels` alone. A program owns a row.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _rms_norm(
    x, weight, out, rstd, eps, x_stride, out_stride, width: tl.constexpr, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    value = tl.load(x + row * x_stride + column, mask=inside, other=0).to(tl.float32)
    one = 1.0 / tl.sqrt(tl.sum(value * value, 0) / width + eps)
    scale = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    # Rounded between norm and weight where the models do it: then the weight has 16 bits too.
    normed = (value * one).to(weight.dtype.element_ty).to(tl.float32) * scale
    tl.store(out + row * out_stride + column, normed.to(out.dtype.element_ty), mask=inside)
    tl.store(rstd + row, one)


@triton.jit
def _add_rms_norm_backward(
    dx,
    dy,
    y,
    weight,
    rstd,
    dx_stride,
    dy_stride,
    y_stride,
    width: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    gradient = tl.load(dy + row * dy_stride + column, mask=inside, other=0).to(tl.float32)
    output = tl.load(y + row * y_stride + column, mask=inside, other=0).to(tl.float32)
    scale = tl.load(weight + column, mask=inside, other=1).to(tl.float32)
    before = tl.load(dx + row * dx_stride + column, mask=inside, other=0).to(tl.float32)
    normed = tl.where(scale == 0, 0.0, output / scale)
    mean = tl.sum(gradient * output, 0) / width
    added = tl.load(rstd + row) * (gradient * scale - normed * mean)
    tl.store(dx + row * dx_stride + column, (before + added).to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _add_rms_norm(
    stream, x, weight, rstd, eps, stream_stride, x_stride, width: tl.constexpr, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    value = tl.load(x + row * x_stride + column, mask=inside, other=0).to(tl.float32)
    at = stream + row * stream_stride + column
    before = tl.load(at, mask=inside, other=0).to(tl.float32)
    one = 1.0 / tl.sqrt(tl.sum(value * value, 0) / width + eps)
    scale = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    tl.store(at, (before + value * one * scale).to(stream.dtype.element_ty), mask=inside)
    tl.store(rstd + row, one)


@triton.jit
def _rms_norm_backward(
    dy,
    out,
    x,
    weight,
    rstd,
    dy_stride,
    out_stride,
    x_stride,
    width: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < width
    gradient = tl.load(dy + row * dy_stride + column, mask=inside, other=0).to(tl.float32)
    scale = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    one = tl.load(rstd + row)
    normed = tl.load(x + row * x_stride + column, mask=inside, other=0).to(tl.float32) * one
    mean = tl.sum(gradient * scale * normed, 0) / width
    dx = one * (gradient * scale - normed * mean)
    tl.store(out + row * out_stride + column, dx.to(out.dtype.element_ty), mask=inside)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, *, eps: float
) -> torch.Tensor:
    """Norm each row."""
    tokens, width = x.shape
    rstd = torch.empty(tokens, dtype=torch.float32, device=x.device)
    _rms_norm[(tokens,)](
        x,
        weight,
        out,
        rstd,
        eps,
        x.stride(0),
        out.stride(0),
        width,
        triton.next_power_of_2(width),
        num_warps=_count_warps(width),
    )
    return rstd


def add_rms_norm_backward(
    dx: torch.Tensor,
    dy: torch.Tensor,
    *,
    y: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
) -> None:
    """Add the gradient of the norm's input."""
    tokens, width = dy.shape
    _add_rms_norm_backward[(tokens,)](
        dx,
        dy,
        y,
        weight,
        rstd,
        dx.stride(0),
        dy.stride(0),
        y.stride(0),
        width,
        triton.next_power_of_2(width),
        num_warps=_count_warps(width),
    )


def add_rms_norm(
    stream: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *, eps: float
) -> torch.Tensor:
    """Norm each row and add it."""
    tokens, width = x.shape
    rstd = torch.empty(tokens, dtype=torch.float32, device=x.device)
    _add_rms_norm[(tokens,)](
        stream,
        x,
        weight,
        rstd,
        eps,
        stream.stride(0),
        x.stride(0),
        width,
        triton.next_power_of_2(width),
        num_warps=_count_warps(width),
    )
    return rstd


def rms_norm_backward(
    dy: torch.Tensor,
    out: torch.Tensor,
    *,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
) -> None:
    """Write the gradient of the norm's input."""
    tokens, width = x.shape
    _rms_norm_backward[(tokens,)](
        dy,
        out,
        x,
        weight,
        rstd,
        dy.stride(0),
        out.stride(0),
        x.stride(0),
        width,
        triton.next_power_of_2(width),
        num_warps=_count_warps(width),
    )


def _count_warps(width: int) -> int:
    return 8 if width > 2048 else 4
