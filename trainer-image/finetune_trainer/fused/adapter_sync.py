"""The adapter's trained parameters, copied into the matrices that compute: all of them at once.

Called by `stack` before every micro-batch, so that no optimizer step can be missed. An adapter has hundreds
of small tensors; one copy each would keep the host busy for milliseconds while the device waits.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch

from finetune_trainer.fused.kernels.copy_spec import Copy


class AdapterSync:
    """Copies every parameter, by one kernel where it can."""

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._copies = tuple(copies)
        self._by_kernel = all(is_for_kernel(copy) for copy in self._copies)
        self._table: Any = None
        self._addresses: tuple[int, ...] = ()

    @torch.no_grad()
    def make(self, *, with_adapter: bool) -> None:
        """Copy the parameters as they are now; without the adapter every B becomes zero."""
        if not self._copies:
            return
        if not self._by_kernel:
            for copy in self._copies:
                factor = copy.factor if with_adapter or not copy.is_b else 0.0
                copy.to.copy_(copy.parameter * factor)
            return
        # NB: restoring a state may give a parameter other memory.
        addresses = tuple(copy.parameter.data_ptr() for copy in self._copies)
        if addresses != self._addresses:
            kernels: Any = import_module("finetune_trainer.fused.kernels.copy")
            self._table = kernels.build_table(self._copies)
            self._addresses = addresses
        self._table.copy(with_adapter=with_adapter)


def is_for_kernel(copy: Copy) -> bool:
    """Return whether the kernel covers a copy: fp32 to bf16, on one GPU."""
    return bool(
        copy.parameter.device.type == "cuda"
        and copy.parameter.dtype == torch.float32
        and copy.parameter.is_contiguous()
        and copy.to.dtype == torch.bfloat16
        and copy.to.stride(1) == 1
    )
