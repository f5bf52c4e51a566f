"""Causal attention inside each document of a packed row: what an implementation does, and two of them.

On a GPU torch's own flash kernels, which take fewer key heads than query heads; `flash4` has faster ones
for newer GPUs, and `finetune_trainer.engine.attention` decides. Elsewhere plain torch, one document after
the other.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import Any, Protocol

import torch

from finetune_trainer.fused.ops import HeadShape

CHECKED_LENGTHS = (65, 1, 130)
"""Tokens of the documents that an implementation is checked with."""
CHECKED_WINDOW = 50
"""Tokens of the window that it is checked with, where the model has one: two of the documents slide."""


@dataclass(frozen=True)
class DocumentBounds:
    """Where the documents of a packed row begin and end."""

    boundaries: torch.Tensor
    """Shape: (documents + 1,), int32, on the device: 0 and the end of each."""
    longest: int


@dataclass(frozen=True)
class AttentionWindow:
    """What a token of a layer looks at in its document, and how its scores are scaled."""

    scale: float
    """Factor on q·kᵀ."""
    window: int | None = None
    """Tokens, itself the last of them; None for all before it."""

    def left_of(self, documents: DocumentBounds) -> int | None:
        """Return the tokens before itself that it sees; None for all, as in documents that fit."""
        if self.window is None or self.window >= documents.longest:
            return None
        return self.window - 1


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
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        documents: DocumentBounds,
        attention_window: AttentionWindow,
    ) -> Attended:
        """Return softmax(scale·q·kᵀ)·v of each token with what it sees of its document.

        Args:
            q: (tokens, query heads, size).
            k: (tokens, key heads, size).
            v: (tokens, key heads, size).
            documents: Their boundaries.
            attention_window: Of the layer.
        """

    def backward(
        self,
        gradient: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        attended: Attended,
        documents: DocumentBounds,
        attention_window: AttentionWindow,
    ) -> Gradients:
        """Return the gradients of q, k and v.

        Args:
            gradient: Of the output, (tokens, query heads, size).
            q: As in forward.
            k: As in forward.
            v: As in forward.
            attended: What forward returned.
            documents: Where the documents of the packed row begin and end.
            attention_window: Scale and window of the layer.
        """


class FlashAttention:
    """The flash kernels inside torch, which are those of FlashAttention 2."""

    name = "FlashAttention 2 of torch, variable length"

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        documents: DocumentBounds,
        attention_window: AttentionWindow,
    ) -> Attended:
        """Run the kernel; the state is what torch hands from one to the other."""
        ends, longest = documents.boundaries, documents.longest
        out, *state = torch.ops.aten._flash_attention_forward(
            q,
            k,
            v,
            ends,
            ends,
            longest,
            longest,
            0.0,
            True,
            False,
            scale=attention_window.scale,
            window_size_left=attention_window.left_of(documents),
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
        documents: DocumentBounds,
        attention_window: AttentionWindow,
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
            scale=attention_window.scale,
            window_size_left=attention_window.left_of(documents),
        )
        return dq, dk, dv


class AutogradAttention(ABC):
    """An implementation whose backward is its own autograd's; the state is its little graph."""

    @abstractmethod
    def compute(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        documents: DocumentBounds,
        attention_window: AttentionWindow,
    ) -> torch.Tensor:
        """Return attention as `Attention.forward` has it, (tokens, query heads, size)."""

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        documents: DocumentBounds,
        attention_window: AttentionWindow,
    ) -> Attended:
        """Compute, and keep the graph. The inputs are the caller's own memory, nothing is copied."""
        inputs = [each.detach().requires_grad_() for each in (q, k, v)]
        # NB: on inside the stack's own node, where autograd is off.
        with torch.enable_grad():
            out = self.compute(*inputs, documents=documents, attention_window=attention_window)
        return Attended(out.detach(), (out, *inputs))

    def backward(
        self,
        gradient: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        attended: Attended,
        documents: DocumentBounds,
        attention_window: AttentionWindow,
    ) -> Gradients:
        """Differentiate the graph, once."""
        del q, k, v, documents, attention_window
        out, *inputs = attended.state
        dq, dk, dv = torch.autograd.grad(out, inputs, gradient)
        return dq, dk, dv


