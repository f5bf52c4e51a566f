"""Loss on the held-out part: nats per supervised token and bits per byte.

Called at the evaluation points of `train`, for the base model before training and for the published
adapter after it. Nothing is changed but the model's mode, which is put back.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch

from finetune_trainer.model.loaded_model import LoadedModel
from finetune_trainer.ranks.commands import Evaluate
from finetune_trainer.ranks.process_group import SINGLE, ProcessGroup
from finetune_trainer.steps.eval_loss import HeldOutLoss
from finetune_trainer.steps.micro_batches import (
    TokenBudget,
    Tokens,
    count_supervised,
    retry_smaller,
    split_micro_batches,
)

SEQUENCES_AT_ONCE = 64
"""Held-out sequences that are sorted and split together: enough for little padding."""


class HeldOut(Tokens, Protocol):
    """A held-out example."""

    @property
    def supervised_bytes(self) -> int:
        """UTF-8 bytes of the text whose tokens carry loss."""


def evaluate(
    loaded: LoadedModel,
    examples: Sequence[HeldOut],
    *,
    budget: TokenBudget,
    group: ProcessGroup = SINGLE,
    check: Callable[[], None] = lambda: None,
) -> HeldOutLoss:
    """Return the loss of the model as it is now; `check` is called before each micro-batch.

    Raises:
        OutOfGpuMemory: Memory runs out with one sequence a micro-batch.
    """
    group.command(Evaluate(base=False))
    return _evaluate(loaded, examples, budget=budget, group=group, check=check)


def evaluate_base(
    loaded: LoadedModel,
    examples: Sequence[HeldOut],
    *,
    budget: TokenBudget,
    group: ProcessGroup = SINGLE,
) -> HeldOutLoss:
    """Return the loss of the base model. Before training: trained biases cannot be switched off."""
    group.command(Evaluate(base=True))
    with loaded.engine.base_only():
        return _evaluate(loaded, examples, budget=budget, group=group, check=lambda: None)


def _evaluate(
    loaded: LoadedModel,
    examples: Sequence[HeldOut],
    *,
    budget: TokenBudget,
    group: ProcessGroup,
    check: Callable[[], None],
) -> HeldOutLoss:
    was_training = loaded.network.training
    loaded.network.eval()
    nats = 0.0
    try:
        mine = group.shard(examples)
        for first in range(0, len(mine), SEQUENCES_AT_ONCE):
            part = mine[first : first + SEQUENCES_AT_ONCE]
            nats += retry_smaller(
                partial(_sum_nats, loaded, part, check=check),
                budget=budget,
                sequences=part,
                layout=loaded.engine.layout,
                what="evaluating",
            )
    finally:
        loaded.network.train(was_training)
    return HeldOutLoss(
        nats=group.all_reduce_sum(nats),
        tokens=sum(count_supervised(example) for example in examples),
        bytes=sum(example.supervised_bytes for example in examples),
        examples=len(examples),
    )


def _sum_nats(
    loaded: LoadedModel,
    examples: Sequence[HeldOut],
    *,
    check: Callable[[], None],
    token_budget: int,
) -> float:
    total = 0.0
    with torch.no_grad():
        for micro_batch in split_micro_batches(
            examples, token_budget=token_budget, layout=loaded.engine.layout
        ):
            check()
            total += loaded.engine.sum_of_losses(micro_batch, divisor=1).item()
    return total
