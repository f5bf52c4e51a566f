"""Causal attention inside each document of a packed row: what an implementation does, and two of them.

On a GPU torch's own flash kernels, which take fewer key heads than query heads; `flash4` has faster ones
for newer GPUs, and `finetune_trainer.attention_choice` decides. Elsewhere plain torch, one document after
the other.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from math import inf, sqrt
from typing import Any, Protocol

import torch

from finetune_trainer.fused.pieces import Heads


@dataclass(frozen=True)
class Documents:
    """Where the documents of a packed row begin and end."""

    boundaries: torch.Tensor
    """Shape: (documents + 1,), int32, on the device: 0 and the end of each."""
    longest: int


@dataclass(frozen=True)
class Attended:
    """What attention gave, and what its backward needs."""

    out: torch.Tensor
    """Shape: (tokens, heads, size)."""
    state: tuple[Any, ...]


Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of q, k and v."""


class Attention(Protocol):
    """An implementation."""

    @property
    def name(self) -> str:
        """As status and log call it."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, documents: Documents
    ) -> Attended:
        """Return softmax(q·kᵀ / √size)·v of each token with those before it in its document.

        Args:
            q: (tokens, query heads, size).
            k: (tokens, key heads, size).
            v: (tokens, key heads, size).
            documents: Their boundaries.
        """

    def backward(
        self,
        gradient: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        attended: Attended,
        documents: Documents,
    ) -> Gradients:
        """Return the gradients of q, k and v."""


class FlashAttention:
    """The flash kernels inside torch, which are those of FlashAttention 2."""

    name = "FlashAttention 2 of torch, variable length"

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, documents: Documents
    ) -> Attended:
        """Run the kernel; the state is what torch hands from one to the other."""
        ends, longest = documents.boundaries, documents.longest
        out, *state = torch.ops.aten._flash_attention_forward(
            q, k, v, ends, ends, longest, longest, 0.0, True, False
        )
        # The last of the state is a debugging aid.
        return Attended(out, tuple(state[:3]))

    def backward(
        self,
        gradient: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        attended: Attended,
        documents: Documents,
    ) -> Gradients:
        """Run the kernel."""
        logarithms, seed, offset = attended.state
        ends, longest = documents.boundaries, documents.longest
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            gradient,
            q,
            k,
            v,
            attended.out,
            logarithms,
            ends,
            ends,
            longest,
            longest,
            0.0,
            True,
            seed,
            offset,
        )
        return dq, dk, dv


class AutogradAttention(ABC):
    """An implementation whose backward is its own autograd's; the state is its little graph."""

    @abstractmethod
    def compute(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, documents: Documents
    ) -> torch.Tensor:
        """Return attention as `Attention.forward` has it, (tokens, query heads, size)."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, documents: Documents
    ) -> Attended:
        """Compute, and keep the graph. The inputs are the caller's own memory, nothing is copied."""
        inputs = [each.detach().requires_grad_() for each in (q, k, v)]
        # NB: on inside the stack's own node, where autograd is off.
        with torch.enable_grad():
            out = self.compute(*inputs, documents=documents)
        return Attended(out.detach(), (out, *inputs))

    def backward(
        self,
        gradient: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        attended: Attended,
        documents: Documents,
    ) -> Gradients:
        """Differentiate the graph, once."""
        del q, k, v, documents
        out, *inputs = attended.state
        dq, dk, dv = torch.autograd.grad(out, inputs, gradient)
        return dq, dk, dv


class PlainAttention(AutogradAttention):
    """Plain torch, on any device; its scores take the square of a document's length."""

    name = "plain"

    def compute(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, documents: Documents
    ) -> torch.Tensor:
        """Attend in one document after the other."""
        ends = documents.boundaries.tolist()
        parts = [
            _attend_in_document(*(each[begin:end].transpose(0, 1) for each in (q, k, v)))
            for begin, end in pairwise(ends)
        ]
        return torch.cat([part.transpose(0, 1) for part in parts])


def load_attention(device: torch.device) -> Attention:
    """Return what every machine with such a device has."""
    return FlashAttention() if device.type == "cuda" else PlainAttention()


def measure_error(
    attention: Attention, heads: Heads, *, device: torch.device, dtype: torch.dtype
) -> float:
    """Return the largest relative error of output and gradients against torch's attention in fp32.

    Three random documents, one of a single token, with the heads of the model.
    """
    lengths = (65, 1, 130)
    ends = torch.tensor((0, *lengths)).cumsum(0)
    documents = Documents(ends.to(device, torch.int32), max(lengths))
    draw = torch.Generator().manual_seed(0)
    q, k, v, gradient = (
        torch.randn(sum(lengths), count, heads.size, generator=draw).to(device, dtype)
        for count in (heads.queries, heads.keys, heads.keys, heads.queries)
    )
    attended = attention.forward(q, k, v, documents=documents)
    found = attention.backward(gradient, q, k, v, attended=attended, documents=documents)
    inputs = [each.float().requires_grad_() for each in (q, k, v)]
    shared = heads.queries // heads.keys
    out = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(
                *(
                    each[begin:end].repeat_interleave(repeat, 1).transpose(0, 1)
                    for each, repeat in zip(inputs, (1, shared, shared), strict=True)
                ),
                is_causal=True,
            ).transpose(0, 1)
            for begin, end in pairwise(ends.tolist())
        ]
    )
    expected = (out.detach(), *torch.autograd.grad(out, inputs, gradient.float()))
    return max(
        float((mine.float() - theirs).norm() / theirs.norm())
        for mine, theirs in zip((attended.out, *found), expected, strict=True)
    )


def _attend_in_document(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend within one document; each (heads, length, size)."""
    length, size = q.shape[1:]
    shared = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(shared, 0), v.repeat_interleave(shared, 0)
    later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.transpose(1, 2) / sqrt(size)).masked_fill(later, -inf)
    return scores.softmax(-1) @ v
