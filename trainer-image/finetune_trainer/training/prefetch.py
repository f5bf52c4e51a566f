"""The micro-batches of the next step, laid out while the GPU is busy with this one.

Between `optimizer` and the engine. What is laid out depends on the sequences and the token budget
alone, so a step whose micro-batches were ready is, bit for bit, the step that lays them out itself. Where
sequences or budget turn out otherwise, or memory runs out here, the step does that.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import is_

import torch

from finetune_trainer.model.loaded_model import Engine, PreparingEngine
from finetune_trainer.steps.micro_batches import MicroBatch, Tokens, split_micro_batches

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ready:
    """Micro-batches, and what they were made for."""

    sequences: tuple[Tokens, ...]
    token_budget: int
    micro_batches: Iterator[MicroBatch]

    def is_for(self, sequences: Sequence[Tokens], *, token_budget: int) -> bool:
        """Whether these very sequences are wanted, in micro-batches of this size."""
        return (
            token_budget == self.token_budget
            and len(sequences) == len(self.sequences)
            and all(map(is_, sequences, self.sequences))
        )


class Upcoming:
    """The micro-batches that come next; holds at most one step's, until they are taken."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ready: _Ready | None = None

    def prepare(self, sequences: Sequence[Tokens], *, token_budget: int) -> None:
        """Split the sequences into micro-batches and have the engine lay out the first.

        Only the first would be waited for: the host lays out the others while the GPU is busy with it.
        """
        self._ready = None
        coming = split_micro_batches(
            sequences, token_budget=token_budget, layout=self._engine.layout
        )
        first = next(coming, None)
        if first is None:
            return
        if isinstance(self._engine, PreparingEngine):
            try:
                first = self._engine.prepare(first)
            except torch.OutOfMemoryError:
                # The step that is being done is none the worse. Its successor lays the micro-batch out again,
                # where memory that still runs out halves the budget and is logged.
                log.debug(
                    "GPU memory did not hold the next step's first micro-batch beside this step"
                )
                return
        self._ready = _Ready(tuple(sequences), token_budget, chain([first], coming))

    def take(self, sequences: Sequence[Tokens], *, token_budget: int) -> Iterator[MicroBatch]:
        """Return the micro-batches of a step: those that are ready where they are for it."""
        ready, self._ready = self._ready, None
        if ready is not None and ready.is_for(sequences, token_budget=token_budget):
            return ready.micro_batches
        return split_micro_batches(sequences, token_budget=token_budget, layout=self._engine.layout)
