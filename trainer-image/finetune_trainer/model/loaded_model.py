"""A model with an adapter, as the stages after loading see it.

Made by `model`, used by `train`, `evaluate` and `export`. It knows torch and the shape of PEFT's
models, not who loaded them: whatever behaves like a PEFT model can be trained. What runs it is an
engine: the model's own code (`PlainEngine`), or another that computes the same.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from finetune_trainer.model.host_copies import Copy, copy_fresh
from finetune_trainer.steps.micro_batches import BatchLayout, MicroBatch, build_packed, build_padded


class Engine(Protocol):
    """Runs a model on micro-batches of one layout."""

    @property
    def name(self) -> str:
        """What the log and the published environment call it."""

    @property
    def layout(self) -> BatchLayout:
        """How its micro-batches lie in memory."""

    def sum_of_losses(self, micro_batch: MicroBatch, *, divisor: int) -> torch.Tensor:
        """Return the sum over supervised tokens of their loss in nats, divided by `divisor`."""

    def base_only(self) -> AbstractContextManager[None]:
        """Compute with the base model alone, as if there were no adapter."""

    def release(self) -> None:
        """Leave the model as it was loaded, so that it can be saved or merged; nothing runs afterwards."""


@runtime_checkable
class StatefulEngine(Protocol):
    """An engine whose next step depends on more than weights and seed, such as a counter of draws."""

    def state(self) -> dict[str, Any]:
        """Return that as JSON, for a checkpoint."""

    def restore(self, state: dict[str, Any]) -> None:
        """Put it back."""


@runtime_checkable
class PreparingEngine(Protocol):
    """An engine that can lay a micro-batch out before its turn, while the device is busy with another."""

    def prepare(self, micro_batch: MicroBatch) -> MicroBatch:
        """Return the micro-batch with all that `sum_of_losses` would else make of it first.

        Nothing that changes with a step goes into it: neither weights nor random numbers.
        """


@dataclass(frozen=True)
class PlainEngine:
    """The model's own forward, which Unsloth patched, and autograd."""

    network: Any
    device: torch.device
    dtype: torch.dtype
    layout: BatchLayout = BatchLayout.PADDED
    """Packed rows need the forward that Unsloth patches on a GPU."""
    name: str = "unsloth"

    def sum_of_losses(self, micro_batch: MicroBatch, *, divisor: int) -> torch.Tensor:
        """Return the loss of a micro-batch. Shape: ()."""
        rows = (
            build_packed(micro_batch)
            if self.layout is BatchLayout.PACKED
            else build_padded(micro_batch)
        )
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            # `num_items_in_batch` replaces the micro-batch's own mean by a sum over a given count.
            output = self.network(
                **rows.arguments(self.device), num_items_in_batch=divisor, use_cache=False
            )
        loss: torch.Tensor = output.loss
        return loss

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """Switch the adapter off as PEFT does it."""
        with self.network.disable_adapter():
            yield

    def release(self) -> None:
        """Nothing was changed."""


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
    engine: Engine
    """What runs it."""

    def trainable(self) -> list[torch.nn.Parameter]:
        """Return the parameters that are trained."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def adapter_state(self, copy: Copy = copy_fresh) -> dict[str, torch.Tensor]:
        """Return a copy, on the CPU, of everything that is trained."""
        return {
            name: copy(name, parameter)
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad
        }

    def adapter_shapes(self) -> dict[str, torch.Size]:
        """Return the shape of everything that is trained, by name."""
        return {
            name: parameter.shape
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad
        }

    def restore_adapter(self, state: dict[str, torch.Tensor]) -> None:
        """Put an earlier `adapter_state` back."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(state[name])
