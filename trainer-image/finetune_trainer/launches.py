"""How the sequences of one step reach the device: a few padded launches, none over the token budget.

Between `train`, `evaluate` and the model. The loss of a step is a sum over its supervised tokens
divided by their count, so how the sequences are split never changes the gradient: only memory and
speed. Where memory runs out the budget is halved and the work is done again.
"""

import gc
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from finetune_api.plan import TrainingParameters
from finetune_trainer.errors import OutOfGpuMemory

IGNORED = -100
"""The label of a token that carries no loss, as torch's cross-entropy has it."""
CPU_TOKENS = 512
"""Tokens of one launch on a CPU. A 135M model with dropout needs 2.6, 3.6 and 4.5 GiB with 256, 512
and 1024; on two cores more tokens were no faster (measured)."""

log = logging.getLogger(__name__)
Result_co = TypeVar("Result_co", covariant=True)


class Tokens(Protocol):
    """A tokenised sequence: what a launch needs of it."""

    @property
    def input_ids(self) -> Sequence[int]:
        """Token ids."""

    @property
    def labels(self) -> Sequence[int]:
        """The token ids that carry loss, `IGNORED` elsewhere; as long as `input_ids`."""


class Work(Protocol[Result_co]):
    """Something done in launches of at most so many tokens, that can be done again."""

    def __call__(self, *, token_budget: int) -> Result_co:
        """Do it."""


@dataclass(frozen=True)
class Launch:
    """One call of the model, ready for the device."""

    input_ids: torch.Tensor
    """Shape: (sequences, longest)."""
    attention_mask: torch.Tensor
    """Shape: (sequences, longest); 0 where padded."""
    labels: torch.Tensor
    """Shape: (sequences, longest)."""

    def arguments(self) -> dict[str, Any]:
        """Return what the model's forward takes."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "labels": self.labels,
        }


class TokenBudget:
    """Tokens that one launch may hold, padding included; shrinks where memory runs out."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.halvings = 0

    def halve(self) -> None:
        """Remember that the present budget did not fit."""
        self.tokens = max(1, self.tokens // 2)
        self.halvings += 1


def decide_token_budget(training: TrainingParameters, *, device: torch.device) -> int:
    """Return the tokens of one launch: what the plan's micro-batch holds at most, fewer on a CPU."""
    micro_batch = training.per_device_train_batch_size * training.max_seq_length
    return min(micro_batch, CPU_TOKENS) if device.type == "cpu" else micro_batch


def count_supervised(sequence: Tokens) -> int:
    """Return how many tokens of a sequence carry loss; the first token has nothing before it."""
    return sum(label != IGNORED for label in sequence.labels[1:])


def split(sequences: Sequence[Tokens], *, token_budget: int) -> list[list[Tokens]]:
    """Split a step's sequences into launches of at most `token_budget` tokens, padding included.

    Sequences of like length share a launch, which keeps the padding small. One longer than the
    budget gets a launch of its own.
    """
    groups: list[list[Tokens]] = []
    for sequence in sorted(sequences, key=lambda each: len(each.input_ids), reverse=True):
        # The first of a group is its longest.
        if groups and (len(groups[-1]) + 1) * len(groups[-1][0].input_ids) <= token_budget:
            groups[-1].append(sequence)
        else:
            groups.append([sequence])
    return groups


def build_launch(sequences: Sequence[Tokens], *, device: torch.device) -> Launch:
    """Return one padded launch. The padding id is never seen: the mask hides it."""
    longest = max(len(sequence.input_ids) for sequence in sequences)
    shape = (len(sequences), longest)
    input_ids = torch.zeros(shape, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        length = len(sequence.input_ids)
        input_ids[row, :length] = torch.as_tensor(sequence.input_ids, dtype=torch.long)
        attention_mask[row, :length] = 1
        labels[row, :length] = torch.as_tensor(sequence.labels, dtype=torch.long)
    return Launch(input_ids.to(device), attention_mask.to(device), labels.to(device))


def launches(
    sequences: Sequence[Tokens], *, token_budget: int, device: torch.device
) -> Iterator[Launch]:
    """Yield the launches of a step one by one, so that only the running one is on the device."""
    for group in split(sequences, token_budget=token_budget):
        yield build_launch(group, device=device)


def retry_smaller(
    work: Work[Result_co], *, budget: TokenBudget, sequences: Sequence[Tokens], what: str
) -> Result_co:
    """Do the work, again with half the budget each time that GPU memory runs out.

    Raises:
        OutOfGpuMemory: Memory runs out with one sequence a launch.
    """
    while True:
        try:
            return work(token_budget=budget.tokens)
        except torch.OutOfMemoryError:
            pass
        # Outside the handler: the exception's traceback holds the tensors of the failed launch.
        longest = max(len(sequence.input_ids) for sequence in sequences)
        if len(split(sequences, token_budget=budget.tokens)) == len(sequences):
            raise OutOfGpuMemory(
                f"The GPU's memory does not hold one sequence of {longest} tokens ({what}): lower"
                " parameters.maxSeqLength or lora.r, choose method QLoRA, or ask for a GPU with more"
                " memory."
            )
        budget.halve()
        gc.collect()
        torch.cuda.empty_cache()
        log.warning(
            "GPU memory ran out; the launches are halved and the work is done again",
            extra={"work": what, "token_budget": budget.tokens},
        )
