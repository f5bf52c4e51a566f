"""How the tokens of an optimizer step are split into micro-batches on a GPU: the planner and its limits.

The trainer plans with the GPU that it has (`finetune_trainer.engine.tuning`); operator and CLI plan with
the GPU that is asked for (`finetune_resolver.decisions.expected_peak`). Both pass their own costs to
`plan_micro_batch`, so limits and rule exist once. Pure.
"""

from dataclasses import dataclass, replace

ENOUGH_TOKENS = 4096
"""Tokens of a micro-batch below which it does not fill the GPU, so that recomputing layers to make room pays:
on one H100 4,096 tokens with all layers kept ran at 16,429 tokens/s, 16,384 with none at 12,131 (measured)."""
MOST_TOKENS = 32_768
"""Tokens of a micro-batch above which memory is spent and no speed gained: a 1B's steps of 24,000 to 37,000
tokens run at 90,000 tokens/s in one micro-batch and in two; an 8B gains nothing above 8,192 (one H100)."""
SPARE_BYTES = 3 * 2**30
"""Bytes of the GPU that stay free: fragments of the allocator, attention's workspace, estimation error."""
LOGIT_ROWS = 4096
"""Rows of logits that the fused stack's loss holds at a time, in 16 bits."""
SMALLEST_SLOT = 16
"""Columns of one adapter in the fused stack at least: the smallest matrix of the tensor cores."""
SLOT_ALIGNMENT = 64
"""All adapters of one input are padded to a multiple of it: odd widths leave tensor cores idle."""
FUSED_MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Values of `model_type` in config.json for which the trainer takes its fused stack on a GPU by itself."""


@dataclass(frozen=True, slots=True)
class ActivationCost:
    """Bytes of GPU memory that training needs beside the weights."""

    kept: float
    """A token in a layer whose activations are kept."""
    recomputed: float
    """A token in a layer that is computed again during backward: its input."""
    live: float
    """A token in the one layer that is being recomputed; it exists as a whole meanwhile."""
    always: float
    """A token, however many layers are kept."""
    fixed: float
    """However many tokens: optimizer, gradients, logits."""

    def add_fixed(self, more_bytes: float) -> "ActivationCost":
        """Return the cost with more bytes that are held all the time."""
        return replace(self, fixed=self.fixed + more_bytes)

    def bytes_per_token(self, *, layers_kept: int, layers: int) -> float:
        """Return the bytes of one token more in a micro-batch."""
        recomputed = layers - layers_kept
        live = self.live if recomputed else 0.0
        return self.kept * layers_kept + self.recomputed * recomputed + live + self.always

    def estimate(self, *, tokens: int, layers_kept: int, layers: int) -> float:
        """Return the bytes of a micro-batch of so many tokens."""
        return self.fixed + tokens * self.bytes_per_token(layers_kept=layers_kept, layers=layers)

    def count_tokens(self, free_bytes: float, *, layers_kept: int, layers: int) -> int:
        """Return the tokens of the largest micro-batch that fits."""
        a_token = self.bytes_per_token(layers_kept=layers_kept, layers=layers)
        return max(0, int((free_bytes - self.fixed) / a_token))


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchLimits:
    """What a micro-batch has to fit into, and what it may hold."""

    free_bytes: float
    """Of the GPU, the loaded model deducted."""
    longest: int
    """Tokens of the longest sequence."""
    step_tokens: int
    """Tokens of the largest optimizer step of the run, on one GPU."""
    layers: int
    """Decoder layers of the model."""
    can_recompute: bool
    """Whether the plan allows gradient checkpointing."""
    keeps_some_layers: bool
    """Whether the engine can keep some of the layers; otherwise it keeps all or none."""

    @property
    def needed_tokens(self) -> int:
        """Tokens of the smallest micro-batch that is worth keeping layers for."""
        return min(max(ENOUGH_TOKENS, self.longest), max(self.step_tokens, self.longest))

    @property
    def usable_bytes(self) -> float:
        """Bytes that are planned with."""
        return self.free_bytes - SPARE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchPlan:
    """How the tokens of a step are split, and how many layers keep their activations."""

    tokens: int
    """Of one micro-batch at most."""
    fitting_tokens: int
    """That fit into the memory with `layers_kept`."""
    layers_kept: int


def plan_micro_batch(
    cost: ActivationCost,
    limits: MicroBatchLimits,
    *,
    layers_kept: int | None = None,
    tokens: int | None = None,
) -> MicroBatchPlan:
    """Return tokens and layers kept: all layers, unless fewer than the needed tokens would fit then.

    Args:
        cost: Of the engine and the model.
        limits: Of the GPU and the text.
        layers_kept: Fixes the layers, for a measurement.
        tokens: Fixes the tokens, for a measurement.
    """
    layers, usable = limits.layers, limits.usable_bytes
    kept = _count_kept_layers(cost, limits) if layers_kept is None else min(layers, layers_kept)
    fits = cost.count_tokens(usable, layers_kept=kept, layers=layers)
    most = min(MOST_TOKENS, limits.step_tokens, max(fits, limits.longest))
    return MicroBatchPlan(tokens=tokens or most, fitting_tokens=fits, layers_kept=kept)


def _count_kept_layers(cost: ActivationCost, limits: MicroBatchLimits) -> int:
    layers, needed = limits.layers, limits.needed_tokens
    if not limits.can_recompute:
        return layers
    counts = range(layers, -1, -1) if limits.keeps_some_layers else (layers, 0)
    fitting = (
        kept
        for kept in counts
        if cost.count_tokens(limits.usable_bytes, layers_kept=kept, layers=layers) >= needed
    )
    return next(fitting, 0)


def compute_slot_width(rank: int) -> int:
    """Return the columns of one adapter of this rank in the fused stack; 0 without an adapter."""
    return max(SMALLEST_SLOT, 1 << (rank - 1).bit_length()) if rank else 0


def compute_padded_ranks(rank: int, *, adapters: int) -> int:
    """Return the columns of all adapters of one input in the fused stack, the padding included."""
    return -(-compute_slot_width(rank) * adapters // SLOT_ALIGNMENT) * SLOT_ALIGNMENT
