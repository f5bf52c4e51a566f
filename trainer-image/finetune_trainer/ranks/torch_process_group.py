"""The process group of several ranks: all-reduce of gradients and of a few numbers, by torch.distributed.

Built by `training_run` on rank 0 and by `worker_training` on the others. Gradients travel between GPUs
(NCCL), or CPUs in tests (Gloo), as one flat tensor; numbers that the hosts need travel between hosts,
while the GPUs work. Nothing here decides what is computed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from finetune_trainer.errors import RankLost, TrainerError
from finetune_trainer.ranks.commands import Command
from finetune_trainer.ranks.launcher import PEER_LOST
from finetune_trainer.ranks.process_group import SINGLE
from finetune_trainer.steps.micro_batches import TokenBudget
from finetune_trainer.steps.sharding import AnyTokens, shard_by_tokens
from finetune_trainer.steps.snapshot import Snapshot

TIMEOUT = timedelta(hours=1)
"""A rank that is silent for longer hangs. One may wait for another that loads a model from a slow disk;
one that dies is noticed at once, by the launcher and by its open connections."""


def build_lost() -> TrainerError:
    """Return the error of a rank that knows no more than that another is gone."""
    return RankLost("Another rank of the training is gone.", reason=PEER_LOST)


def join(
    rendezvous: Path,
    *,
    rank: int,
    world_size: int,
    device: torch.device,
    explain: Callable[[], TrainerError] = build_lost,
) -> None:
    """Join the process group; returns when all ranks are there.

    `rendezvous` is a file that rank 0 made sure is absent, and that all write to: unlike a port it is
    closed to everything outside the pod.

    Raises:
        RankLost: One of them is gone.
    """
    on_gpu = device.type == "cuda"
    store = dist.FileStore(str(rendezvous), world_size)
    store.set_timeout(TIMEOUT)
    with _told_when_lost(explain):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=TIMEOUT,
            device_id=device if on_gpu else None,
        )


class DistributedGroup:
    """The ranks that `join`ed, seen from one of them.

    Args:
        rank: Of this process.
        world_size: Count of ranks.
        command: Has the other ranks do something; only rank 0 is given one.
        send_state: Brings the other ranks to a state, likewise.
        explain: Returns why a rank is lost, where that is known.
        close: Ends the other ranks.
    """

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        command: Callable[[Command], None] = SINGLE.command,
        send_state: Callable[[Snapshot], None] = SINGLE.send_state,
        explain: Callable[[], TrainerError] | None = None,
        close: Callable[[], None] = SINGLE.close,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.command = command
        self.send_state = send_state
        self.close = close
        self._explain = explain or build_lost
        self._flat: torch.Tensor | None = None

    def shard(self, sequences: Sequence[AnyTokens]) -> Sequence[AnyTokens]:
        """Return this rank's shard."""
        return shard_by_tokens(sequences, world_size=self.world_size)[self.rank]

    def sync_budget(self, budget: TokenBudget) -> None:
        """Take the smallest budget and the most halvings of all."""
        numbers = torch.tensor([-budget.tokens, budget.halvings])
        with _told_when_lost(self._explain):
            dist.all_reduce(numbers, dist.ReduceOp.MAX)
        tokens, budget.halvings = numbers.tolist()
        budget.tokens = -tokens

    def all_reduce_gradients(
        self, loss: torch.Tensor, parameters: Sequence[torch.nn.Parameter]
    ) -> torch.Tensor:
        """All-reduce gradients and loss as one flat tensor of fp32, whose views the gradients are then.

        Every rank gets the same bits, so weights that were equal stay equal.
        """
        flat = self._flatten(loss, parameters)
        with _told_when_lost(self._explain):
            dist.all_reduce(flat)
        first = 0
        for parameter in parameters:
            part = flat[first : first + parameter.numel()].view_as(parameter)
            parameter.grad = part.to(parameter.dtype)
            first += parameter.numel()
        return flat[-1]

    def _flatten(
        self, loss: torch.Tensor, parameters: Sequence[torch.nn.Parameter]
    ) -> torch.Tensor:
        """Return all gradients, zero where there is none, and the loss. Shape: (trained + 1,)."""
        if self._flat is None:
            count = sum(parameter.numel() for parameter in parameters) + 1
            self._flat = torch.empty(count, dtype=torch.float32, device=loss.device)
        parts = [
            (torch.zeros_like(each) if each.grad is None else each.grad).float().reshape(-1)
            for each in parameters
        ]
        return torch.cat([*parts, loss.float().reshape(1)], out=self._flat)

    def all_reduce_sum(self, value: float) -> float:
        """Return the sum of all."""
        return self._reduce(torch.tensor(value, dtype=torch.float64), dist.ReduceOp.SUM)

    def all_reduce_min(self, value: int) -> int:
        """Return the smallest of all."""
        return int(self._reduce(torch.tensor(value), dist.ReduceOp.MIN))

    def broadcast_parameters(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give every rank the values of rank 0, whatever each had drawn."""
        flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        with _told_when_lost(self._explain):
            dist.broadcast(flat, 0)
        first = 0
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(flat[first : first + parameter.numel()].view_as(parameter))
                first += parameter.numel()

    def _reduce(self, value: torch.Tensor, operation: dist.ReduceOp.RedOpType) -> float:
        with _told_when_lost(self._explain):
            dist.all_reduce(value, operation)
        return float(value.item())


@contextmanager
def _told_when_lost(explain: Callable[[], TrainerError]) -> Iterator[None]:
    """Turn a broken connection into the error that says who broke it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as fault:
        raise explain() from fault
