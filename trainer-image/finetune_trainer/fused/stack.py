"""All layers as one autograd node: which keep what backward reads, and which are computed again.

Between `engine` and `layer`. A layer that is not kept costs its input alone and a second forward.
"""

from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.fused.adapter_sync import AdapterSync
from finetune_trainer.fused.architecture import Architecture
from finetune_trainer.fused.layer import Layer, LayerContext, SavedActivations
from finetune_trainer.fused.projection import Workspace


class Stack:
    """The decoder layers of a model."""

    def __init__(self, modules: Any, architecture: Architecture) -> None:
        self._workspace = Workspace()
        self.layers = [
            Layer(module, number=number, architecture=architecture, workspace=self._workspace)
            for number, module in enumerate(modules)
        ]
        self.parameters = [each for layer in self.layers for each in layer.parameters()]
        self._projections = [each for layer in self.layers for each in layer.projections]
        self._scratch = max(max(each.output.ranks, each.down.ranks) for each in self.layers)
        dense = [each for each in self._projections if not each.is_quantized]
        self._copies = AdapterSync([copy for each in dense for copy in each.copies()])
        self._kept = frozenset(range(len(self.layers)))

    def keep(self, count: int) -> None:
        """Keep the activations of `count` layers, spread evenly; the others are computed again."""
        total = len(self.layers)
        self._kept = frozenset((number + 1) * total // count - 1 for number in range(count))

    def copy_adapter(self, *, with_adapter: bool) -> None:
        """Copy the trained parameters, as they are now, into the matrices that compute."""
        self._workspace.with_adapter = with_adapter
        self._copies.make(with_adapter=with_adapter)

    def run(self, embedded: torch.Tensor, context: LayerContext) -> torch.Tensor:
        """Return the residual stream (T, H) after all layers.

        Args:
            embedded: Embeddings of the tokens, (T, H).
            context: What all layers of a micro-batch share.
        """
        if torch.is_grad_enabled():
            passing = _Passing(self, context)
            hidden: torch.Tensor = _AllLayers.apply(passing, embedded, *self.parameters)
            return hidden
        stream = embedded.clone()
        for layer in self.layers:
            layer.forward(stream, context)
        return stream

    def forward(
        self, stream: torch.Tensor, context: LayerContext
    ) -> list[SavedActivations | torch.Tensor]:
        """Pass the stream through all layers in place; return, for each, what backward starts from.

        Args:
            stream: Residual stream, (T, H).
            context: What all layers of a micro-batch share.
        """
        saved: list[SavedActivations | torch.Tensor] = []
        for number, layer in enumerate(self.layers):
            if number in self._kept:
                saved.append(layer.forward(stream, context))
                continue
            saved.append(stream.clone())
            layer.forward(stream, context)
        return saved

    def backward(
        self,
        gradient: torch.Tensor,
        saved: list[SavedActivations | torch.Tensor],
        context: LayerContext,
    ) -> list[torch.Tensor]:
        """Return the gradients of `parameters`; empties `saved` as it goes.

        Args:
            gradient: Of the stream after all layers, (T, H).
            saved: What forward returned; emptied.
            context: What all layers of a micro-batch share.
        """
        stream = gradient.new_empty(len(gradient), gradient.shape[1] + self._scratch)
        stream[:, : gradient.shape[1]].copy_(gradient)
        every: list[list[torch.Tensor]] = []
        for layer in reversed(self.layers):
            kept = saved.pop()
            if isinstance(kept, torch.Tensor):
                kept = layer.forward(kept, context)
            every.append(layer.backward(stream, kept, context))
            del kept
        return [gradient for gradients in reversed(every) for gradient in gradients]

    def release(self) -> None:
        """Give each module a weight of its own again, so that the model can be saved or merged."""
        # What is copied lies in the matrices, and would keep them all until the last is released.
        self._copies = AdapterSync([])
        for projection in self._projections:
            projection.release()
        self._workspace.matrices.clear()


@dataclass(frozen=True)
class _Passing:
    """One micro-batch on its way through the layers; autograd must not look inside."""

    stack: Stack
    context: LayerContext


class _AllLayers(torch.autograd.Function):
    """The node. Autograd knows the trained parameters only; the layers do their own backward."""

    @staticmethod
    def forward(
        ctx: Any, passing: _Passing, embedded: torch.Tensor, *parameters: torch.Tensor
    ) -> torch.Tensor:
        del parameters
        stream = embedded.clone()
        ctx.passing = passing
        ctx.saved = passing.stack.forward(stream, passing.context)
        return stream

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        passing: _Passing = ctx.passing
        gradients = passing.stack.backward(gradient, ctx.saved, passing.context)
        return (None, None, *gradients)
