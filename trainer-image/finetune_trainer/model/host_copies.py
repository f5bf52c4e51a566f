"""Copies of tensors in host memory, into the same memory each time.

Used by `snapshot`. Fresh memory is slow: the kernel hands it out page by page and clears it, and a GPU
copies to it through a second buffer. What is kept for the next copy costs the adapter's size three times.
"""

from collections.abc import Callable

import torch

Copy = Callable[[str, torch.Tensor], torch.Tensor]
"""Returns a copy on the CPU of the tensor that has this name."""


def copy_fresh(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy that nothing else will ever write to."""
    del name
    return tensor.detach().to("cpu", copy=True)


class HostCopies:
    """Copies that are good until the next ones are made."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def copy(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Begin a copy; it is there after `wait`."""
        buffer = self._buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            # Page-locked: a GPU writes to it by itself, at the full speed of the bus.
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[name] = buffer
        return buffer.copy_(tensor.detach(), non_blocking=True)

    def wait(self) -> None:
        """Return when all copies are there."""
        if any(buffer.is_pinned() for buffer in self._buffers.values()):
            torch.cuda.synchronize()
