"""What both halves of the numerics compare: documents, the adapter's weights, where logits are looked at.

Shared by `numerics_reference`, which runs plain PEFT, and `numerics`, which runs this trainer's
engines; they are processes of their own, because Unsloth changes transformers while it is imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch

from tests.bench.gpu.memory import Document, build_documents
from tests.bench.gpu.shapes import (
    GEMMA_1B_6_LAYERS,
    GEMMA_TINY,
    LLAMA_8B,
    LLAMA_8B_4_LAYERS,
    TINY,
    Shape,
)
from tests.bench.gpu.suite import OWN_8B, Row

DRAWN = 0.02
"""Standard deviation of the adapter's weights: both A and B contribute visibly."""
LOGIT_ROWS = 96
"""Tokens whose logits are compared."""


@dataclass(frozen=True)
class Extent:
    """How much of a model's training is compared."""

    tokens: int
    """Of one batch."""
    batches: int
    """Different ones; a curve goes through them again and again."""
    steps: int
    """Of a curve."""
    learning_rate: float
    dropouts: tuple[float, ...] = (0.0, 0.1)
    """One curve each."""
    engines: tuple[str, ...] = ("fused", "unsloth")
    """Unsloth's path is plain PEFT's arithmetic (measured: 3.40 % off fp32, PEFT 3.47 %) and takes a minute
    to start on a GPU, so there only the stack of our own is compared."""


EXTENTS = {
    # With 1e-3 two seeds of stock's own dropout end 0.4 nats apart after 50 steps (measured).
    LLAMA_8B_4_LAYERS.name: Extent(
        tokens=4096, batches=3, steps=50, learning_rate=2e-4, engines=("fused",)
    ),
    # As large a micro-batch as the rows have, and the rate at which a row's loss once jumped.
    LLAMA_8B.name: Extent(
        tokens=12_288, batches=6, steps=6, learning_rate=1e-3, dropouts=(0.0,), engines=("fused",)
    ),
    # Some of its documents are longer than the window.
    GEMMA_1B_6_LAYERS.name: Extent(
        tokens=4096, batches=2, steps=4, learning_rate=2e-4, dropouts=(0.0,), engines=("fused",)
    ),
    TINY.name: Extent(tokens=256, batches=3, steps=10, learning_rate=2e-4),
    GEMMA_TINY.name: Extent(
        tokens=256, batches=2, steps=4, learning_rate=2e-4, dropouts=(0.0,), engines=("fused",)
    ),
}
"""By shape."""


@dataclass(frozen=True)
class Case:
    """The batches of one model."""

    shape: Shape
    batches: tuple[tuple[Document, ...], ...]

    @property
    def supervised(self) -> tuple[int, ...]:
        """Predicted tokens of each batch."""
        return tuple(sum(len(each.input_ids) - 1 for each in batch) for batch in self.batches)

    def picked(self) -> torch.Tensor:
        """Return the places of the first batch whose logits are compared. Shape: (LOGIT_ROWS,)."""
        tokens = sum(len(each.input_ids) for each in self.batches[0])
        drawn = torch.randperm(tokens, generator=torch.Generator().manual_seed(1))
        return drawn[:LOGIT_ROWS].sort().values


def build_case(shape: Shape) -> Case:
    """Return the case of a shape; batches hold the same number of tokens."""
    extent = EXTENTS[shape.name]
    tokens = extent.tokens
    documents = build_documents(shape, tokens=tokens * extent.batches, row=build_row(shape))
    batches: list[list[Document]] = [[]]
    for each in documents:
        if sum(len(other.input_ids) for other in batches[-1]) > tokens * 0.97:
            batches.append([])
        room = tokens - sum(len(other.input_ids) for other in batches[-1])
        if len(each.input_ids[:room]) > 1:
            # Longest first, as a packed micro-batch has them: the rows of logits then agree.
            batches[-1].append(Document(each.input_ids[:room]))
    ordered = (
        tuple(sorted(batch, key=lambda each: len(each.input_ids), reverse=True))
        for batch in batches[: extent.batches]
    )
    return Case(shape, tuple(ordered))


def build_row(shape: Shape, *, dropout: float = 0.0) -> Row:
    """Return the row whose plan the engines obey."""
    longest, mean = (64, 24) if shape in (TINY, GEMMA_TINY) else (2048, 400)
    return Row(
        shape=shape,
        engine=OWN_8B.engine,
        batch=8,
        steps=EXTENTS[shape.name].steps,
        longest=longest,
        mean=mean,
        dropout=dropout,
        learning_rate=EXTENTS[shape.name].learning_rate,
    )


def find_adapter(network: Any) -> dict[str, torch.nn.Parameter]:
    """Return the adapter's matrices by `layers.0.self_attn.q_proj.lora_A`."""
    return {
        name[name.index("layers.") :].removesuffix(".weight").removesuffix(".default"): parameter
        for name, parameter in network.named_parameters()
        if "lora_" in name
    }


def draw_adapter(shapes: Mapping[str, torch.Size], *, fresh: bool) -> dict[str, torch.Tensor]:
    """Return weights for the adapter: all drawn, or as at the start of a run, with every B zero."""
    generator = torch.Generator().manual_seed(5)
    drawn = {name: torch.randn(shapes[name], generator=generator) for name in sorted(shapes)}
    if not fresh:
        return {name: each * DRAWN for name, each in drawn.items()}
    return {
        # As wide as what PEFT draws, which is uniform up to one over the root of the inputs.
        name: torch.zeros_like(each) if "lora_B" in name else each / sqrt(3 * each.shape[1])
        for name, each in drawn.items()
    }


def set_adapter(network: Any, *, fresh: bool) -> dict[str, torch.nn.Parameter]:
    """Give the adapter the weights of `draw_adapter` and return it."""
    adapter = find_adapter(network)
    weights = draw_adapter({name: each.shape for name, each in adapter.items()}, fresh=fresh)
    with torch.no_grad():
        for name, parameter in adapter.items():
            parameter.copy_(weights[name])
    return adapter


@dataclass(frozen=True)
class Seen:
    """One forward and backward pass over the first batch."""

    loss: float
    logits: torch.Tensor
    """Shape: (LOGIT_ROWS, vocabulary), fp32 on the CPU."""
    gradients: dict[str, torch.Tensor]
    """fp32 on the CPU."""

    def save(self, path: Path) -> None:
        """Write it for the other half."""
        torch.save({"loss": self.loss, "logits": self.logits, "gradients": self.gradients}, path)

    @classmethod
    def load(cls, path: Path) -> "Seen":
        """Read what `save` wrote."""
        return cls(**torch.load(path, weights_only=True))


def collect(adapter: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Return copies of the gradients and forget them."""
    found = {}
    for name, parameter in adapter.items():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.detach().float().cpu()
        parameter.grad = None
    return found


def compare(seen: Seen, reference: Seen) -> dict[str, float]:
    """Return relative errors: of the logits, of all gradients together, of the worst matrix."""
    each = {
        name: relative_error(seen.gradients[name], expected)
        for name, expected in reference.gradients.items()
    }
    names = sorted(reference.gradients)
    return {
        "loss_difference": seen.loss - reference.loss,
        "logits": relative_error(seen.logits, reference.logits),
        "gradients": relative_error(
            torch.cat([seen.gradients[name].flatten() for name in names]),
            torch.cat([reference.gradients[name].flatten() for name in names]),
        ),
        "worst_gradient": max(each.values()),
    }


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over the norm of what was expected."""
    return float((value.double() - expected.double()).norm() / expected.double().norm())
