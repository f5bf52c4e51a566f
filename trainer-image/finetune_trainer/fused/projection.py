"""Frozen weights that read one input, stacked into one matrix together with their adapters.

                inputs          ranks
             ┌───────────────┬───────────────┐
    outputs  │ W of q        │ B of q        │      forward   first `outputs` rows, all columns
             │ W of k        │      B of k   │      backward  all rows, first `inputs` columns
             │ W of v        │         B of v│
             ├───────────────┼───────────────┤
    ranks    │ s·A of q, k, v│ 0             │
             └───────────────┴───────────────┘

The modules' own weights become views of W, so nothing is held twice. A and B are 16-bit copies of the
trained fp32 parameters, made anew for every launch: no optimizer step can be missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.fused.dropout import Dropout, Mask
from finetune_trainer.fused.pieces import Pieces

ADAPTER = "default"
"""PEFT's name of the only adapter."""
ALIGNMENT = 64
"""Ranks are padded to a multiple of it: products of odd widths leave tensor cores idle."""
SMALLEST_SLOT = 16
"""Columns of an adapter at least: the tensor cores' smallest matrix."""


@dataclass(frozen=True)
class Slot:
    """The adapter of one module, and its place in the matrix."""

    a: torch.nn.Parameter
    """Shape: (rank, inputs)."""
    b: torch.nn.Parameter
    """Shape: (outputs of the module, rank)."""
    scale: float
    rows: slice
    """The module's own outputs."""
    ranks: slice
    """Its part of the padded ranks, the padding excluded."""


