"""The fused stack as an engine of the trainer: a packed micro-batch in, the sum of its losses out.

Built by `engines` over a loaded PEFT model, whose parameters stay the trained ones: optimizer,
checkpoints and saving see no difference. The model's own forward works on, over the same weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from finetune_trainer.fused.architecture import build_architecture, rotations_of
from finetune_trainer.fused.attention import (
    Attention,
    DocumentBounds,
    load_attention,
    measure_error,
)
from finetune_trainer.fused.device_batch import DeviceBatch, prepare
from finetune_trainer.fused.dropout import Dropout, count_threshold
from finetune_trainer.fused.head import Head
from finetune_trainer.fused.layer import LayerContext
from finetune_trainer.fused.ops import load_ops
from finetune_trainer.fused.projection import ADAPTER
from finetune_trainer.fused.rotary import RotaryTables, compute_frequencies
from finetune_trainer.fused.stack import Stack
from finetune_trainer.steps.micro_batches import BatchLayout, MicroBatch


class FusedEngine:
    """Runs a model that `restrictions` has no objection to."""

    name = "fused"
    layout = BatchLayout.PACKED

    def __init__(self, network: Any, *, device: torch.device) -> None:
        base = network.get_base_model()
        config = base.config
        self._network = network
        self._device = device
        self._ops = load_ops(device)
        self.attention: Attention = load_attention(device)
        """May be replaced by a faster one before the first micro-batch."""
        self._embedding = base.get_input_embeddings()
        self._architecture = build_architecture(config)
        scale = torch.tensor(self._architecture.embedding_scale)
        # Rounded to the embeddings' own type, as the models do it.
        self._embedding_scale = float(scale.to(self._embedding.weight.dtype))
        self._tables = {kind: self._build_tables(config, kind) for kind in rotations_of(config)}
        self.stack = Stack(base.model.layers, self._architecture)
        self._head = Head(
            self._ops,
            norm=self._architecture.norm_weight(base.model.norm),
            eps=self._architecture.eps,
            weight=base.get_output_embeddings().weight.data,
        )
        self._dropouts = [
            module.lora_dropout[ADAPTER]
            for module in network.modules()
            if ADAPTER in getattr(module, "lora_dropout", {})
        ]
        self._with_adapter = True

    def sum_of_losses(self, micro_batch: MicroBatch, *, divisor: int) -> torch.Tensor:
        """Return the loss of a micro-batch. Shape: ().

        Args:
            micro_batch: Packed or prepared.
            divisor: Supervised tokens of the whole step.
        """
        prepared = self.prepare(micro_batch)
        return self._head.sum_of_losses(
            self.hidden_states(prepared),
            scored=prepared.scored,
            targets=prepared.targets,
            divisor=divisor,
        )

    def prepare(self, micro_batch: MicroBatch) -> DeviceBatch:
        """Lay a micro-batch out on the device; waits for nothing that the device is busy with."""
        return prepare(micro_batch, device=self._device)

    def hidden_states(self, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the residual stream after all layers, (tokens, hidden size)."""
        prepared = self.prepare(micro_batch)
        self.stack.copy_adapter(with_adapter=self._with_adapter)
        context = LayerContext(
            ops=self._ops,
            attention=self.attention,
            documents=DocumentBounds(prepared.ends, prepared.longest),
            rotations={
                kind: tables.rotation(prepared.positions, longest=prepared.longest)
                for kind, tables in self._tables.items()
            },
            dropout=self._decide_dropout(prepared.first_token),
        )
        embedded = self._embedding.weight.data[prepared.input_ids]
        if self._embedding_scale != 1.0:
            embedded.mul_(self._embedding_scale)
        return self.stack.run(embedded, context)

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """Multiply with a B of zero."""
        self._with_adapter = False
        try:
            yield
        finally:
            self._with_adapter = True

    def measure_attention_error(self, attention: Attention) -> float:
        """Return how far an implementation is from torch's own in fp32 on this machine, relative."""
        return measure_error(
            attention,
            self._architecture.heads,
            attention_windows=(each.attention_window for each in self._architecture.layers),
            device=self._device,
            dtype=self._embedding.weight.dtype,
        )

    def release(self) -> None:
        """Give each module a weight of its own again; the engine is not used afterwards."""
        self.stack.release()

    def _build_tables(self, config: Any, kind: str | None) -> RotaryTables:
        frequencies, scaling = compute_frequencies(
            config, head_size=self._architecture.heads.size, rotation=kind
        )
        if self._embedding.weight.dtype == torch.float64:
            frequencies = frequencies.double()
        return RotaryTables(frequencies, scaling=scaling, device=self._device)

    def _decide_dropout(self, first_token: int) -> Dropout:
        """Return the dropout that the adapter's own modules ask for, as they are now.

        The seed is torch's: seeding a step seeds its masks.
        """
        probability = max(
            (float(getattr(dropout, "p", 0.0)) for dropout in self._dropouts), default=0.0
        )
        drops = self._network.training and self._with_adapter
        return Dropout(
            threshold=count_threshold(probability) if drops else 0,
            seed=torch.initial_seed(),
            first_token=first_token,
        )
