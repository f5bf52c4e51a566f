"""The rows of each optimizer step, taken from a corpus in the order of `order`.

Used by `train` and `worker_training`. A step's batch is made once, however often it is asked for: the
step before asks for it while the GPU computes, so that it is at hand when it is due.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from finetune_trainer.steps.micro_batches import count_supervised
from finetune_trainer.steps.sampler import DataOrder
from finetune_trainer.steps.sharding import AnyTokens


@dataclass(frozen=True)
class Batch(Generic[AnyTokens]):
    """What one step is computed from."""

    rows: tuple[AnyTokens, ...]
    supervised: int
    """Tokens that carry loss; at least 1, so that a batch without any has the loss zero."""


class Batches(Generic[AnyTokens]):
    """The batches of one run; holds the one that was asked for last."""

    def __init__(
        self, rows: Sequence[AnyTokens], *, sequences_per_step: int, seed: int, total_steps: int
    ) -> None:
        self.order = DataOrder(rows=len(rows), sequences_per_step=sequences_per_step, seed=seed)
        self._rows = rows
        self._total_steps = total_steps
        self._last: tuple[int, Batch[AnyTokens]] | None = None

    def of(self, step: int) -> Batch[AnyTokens]:
        """Return the batch of step `step`, which counts from 0."""
        if self._last is not None and self._last[0] == step:
            return self._last[1]
        rows = tuple(self._rows[row] for row in self.order.rows_of(step))
        batch = Batch(rows, max(1, sum(count_supervised(row) for row in rows)))
        self._last = (step, batch)
        return batch

    def rows_after(self, step: int) -> tuple[AnyTokens, ...]:
        """Return the rows of the step that follows; none after the last."""
        return self.of(step + 1).rows if step + 1 < self._total_steps else ()