class Projection:
    """One product with everything that reads the same input."""

    def __init__(self, modules: Sequence[Any]) -> None:
        bases = [getattr(module, "base_layer", module) for module in modules]
        self.inputs = bases[0].weight.shape[1]
        self.outputs = sum(base.weight.shape[0] for base in bases)
        adapted = [is_adapted(module) for module in modules]
        rank = max((rank_of(module) for module in modules), default=0)
        self.width = max(SMALLEST_SLOT, 1 << (rank - 1).bit_length()) if rank else 0
        """Columns of one slot."""
        self.ranks = -(-self.width * sum(adapted) // ALIGNMENT) * ALIGNMENT
        """Columns of all slots, padded."""
        self.place = 0
        """Number of this input in the stack; seeds its dropout."""
        self.matrix = torch.zeros(
            self.outputs + self.ranks,
            self.inputs + self.ranks,
            dtype=bases[0].weight.dtype,
            device=bases[0].weight.device,
        )
        self.slots: list[Slot] = []
        self._bases = bases
        self._fill(modules, adapted)
        biases = [base.bias for base in bases]
        self.bias = None if biases[0] is None else torch.cat([bias.data for bias in biases])

    def _fill(self, modules: Sequence[Any], adapted: Sequence[bool]) -> None:
        first = 0
        for module, base, is_one in zip(modules, self._bases, adapted, strict=True):
            rows = slice(first, first + base.weight.shape[0])
            first = rows.stop
            self.matrix[rows, : self.inputs].copy_(base.weight.data)
            # From here on the module reads the stacked matrix, and its own copy is freed.
            base.weight.data = self.matrix[rows, : self.inputs]
            if not is_one:
                continue
            a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
            start = len(self.slots) * self.width
            ranks = slice(start, start + a.shape[0])
            self.slots.append(Slot(a, b, float(module.scaling[ADAPTER]), rows, ranks))

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weights alone, (outputs, inputs)."""
        return self.matrix[: self.outputs, : self.inputs]

    @property
    def a(self) -> torch.Tensor:
        """The scaled A of all slots, (ranks, inputs)."""
        return self.matrix[self.outputs :, : self.inputs]

    @property
    def b(self) -> torch.Tensor:
        """B of all slots, (outputs, ranks)."""
        return self.matrix[: self.outputs, self.inputs :]

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is trained: A and B of each slot."""
        return [parameter for slot in self.slots for parameter in (slot.a, slot.b)]

    def copies(self, *, with_adapter: bool) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
        """Return (place in the matrix, parameter, factor) of all that a launch copies.

        Without the adapter all of B is zero, which makes the model the base model.
        """
        factor = 1.0 if with_adapter else 0.0
        copies = []
        for slot in self.slots:
            copies.append((self.a[slot.ranks], slot.a, slot.scale))
            copies.append((self.b[slot.rows, slot.ranks], slot.b, factor))
        return copies

    def mask(self, dropout: Dropout) -> Mask | None:
        """Return the masks of this input, None where nothing is dropped."""
        if not self.slots:
            return None
        return dropout.mask(place=self.place, slots=len(self.slots), width=self.width)

    # --- Products ---------------------------------------------------------------------------------

    def extended(self, like: torch.Tensor) -> torch.Tensor:
        """Return an empty input, (tokens, inputs + ranks): its last columns are `adapt`'s to fill."""
        return like.new_empty(like.shape[0], self.inputs + self.ranks)

    def adapt(self, pieces: Pieces, x: torch.Tensor, out: torch.Tensor, mask: Mask | None) -> None:
        """Write s·A·x, of what dropout leaves of `x`, to `out` (tokens, ranks)."""
        if not self.ranks:
            return
        if mask is None:
            torch.mm(x, self.a.t(), out=out)
            return
        out[:, mask.slots * mask.width :].zero_()
        pieces.dropped_product(x, self.a, out, mask=mask)

    def forward(self, extended: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Write the product of base and adapter with an extended input to `out`; return it."""
        right = self.matrix[: self.outputs].t()
        if self.bias is None:
            return torch.mm(extended, right, out=out)
        return torch.addmm(self.bias, extended, right, out=out)

    def backward_input(self, pieces: Pieces, dy: torch.Tensor, mask: Mask | None) -> torch.Tensor:
        """Return the gradient of the input, from (tokens, outputs + ranks) that `project` completed."""
        if mask is None:
            return torch.mm(dy, self.matrix[:, : self.inputs])
        dx = torch.mm(dy[:, : self.outputs], self.weight)
        pieces.add_dropped_product(dx, dy[:, self.outputs :], self.a, mask=mask)
        return dx

    def project(self, dy: torch.Tensor) -> torch.Tensor:
        """Write Bᵀ·dy to the last columns of `dy` (tokens, outputs + ranks), and return those."""
        of_adapter = dy[:, self.outputs : self.outputs + self.ranks]
        if self.ranks:
            torch.mm(dy[:, : self.outputs], self.b, out=of_adapter)
        return of_adapter

    def gradients(
        self,
        pieces: Pieces,
        dy: torch.Tensor,
        *,
        x: torch.Tensor,
        adapted: torch.Tensor,
        mask: Mask | None,
        x_is_masked: bool = False,
    ) -> list[torch.Tensor]:
        """Return the gradients in the order of `parameters`, in fp32 where those are.

        Args:
            pieces: The small operations.
            dy: (tokens, outputs + ranks), completed by `project`.
            x: The input, (tokens, inputs).
            adapted: What `adapt` wrote, (tokens, ranks).
            mask: Of the input.
            x_is_masked: Whether `x` is already what the only slot saw.
        """
        if not self.slots:
            return []
        used = len(self.slots) * self.width
        of_adapter = dy[:, self.outputs : self.outputs + used]
        if mask is None or x_is_masked:
            to_a = pieces.wide_product(of_adapter.t(), x)
        else:
            to_a = pieces.dropped_outer(of_adapter, x, mask=mask)
        to_b = pieces.wide_product(dy[:, : self.outputs].t(), adapted[:, :used])
        gradients = []
        for slot in self.slots:
            # The stacked A holds the scale, the trained one does not.
            gradients.append(to_a[slot.ranks] * slot.scale)
            gradients.append(to_b[slot.rows, slot.ranks].contiguous())
        return gradients

    def release(self) -> None:
        """Give each module a weight of its own again."""
        for base in self._bases:
            base.weight.data = base.weight.data.contiguous()


def is_adapted(module: Any) -> bool:
    """Return whether a module has an adapter."""
    return hasattr(module, "lora_A") and ADAPTER in module.lora_A


def rank_of(module: Any) -> int:
    """Return the rank of a module's adapter, 0 without one."""
    return int(module.lora_A[ADAPTER].weight.shape[0]) if is_adapted(module) else 0
