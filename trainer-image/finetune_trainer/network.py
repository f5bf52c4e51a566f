"""A model with an adapter, as the stages after loading see it.

Made by `model`, used by `train`, `evaluate` and `export`. It knows torch and the shape of PEFT's
models, not who loaded them: whatever behaves like a PEFT model can be trained.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be trained, and what it turned out to be."""

    network: Any
    """A PEFT model; its frozen base is the plan's model."""
    device: torch.device
    dtype: torch.dtype
    """What the base computes in."""
    attention: str
    """Implementation of attention that runs."""
    trainable_parameters: int
    total_parameters: int
    target_modules: tuple[str, ...]
    """Names of the adapted modules."""

    def trainable(self) -> list[torch.nn.Parameter]:
        """Return the parameters that are trained."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """Return a copy, on the CPU, of everything that is trained."""
        return {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad
        }

    def restore_adapter(self, state: dict[str, torch.Tensor]) -> None:
        """Put an earlier `adapter_state` back."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(state[name])

    def sum_of_losses(self, arguments: dict[str, Any], *, divisor: int) -> torch.Tensor:
        """Return the sum over supervised tokens of their loss in nats, divided by `divisor`.

        Shape: ().
        """
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            # `num_items_in_batch` replaces the launch's own mean by a sum over a given count.
            output = self.network(**arguments, num_items_in_batch=divisor, use_cache=False)
        loss: torch.Tensor = output.loss
        return loss

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """Compute with the base model alone, as if there were no adapter."""
        with self.network.disable_adapter():
            yield
