"""Which rows an optimizer step holds: a pure function of rows, batch, seed and step.

`train` asks for one step at a time. Because the answer depends on nothing that was drawn before, a
run can start at any step and sees the same data. Nothing here touches the rows themselves.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from math import ceil


@dataclass(frozen=True)
class DataOrder:
    """The order of one run. An epoch holds each row once; its last step may hold fewer."""

    rows: int
    """Rows of the training part, at least one."""
    sequences_per_step: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass; at least one, however few the rows."""
        return max(1, ceil(self.rows / self.sequences_per_step))

    def rows_of(self, step: int) -> tuple[int, ...]:
        """Return the row numbers of optimizer step `step`, which counts from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = shuffle_rows(rows=self.rows, seed=self.seed, epoch=epoch)
        first = place * self.sequences_per_step
        return order[first : first + self.sequences_per_step]

    def epochs_after(self, steps: int) -> float:
        """Return how many passes lie behind after `steps` optimizer steps."""
        epochs, place = divmod(steps, self.steps_per_epoch)
        return epochs + min(1.0, place * self.sequences_per_step / self.rows)


@lru_cache(maxsize=2)
def shuffle_rows(*, rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    """Return all row numbers in the order of one epoch.

    Rows are sorted by a hash, not drawn from a generator: no library promises that its shuffle
    stays the same in its next version, and a resumed run may meet another version.
    """

    def key(row: int) -> bytes:
        return hashlib.blake2b(f"{seed}:{epoch}:{row}".encode(), digest_size=16).digest()

    return tuple(sorted(range(rows), key=key))
