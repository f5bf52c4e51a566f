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
trained fp32 parameters, copied again for every micro-batch: no optimizer step can be missed. Weights in 4 bits
stay so; all layers share one matrix, and each fills it when it is its turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch

from finetune_api.micro_batch import compute_padded_ranks, compute_slot_width
from finetune_trainer.fused.adapter_sync import AdapterSync
from finetune_trainer.fused.dropout import Dropout, Mask
from finetune_trainer.fused.kernels.copy_spec import Copy
from finetune_trainer.fused.ops import Ops

ADAPTER = "default"
"""PEFT's name of the only adapter."""
PROJECTIONS = 4
"""Inputs with dropout masks of their own in a layer."""


@dataclass(frozen=True)
class Slot:
    """The adapter of one module, and its place in the matrix."""

    a: torch.nn.Parameter
    """Shape: (rank, inputs)."""
    b: torch.nn.Parameter
    """Shape: (outputs of the module, rank)."""
    scale: float
    """The same for all slots of a projection: they have one rank and one alpha."""
    rows: slice
    """The module's own outputs."""
    ranks: slice
    """Its part of the padded ranks, the padding excluded."""


@dataclass
class Workspace:
    """What the projections of one model share."""

    matrices: dict[tuple[int, int, int], torch.Tensor] = field(default_factory=dict)
    """Of quantized weights, by place in the layer and size."""
    with_adapter: bool = True
    """Whether the next micro-batch computes with the adapter."""


