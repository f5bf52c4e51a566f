"""Many small copies from fp32 to bf16 as one Triton kernel over a table of addresses.

Called by `copies` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from finetune_trainer.fused.kernels.copy_spec import Copy

BLOCK = 1024
"""Elements that a program copies at a time."""
PROGRAMS = 32
"""Programs a copy: the largest tensors have a few hundred thousand elements."""


@triton.jit
def _copy_all(
    sources,
    targets,
    rows,
    columns,
    strides,
    factors,
    block: tl.constexpr,
    programs: tl.constexpr,
):
    copy = tl.program_id(0)
    source = tl.load(sources + copy).to(tl.pointer_type(tl.float32))
    target = tl.load(targets + copy).to(tl.pointer_type(tl.bfloat16))
    width, stride = tl.load(columns + copy), tl.load(strides + copy)
    factor, count = tl.load(factors + copy), tl.load(rows + copy) * width
    for start in range(tl.program_id(1) * block, count, programs * block):
        at = start + tl.arange(0, block)
        inside = at < count
        row = at // width
        value = tl.load(source + at, mask=inside, other=0) * factor
        tl.store(target + row * stride + (at - row * width), value.to(tl.bfloat16), mask=inside)


@dataclass(frozen=True)
class Table:
    """The copies as the device reads them; each tensor has one number a copy."""

    sources: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    strides: torch.Tensor
    factors: torch.Tensor
    factors_of_base: torch.Tensor
    """With every B zero."""

    def copy(self, *, with_adapter: bool) -> None:
        """Make all copies."""
        _copy_all[(len(self.sources), PROGRAMS)](
            self.sources,
            self.targets,
            self.rows,
            self.columns,
            self.strides,
            self.factors if with_adapter else self.factors_of_base,
            BLOCK,
            PROGRAMS,
        )


def build_table(copies: Sequence[Copy]) -> Table:
    """Return the table of copies whose tensors stay where they are."""
    device = copies[0].to.device

    def whole(numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int64).to(device)

    def real(numbers: list[float]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.float32).to(device)

    return Table(
        sources=whole([copy.parameter.data_ptr() for copy in copies]),
        targets=whole([copy.to.data_ptr() for copy in copies]),
        rows=whole([copy.to.shape[0] for copy in copies]),
        columns=whole([copy.to.shape[1] for copy in copies]),
        strides=whole([copy.to.stride(0) for copy in copies]),
        factors=real([copy.factor for copy in copies]),
        factors_of_base=real([0.0 if copy.is_b else copy.factor for copy in copies]),
    )