class PlainAttention(AutogradAttention):
    """Plain torch, on any device; its scores take the square of a document's length."""

    name = "plain"

    def compute(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        documents: DocumentBounds,
        attention_window: AttentionWindow,
    ) -> torch.Tensor:
        """Attend in one document after the other."""
        ends = documents.boundaries.tolist()
        parts = [
            _attend_in_document(
                *(each[begin:end].transpose(0, 1) for each in (q, k, v)),
                attention_window=attention_window,
            )
            for begin, end in pairwise(ends)
        ]
        return torch.cat([part.transpose(0, 1) for part in parts])


def load_attention(device: torch.device) -> Attention:
    """Return what every machine with such a device has."""
    return FlashAttention() if device.type == "cuda" else PlainAttention()


def measure_error(
    attention: Attention,
    heads: HeadShape,
    *,
    attention_windows: Iterable[AttentionWindow],
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """Return the largest relative error of output and gradients against torch's attention in fp32.

    Three random documents, one of a single token, with the heads of the model and all that its layers
    see; of a longer window a short one takes the place.

    Args:
        attention: The implementation that is checked.
        heads: How many query and key heads, and their size.
        attention_windows: Those of the model's layers.
        device: To run on.
        dtype: To run in.
    """
    draw = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(sum(CHECKED_LENGTHS), count, heads.size, generator=draw).to(device, dtype)
        for count in (heads.queries, heads.keys, heads.keys, heads.queries)
    ]
    checked = {
        replace(
            attention_window,
            window=attention_window.window and min(attention_window.window, CHECKED_WINDOW),
        )
        for attention_window in attention_windows
    }
    return max(
        _measure_attention_window(attention, inputs, attention_window)
        for attention_window in checked
    )


def _measure_attention_window(
    attention: Attention, tensors: Sequence[torch.Tensor], attention_window: AttentionWindow
) -> float:
    """Return the error with q, k, v and the output's gradient."""
    *qkv, gradient = tensors
    ends = torch.tensor((0, *CHECKED_LENGTHS)).cumsum(0)
    documents = DocumentBounds(ends.to(gradient.device, torch.int32), max(CHECKED_LENGTHS))
    attended = attention.forward(*qkv, documents=documents, attention_window=attention_window)
    found = attention.backward(
        gradient, *qkv, attended=attended, documents=documents, attention_window=attention_window
    )
    inputs = [each.float().requires_grad_() for each in qkv]
    shared = inputs[0].shape[1] // inputs[1].shape[1]
    out = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(
                *(
                    each[begin:end].repeat_interleave(repeat, 1).transpose(0, 1)
                    for each, repeat in zip(inputs, (1, shared, shared), strict=True)
                ),
                attn_mask=_seen(end - begin, attention_window, device=gradient.device),
                scale=attention_window.scale,
            ).transpose(0, 1)
            for begin, end in pairwise(ends.tolist())
        ]
    )
    expected = (out.detach(), *torch.autograd.grad(out, inputs, gradient.float()))
    return max(
        float((mine.float() - theirs).norm() / theirs.norm())
        for mine, theirs in zip((attended.out, *found), expected, strict=True)
    )


def _seen(length: int, attention_window: AttentionWindow, *, device: torch.device) -> torch.Tensor:
    """Return which tokens (columns) each token (rows) of a document sees, (length, length)."""
    whole = torch.ones(length, length, dtype=torch.bool, device=device)
    seen = whole.tril()
    return (
        seen if attention_window.window is None else seen & whole.triu(1 - attention_window.window)
    )


def _attend_in_document(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, attention_window: AttentionWindow
) -> torch.Tensor:
    """Attend within one document; each (heads, length, size)."""
    shared = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(shared, 0), v.repeat_interleave(shared, 0)
    unseen = ~_seen(q.shape[1], attention_window, device=q.device)
    scores = (q @ k.transpose(1, 2) * attention_window.scale).masked_fill(unseen, -inf)
    return scores.softmax(-1) @ v
