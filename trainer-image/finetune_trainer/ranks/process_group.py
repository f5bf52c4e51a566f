"""The ranks that train one model together, as the stages see them; on one GPU there is one.

Used by `optimizer`, `evaluate` and `engines`, which run the same code on every rank. `SingleProcess` is
here, the group of several is `distributed`. On rank 0 a stage first has the others do the same.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from finetune_trainer.ranks.commands import Command
from finetune_trainer.steps.micro_batches import TokenBudget
from finetune_trainer.steps.sharding import AnyTokens

if TYPE_CHECKING:
    import torch

    from finetune_trainer.steps.snapshot import Snapshot


class ProcessGroup(Protocol):
    """All ranks of one run, seen from one of them."""

    @property
    def rank(self) -> int:
        """This process, from 0: that one fetches, saves, publishes, reports and commands the others."""

    @property
    def world_size(self) -> int:
        """How many ranks there are."""

    def command(self, command: Command) -> None:
        """Have the other ranks do what this one is about to do; nothing on any but rank 0."""

    def send_state(self, snapshot: "Snapshot") -> None:
        """Bring the other ranks to the state that rank 0 went on from."""

    def shard(self, sequences: Sequence[AnyTokens]) -> Sequence[AnyTokens]:
        """Return those of the sequences that this rank computes."""

    def sync_budget(self, budget: TokenBudget) -> None:
        """Take the smallest budget of all: where memory ran out on one rank, all remember it.

        Returns when every rank has queued its micro-batches, so the all-reduce that follows waits for no
        replay.
        """

    def all_reduce_gradients(
        self, loss: "torch.Tensor", parameters: Sequence["torch.nn.Parameter"]
    ) -> "torch.Tensor":
        """Leave the sum of all gradients on every rank; return the sum of the losses. Shape: ()."""

    def all_reduce_sum(self, value: float) -> float:
        """Return the sum of every rank's number."""

    def all_reduce_min(self, value: int) -> int:
        """Return the smallest of every rank's number."""

    def close(self) -> None:
        """Let the other ranks end: nothing is left that they would compute."""


class SingleProcess:
    """The group of one rank: every sum is its own number."""

    rank = 0
    world_size = 1

    def command(self, command: Command) -> None:
        """There is no other rank."""

    def send_state(self, snapshot: "Snapshot") -> None:
        """There is no other rank."""

    def shard(self, sequences: Sequence[AnyTokens]) -> Sequence[AnyTokens]:
        """Return all of them, in their order."""
        return sequences

    def sync_budget(self, budget: TokenBudget) -> None:
        """The budget is what it is."""

    def all_reduce_gradients(
        self, loss: "torch.Tensor", parameters: Sequence["torch.nn.Parameter"]
    ) -> "torch.Tensor":
        """Return the loss; the gradients stand in the parameters already."""
        del parameters
        return loss

    def all_reduce_sum(self, value: float) -> float:
        """Return the number."""
        return value

    def all_reduce_min(self, value: int) -> int:
        """Return the number."""
        return value

    def close(self) -> None:
        """There is no other rank."""


SINGLE = SingleProcess()
