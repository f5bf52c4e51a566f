"""A training between two optimizer steps, as a value in host memory.

`training_state` takes and restores it, `checkpoints` writes and reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from finetune_trainer.steps.step_report import StepReport

Tensors = Mapping[str, torch.Tensor]
ADAPTER, OPTIMIZER, RANDOM, BEST = "adapter", "optimizer", "random", "best"
"""Groups of tensors; `best` only where the published state is not the last."""


@dataclass(frozen=True)
class Snapshot:
    """A training between two steps, in host memory."""

    step: int
    """Optimizer steps done."""
    tensors: Mapping[str, Tensors]
    """By group."""
    state: Mapping[str, Any]
    """Everything else but the history, as JSON."""
    history: tuple[StepReport, ...]
    notes: Mapping[str, Any]
    """What the pipeline knows and need not find out again, as JSON."""

    def with_notes(self, notes: Mapping[str, Any]) -> "Snapshot":
        """Return the snapshot with what the pipeline wants to know again."""
        return replace(self, notes=notes)


class Capture(Protocol):
    """Takes a snapshot of one training."""

    def __call__(self, *, reuse: bool = False) -> Snapshot:
        """Take it, into the memory of the one before where that is no longer needed."""
