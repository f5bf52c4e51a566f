"""The whole state of a training between two steps, taken out of the objects that hold it and put back.

Between `train` and the checkpoints: `train` takes and restores it, `checkpoint_files` writes and reads
it. What is here is enough that the next step is, bit for bit, the one that would have followed.
"""

from dataclasses import dataclass, field

import torch

from finetune_trainer.model.host_copies import HostCopies, copy_fresh
from finetune_trainer.model.loaded_model import LoadedModel
from finetune_trainer.steps.micro_batches import TokenBudget
from finetune_trainer.steps.snapshot import ADAPTER, BEST, OPTIMIZER, RANDOM, Snapshot, Tensors
from finetune_trainer.training.history import RunHistory
from finetune_trainer.training.optimizer_step import Stepper
from finetune_trainer.training.rng_state import capture_random, restore_random


@dataclass(frozen=True)
class TrainingState:
    """The objects that together hold the state of a training."""

    loaded: LoadedModel
    stepper: Stepper
    course: RunHistory
    budget: TokenBudget
    rows: int
    """Rows of the training part."""
    copies: HostCopies = field(default_factory=HostCopies)

    def capture(self, *, seconds: float, reuse: bool = False) -> Snapshot:
        """Return the state as it is now, copied.

        Args:
            seconds: Training time up to here.
            reuse: Whether the memory of the snapshot before may be written over.
        """
        copy = self.copies.copy if reuse else copy_fresh
        adapter = self.loaded.adapter_state(copy)
        optimizer, of_stepper = self.stepper.to_state(copy)
        drawn, of_random = capture_random()
        self.copies.wait()
        tensors: dict[str, Tensors] = {ADAPTER: adapter, OPTIMIZER: optimizer, RANDOM: drawn}
        if (kept := self.course.selection.kept) is not None:
            tensors[BEST] = kept
        return Snapshot(
            step=self.course.steps,
            tensors=tensors,
            state={
                "rows": self.rows,
                "seconds": seconds,
                "course": self.course.to_state(),
                "stepper": of_stepper,
                "random": of_random,
                "budget": {
                    "tokens": self.budget.tokens,
                    "halvings": self.budget.halvings,
                    "device": describe_device(self.loaded.device),
                },
            },
            history=tuple(self.course.history),
            notes={},
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot that `find_mismatch` has nothing against."""
        tensors, state = snapshot.tensors, snapshot.state
        self.loaded.restore_adapter(dict(tensors[ADAPTER]))
        self.stepper.load_state(tensors[OPTIMIZER], state["stepper"])
        kept = tensors.get(BEST)
        self.course.load_state(
            state["course"],
            history=snapshot.history,
            kept=None if kept is None else dict(kept),
        )
        self.course.seconds = state["seconds"]
        restore_random(tensors[RANDOM], state["random"])
        saved = state["budget"]
        if saved["device"] == describe_device(self.loaded.device):
            # On another device its own choice counts: the budget changes no mathematics.
            self.budget.tokens, self.budget.halvings = saved["tokens"], saved["halvings"]

    def find_mismatch(self, snapshot: Snapshot) -> str | None:
        """Return why the snapshot is of another training, or None where it is of this one."""
        there = {name: value.shape for name, value in snapshot.tensors[ADAPTER].items()}
        if there != self.loaded.adapter_shapes():
            return "its adapter has other tensors"
        rows, total = snapshot.state["rows"], snapshot.state["course"]["totalSteps"]
        if (rows, total) != (self.rows, self.course.schedule.total_steps):
            return (
                f"it is of {total} steps over {rows} rows, this run of"
                f" {self.course.schedule.total_steps} steps over {self.rows} rows"
            )
        return None


def describe_device(device: torch.device) -> str:
    """Return what decides how many tokens a micro-batch holds: kind and memory."""
    if device.type != "cuda":
        return str(device.type)
    card = torch.cuda.get_device_properties(device)
    return f"{card.name}, {card.total_memory} bytes"
