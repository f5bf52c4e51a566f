"""An engine against the model's own path, on a few short texts, before it may train.

Called by `engines`. Loss and gradient are compared with dropout off and with every B drawn at random: a
fresh adapter's B is zero, which would hide most of an engine. The model is left as it was found.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

import torch

from finetune_trainer.model.loaded_model import Engine, LoadedModel
from finetune_trainer.steps.micro_batches import MicroBatch, Tokens

TEXTS = 4
TOKENS_OF_TEXT = 160
"""Enough for several blocks of attention, few enough for a second."""
DRAWN_B = 0.02
"""Standard deviation of the drawn B: the adapter then contributes visibly and does not dominate."""
LARGEST_LOSS_DIFFERENCE = 0.01
"""Relative. Two engines in bf16 differ by less than 0.1 % (measured); a wrong one by much more."""
LARGEST_GRADIENT_ERROR = 0.3
"""Relative, over all of the adapter. Two engines in bf16 differ by 0.05 after 16 layers of random
weights and by 0.13 after 32 (measured on one H100), because rounding adds up over a deep model; a
wrong mask, scale or rotation is off by about 1."""
TINY = 1e-12
"""Keeps a loss of zero from being divided by."""
STRICT = 1e-3
"""Both limits in fp32."""


@dataclass(frozen=True)
class Short:
    """The beginning of a text, scored in every token."""

    input_ids: Sequence[int]

    @property
    def labels(self) -> Sequence[int]:
        """The tokens themselves."""
        return self.input_ids


@dataclass(frozen=True)
class Comparison:
    """How far a candidate is from the model's own path."""

    loss_difference: float
    """Relative."""
    gradient_error: float
    """Relative, all trained parameters together."""
    is_strict: bool
    """Whether both computed in fp32."""

    @property
    def passes(self) -> bool:
        """Whether the candidate computes the same. NaN never passes."""
        loss, gradient = LARGEST_LOSS_DIFFERENCE, LARGEST_GRADIENT_ERROR
        if self.is_strict:
            loss = gradient = STRICT
        return self.loss_difference <= loss and self.gradient_error <= gradient

    def __str__(self) -> str:
        return (
            f"its loss differs by {self.loss_difference:.2%} and its gradient by"
            f" {self.gradient_error:.2%} from the model's own path"
        )


def exercise(loaded: LoadedModel, engine: Engine, *, rows: Sequence[Tokens]) -> None:
    """Do a small step as training will, dropout included, and forget it.

    What is compiled only then is compiled now, and what cannot be is reported before the first step.

    Raises:
        ArithmeticError: Loss or gradient is not finite.
    """
    was_training = loaded.network.training
    loaded.network.train()
    texts = _begin(rows)
    loss, gradient = _measure(loaded, engine, [MicroBatch(tuple(texts))], divisor=len(texts))
    loaded.network.train(was_training)
    if not (isfinite(loss) and bool(gradient.isfinite().all())):
        raise ArithmeticError(f"a step with dropout gives the loss {loss}")


def _begin(rows: Sequence[Tokens]) -> list[Short]:
    return [Short(tuple(row.input_ids[:TOKENS_OF_TEXT])) for row in rows[:TEXTS]]


def compare(
    loaded: LoadedModel, candidate: Engine, *, reference: Engine, rows: Sequence[Tokens]
) -> Comparison:
    """Compare a candidate with the model's own path, one text a micro-batch."""
    texts = _begin(rows)
    tokens = max(1, sum(len(text.input_ids) - 1 for text in texts))
    with _prepared(loaded):
        expected_loss, expected = _measure(
            loaded, reference, [MicroBatch((text,)) for text in texts], divisor=tokens
        )
        loss, gradient = _measure(loaded, candidate, [MicroBatch(tuple(texts))], divisor=tokens)
    return Comparison(
        loss_difference=abs(loss - expected_loss) / max(abs(expected_loss), TINY),
        gradient_error=float((gradient - expected).norm() / expected.norm()),
        is_strict=loaded.dtype == torch.float32,
    )


def _measure(
    loaded: LoadedModel, engine: Engine, micro_batches: Sequence[MicroBatch], *, divisor: int
) -> tuple[float, torch.Tensor]:
    """Return the loss and the gradient of everything trained, on the CPU."""
    total = 0.0
    for micro_batch in micro_batches:
        loss = engine.sum_of_losses(micro_batch, divisor=divisor)
        loss.backward()
        total += loss.item()
    gradients = []
    for parameter in loaded.trainable():
        gradients.append(parameter.grad.float().flatten().cpu())
        parameter.grad = None
    return total, torch.cat(gradients)


@contextmanager
def _prepared(loaded: LoadedModel) -> Iterator[None]:
    """Draw every B and stop dropout, for as long as it takes."""
    state = loaded.adapter_state()
    dropouts = [
        dropout
        for module in loaded.network.modules()
        for dropout in getattr(module, "lora_dropout", {}).values()
        if hasattr(dropout, "p")
    ]
    probabilities = [dropout.p for dropout in dropouts]
    draw = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.randn(value.shape, generator=draw) * DRAWN_B if "lora_B" in name else value
        for name, value in state.items()
    }
    was_training = loaded.network.training
    loaded.network.train()
    loaded.restore_adapter(drawn)
    for dropout in dropouts:
        dropout.p = 0.0
    try:
        yield
    finally:
        for dropout, probability in zip(dropouts, probabilities, strict=True):
            dropout.p = probability
        loaded.restore_adapter(state)
        loaded.network.train(was_training)