class Projection:
    """One product with everything that reads the same input."""

    def __init__(self, modules: Sequence[Any], *, place: int, workspace: Workspace) -> None:
        self._bases = [getattr(module, "base_layer", module) for module in modules]
        self._workspace = workspace
        self.is_quantized = is_quantized(self._bases[0])
        self.inputs = self._bases[0].in_features
        self.outputs = sum(base.out_features for base in self._bases)
        rank = max(rank_of(module) for module in modules)
        adapted = sum(is_adapted(module) for module in modules)
        self.width = compute_slot_width(rank)
        """Columns of one slot."""
        self.ranks = compute_padded_ranks(rank, adapters=adapted)
        """Columns of all slots, padded."""
        self.place = place
        """Number of this input in the stack; seeds its dropout."""
        self.matrix = self._find_matrix()
        self.slots: list[Slot] = []
        self._fill(modules)
        biases = [base.bias for base in self._bases]
        self.bias = None if biases[0] is None else torch.cat([bias.data for bias in biases])
        self._own_copies = AdapterSync(self.copies())

    def _find_matrix(self) -> torch.Tensor:
        weight = self._bases[0].weight
        rows, columns = self.outputs + self.ranks, self.inputs + self.ranks
        if not self.is_quantized:
            return torch.zeros(rows, columns, dtype=weight.dtype, device=weight.device)
        key = (self.place % PROJECTIONS, rows, columns)
        dtype = weight.quant_state.dtype
        matrices = self._workspace.matrices
        if key not in matrices:
            matrices[key] = torch.zeros(rows, columns, dtype=dtype, device=weight.device)
        return matrices[key]

    def _fill(self, modules: Sequence[Any]) -> None:
        first = 0
        for module, base in zip(modules, self._bases, strict=True):
            rows = slice(first, first + base.out_features)
            first = rows.stop
            if not self.is_quantized:
                self.matrix[rows, : self.inputs].copy_(base.weight.data)
                # From here on the module reads the stacked matrix, and its own copy is freed.
                base.weight.data = self.matrix[rows, : self.inputs]
            if not is_adapted(module):
                continue
            a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
            start = len(self.slots) * self.width
            ranks = slice(start, start + a.shape[0])
            self.slots.append(Slot(a, b, float(module.scaling[ADAPTER]), rows, ranks))

    def load(self) -> None:
        """Make `matrix` this projection's: nothing to do but where layers share it."""
        if not self.is_quantized:
            return
        first = 0
        for base in self._bases:
            rows = slice(first, first + base.out_features)
            first = rows.stop
            self.matrix[rows, : self.inputs].copy_(dequantize(base.weight))
        self._own_copies.make(with_adapter=self._workspace.with_adapter)

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

    def copies(self) -> list[Copy]:
        """Return what a micro-batch copies: each A, scaled, and each B."""
        return [
            copy
            for slot in self.slots
            for copy in (
                Copy(self.a[slot.ranks], slot.a, slot.scale, is_b=False),
                Copy(self.b[slot.rows, slot.ranks], slot.b, 1.0, is_b=True),
            )
        ]

    def mask(self, dropout: Dropout) -> Mask | None:
        """Return the masks of this input, None where nothing is dropped."""
        if not self.slots:
            return None
        return dropout.mask(place=self.place, slots=len(self.slots), width=self.width)

    # --- Products ---------------------------------------------------------------------------------

    def extended(self, like: torch.Tensor) -> torch.Tensor:
        """Return an empty input, (tokens, inputs + ranks): its last columns are `adapt`'s to fill."""
        return like.new_empty(like.shape[0], self.inputs + self.ranks)

    def adapt(self, ops: Ops, x: torch.Tensor, out: torch.Tensor, mask: Mask | None) -> None:
        """Write s·A·x, of what dropout leaves of `x`, to `out` (tokens, ranks).

        Args:
            ops: The small operations.
            x: The input, (tokens, inputs).
            out: Where the result is written, (tokens, ranks).
            mask: The dropout masks; None without dropout.
        """
        if not self.ranks:
            return
        if mask is None:
            torch.mm(x, self.a.t(), out=out)
            return
        out[:, mask.slots * mask.width :].zero_()
        ops.dropped_product(x, self.a, out, mask=mask)

    def forward(self, extended: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Write the product of base and adapter with an extended input to `out`; return it.

        Args:
            extended: Input with the adapter's columns beside it, (tokens, inputs + ranks).
            out: Where the result is written, (tokens, outputs).
        """
        right = self.matrix[: self.outputs].t()
        if self.bias is None:
            return torch.mm(extended, right, out=out)
        return torch.addmm(self.bias, extended, right, out=out)

    def backward_input(self, ops: Ops, dy: torch.Tensor, mask: Mask | None) -> torch.Tensor:
        """Return the gradient of the input, from (tokens, outputs + ranks) that `project` completed.

        Args:
            ops: The small operations.
            dy: Gradient with the adapter's columns, (tokens, outputs + ranks).
            mask: The dropout masks; None without dropout.
        """
        if mask is None:
            return torch.mm(dy, self.matrix[:, : self.inputs])
        dx = torch.mm(dy[:, : self.outputs], self.weight)
        ops.add_dropped_product(dx, dy[:, self.outputs :], self.a, mask=mask)
        return dx

    def project(self, dy: torch.Tensor) -> torch.Tensor:
        """Write Bᵀ·dy to the last columns of `dy` (tokens, outputs + ranks), and return those."""
        of_adapter = dy[:, self.outputs : self.outputs + self.ranks]
        if self.ranks:
            torch.mm(dy[:, : self.outputs], self.b, out=of_adapter)
        return of_adapter

    def gradients(
        self,
        ops: Ops,
        dy: torch.Tensor,
        *,
        x: torch.Tensor,
        adapted: torch.Tensor,
        mask: Mask | None,
        x_is_masked: bool = False,
    ) -> list[torch.Tensor]:
        """Return the gradients in the order of `parameters`, in fp32 where those are.

        Args:
            ops: The small operations.
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
            to_a = ops.wide_product(of_adapter.t(), x)
        else:
            to_a = ops.dropped_outer(of_adapter, x, mask=mask)
        to_b = ops.wide_product(dy[:, : self.outputs].t(), adapted[:, :used])
        scale = self.slots[0].scale
        if scale != 1.0:
            # The stacked A holds the scale, the trained one does not.
            to_a.mul_(scale)
        return [
            gradient
            for slot in self.slots
            for gradient in (to_a[slot.ranks], to_b[slot.rows, slot.ranks].contiguous())
        ]

    def release(self) -> None:
        """Give each module a weight of its own again, and the matrix's memory back."""
        if not self.is_quantized:
            for base in self._bases:
                base.weight.data = base.weight.data.contiguous()
        self._own_copies = AdapterSync([])
        self.matrix = self.matrix.new_empty(0, 0)


def is_adapted(module: Any) -> bool:
    """Return whether a module has an adapter."""
    return hasattr(module, "lora_A") and ADAPTER in module.lora_A


def rank_of(module: Any) -> int:
    """Return the rank of a module's adapter, 0 without one."""
    return int(module.lora_A[ADAPTER].weight.shape[0]) if is_adapted(module) else 0


def is_quantized(linear: Any) -> bool:
    """Return whether a linear module holds its weight in 4 bits, as bitsandbytes does it."""
    return type(linear).__name__ == "Linear4bit"


def dequantize(weight: Any) -> torch.Tensor:
    """Return a 4-bit weight in the type that it computes in, (outputs, inputs)."""
    # Heavy, and absent where nothing is quantized.
    functional: Any = import_module("bitsandbytes.functional")
    values: torch.Tensor = functional.dequantize_4bit(weight.data, weight.quant_state)
    return values
