"""What makes a run fast and changes none of its numbers: engine, micro-batches, activations kept, each with why.

Between `model` and `train`: `engines` observes the facts, this module decides, the log and
`environment.json` tell. Pure: no GPU is asked and no model is touched here. The plan's mathematics is
the same under every decision: a step holds the plan's sequences and divides by their tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from finetune_api.micro_batch import (
    LOGIT_ROWS,
    MOST_TOKENS,
    ActivationCost,
    MicroBatchLimits,
    MicroBatchPlan,
    plan_micro_batch,
)
from finetune_trainer.steps.micro_batches import BatchLayout

GIB = 2**30
FORCED_ENGINE = "FINETUNE_ENGINE"
"""Environment, for measuring: `unsloth` or `fused`, whatever would have been chosen."""
FORCED_ATTENTION = "FINETUNE_ATTENTION"
"""Environment, for measuring: `flash2` keeps torch's own kernels in the fused stack."""
FORCED_TOKENS = "FINETUNE_TOKENS_PER_MICRO_BATCH"
"""Environment, for measuring: tokens of one micro-batch."""
FORCED_LAYERS = "FINETUNE_LAYERS_KEPT"
"""Environment, for measuring: layers whose activations are kept."""

CPU_TOKENS = 512
"""Tokens of one micro-batch on a CPU. A 135M model with dropout needs 2.6, 3.6 and 4.5 GiB with 256, 512
and 1024; on two cores more tokens were no faster (measured)."""


class EngineName(StrEnum):
    """What runs the model."""

    UNSLOTH = "unsloth"
    """Unsloth's own forward and backward: always available."""
    FUSED = "fused"
    """The stack of `finetune_trainer.fused`."""


class AttentionName(StrEnum):
    """What the fused stack computes attention with on a GPU."""

    FLASH_2 = "flash2"
    """torch's own kernels: always there."""
    FLASH_4 = "flash4"
    """FlashAttention 4, where it runs and is right."""


@dataclass(frozen=True)
class Choice:
    """One decision of the runtime and the sentence that explains it."""

    name: str
    value: str | int
    reason: str


@dataclass(frozen=True)
class Widths:
    """The sizes of a decoder that its activations depend on."""

    layers: int
    hidden: int
    intermediate: int
    query: int
    key: int
    """Columns of k, and of v."""
    heads: int
    vocabulary: int


@dataclass(frozen=True)
class MicroBatchChoice:
    """How the tokens of a step are split into micro-batches."""

    tokens: int
    layers_kept: int
    predicted_peak_bytes: int | None
    """Of the GPU, the weights included; None where nothing is modelled."""
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Runtime:
    """Everything that was chosen, for the log and the published environment."""

    engine: EngineName
    layout: BatchLayout
    micro_batch: MicroBatchChoice
    choices: tuple[Choice, ...]

    def describe(self) -> dict[str, object]:
        """Return what `environment.json` says of it."""
        described: dict[str, object] = {
            choice.name: {"value": choice.value, "reason": choice.reason} for choice in self.choices
        }
        if self.micro_batch.predicted_peak_bytes is not None:
            described["predictedPeakBytes"] = self.micro_batch.predicted_peak_bytes
        return described


@dataclass(frozen=True)
class Forced:
    """What a measurement fixes instead of having it chosen."""

    engine: EngineName | None = None
    attention: AttentionName | None = None
    tokens: int | None = None
    layers_kept: int | None = None


def read_forced(environ: Mapping[str, str]) -> Forced:
    """Return what the environment fixes; nothing in production.

    Raises:
        ValueError: A value is none of those allowed.
    """
    engine, tokens = environ.get(FORCED_ENGINE), environ.get(FORCED_TOKENS)
    attention, layers = environ.get(FORCED_ATTENTION), environ.get(FORCED_LAYERS)
    return Forced(
        engine=EngineName(engine) if engine else None,
        attention=AttentionName(attention) if attention else None,
        tokens=int(tokens) if tokens else None,
        layers_kept=int(layers) if layers else None,
    )


# --- Engine -------------------------------------------------------------------------------------


def decide_engine(*, obstacles: tuple[str, ...], on_gpu: bool, forced: EngineName | None) -> Choice:
    """Return the engine to try first."""
    if forced is EngineName.UNSLOTH:
        return Choice("engine", EngineName.UNSLOTH, f"{FORCED_ENGINE} asks for it.")
    if obstacles:
        return Choice(
            "engine",
            EngineName.UNSLOTH,
            f"Unsloth's own path runs, because {' and '.join(obstacles)}.",
        )
    if forced is EngineName.FUSED:
        return Choice("engine", EngineName.FUSED, f"{FORCED_ENGINE} asks for it.")
    if not on_gpu:
        return Choice(
            "engine", EngineName.UNSLOTH, "Unsloth's own path runs: the fused stack is for GPUs."
        )
    return Choice(
        "engine",
        EngineName.FUSED,
        "The fused stack runs: model, adapter and GPU are of the kinds that it covers.",
    )


# --- Memory -------------------------------------------------------------------------------------


def estimate_fused_cost(
    widths: Widths, *, ranks: int, trainable: int, head_norms: bool, output_norms: bool
) -> ActivationCost:
    """Return what the fused stack keeps: every tensor of `fused.layer.SavedActivations`, counted.

    Args:
        widths: Of the model.
        ranks: Padded adapter columns of all four inputs of a layer, together.
        trainable: Trained parameters.
        head_norms: Whether query and key heads have norms.
        output_norms: Whether the outputs of attention and MLP have, whose inputs are kept.
    """
    w = widths
    columns = 2 * w.hidden + 2 * w.query + 2 * w.key + 2 * w.intermediate + ranks
    fp32 = 2 + w.heads + (w.heads * 2 if head_norms else 0)
    if output_norms:
        columns += 2 * w.hidden
        fp32 += 2
    kept = 2 * columns + 4 * fp32
    return ActivationCost(
        kept=kept,
        live=kept,
        recomputed=2 * w.hidden,
        # Four streams in the head; then two, the MLP's gradient and attention's own fp32 sum.
        always=2 * (4 * w.hidden + w.intermediate) + 4 * w.query,
        fixed=_fixed_bytes(trainable) + 2 * LOGIT_ROWS * w.vocabulary,
    )


def estimate_unsloth_cost(
    widths: Widths, *, trainable: int, dropped_columns: int
) -> ActivationCost:
    """Return what Unsloth's path keeps, measured at the shapes of an 8B and a 1B.

    Args:
        widths: Of the model.
        trainable: Trained parameters.
        dropped_columns: Input columns of all adapted modules of a layer; 0 without dropout.
    """
    w = widths
    projected = w.query + 2 * w.key + 2 * w.intermediate
    # 98,880 (8B) and 52,534 bytes (1B) a token and layer; dropout keeps 1.06 bytes an element.
    columns = 2.5 * w.hidden + 2 * w.query + 2 * w.key + 2 * w.intermediate
    kept = 2 * columns + 1.06 * dropped_columns
    return ActivationCost(
        kept=kept,
        live=kept,
        recomputed=2 * w.hidden,
        # 366 kB (8B) and 127 kB (1B) a token.
        always=10.5 * projected,
        fixed=_fixed_bytes(trainable) + GIB,
    )


def _fixed_bytes(trainable: int) -> float:
    # A gradient and two moments in fp32.
    return 12.0 * trainable


# --- Micro-batches -----------------------------------------------------------------------------------


def decide_micro_batch(
    cost: ActivationCost, limits: MicroBatchLimits, *, used_bytes: int, forced: Forced
) -> MicroBatchChoice:
    """Return tokens of a micro-batch and layers kept, with a reason for each.

    Args:
        cost: Of the engine.
        limits: Of GPU, plan and text.
        used_bytes: What the loaded model takes of the GPU already.
        forced: What a measurement fixes.
    """
    plan = plan_micro_batch(cost, limits, layers_kept=forced.layers_kept, tokens=forced.tokens)
    predicted = cost.estimate(
        tokens=min(plan.tokens, limits.step_tokens),
        layers_kept=plan.layers_kept,
        layers=limits.layers,
    )
    return MicroBatchChoice(
        tokens=plan.tokens,
        layers_kept=plan.layers_kept,
        predicted_peak_bytes=used_bytes + round(predicted),
        choices=(
            Choice("tokensPerMicroBatch", plan.tokens, _explain_tokens(plan, limits)),
            Choice("layersKept", plan.layers_kept, _explain_layers(plan, limits)),
        ),
    )


def explain_world_size(count: int) -> tuple[Choice, ...]:
    """Return what is said of several ranks; nothing of one."""
    if count == 1:
        return ()
    reason = (
        f"{count} ranks train together, one a GPU: each computes a shard of every step, of like many"
        " tokens, and all do the same update with the sum of their gradients."
    )
    return (Choice("worldSize", count, reason),)


def decide_cpu_micro_batch(*, micro_batch_tokens: int, forced: Forced) -> MicroBatchChoice:
    """Return the micro-batches on a CPU: small ones, all layers kept."""
    tokens = forced.tokens or min(micro_batch_tokens, CPU_TOKENS)
    reason = f"On a CPU more than {CPU_TOKENS} tokens a micro-batch need memory and gain no speed."
    return MicroBatchChoice(tokens, 0, None, (Choice("tokensPerMicroBatch", tokens, reason),))


def decide_unmodelled_micro_batch(*, micro_batch_tokens: int, forced: Forced) -> MicroBatchChoice:
    """Return the micro-batches of a model whose memory is not modelled: the plan's own micro-batch."""
    tokens = forced.tokens or micro_batch_tokens
    reason = (
        "The model's config does not name the sizes that its activations depend on, so a micro-batch holds"
        " the plan's own micro-batch and every layer is computed again."
    )
    return MicroBatchChoice(tokens, 0, None, (Choice("tokensPerMicroBatch", tokens, reason),))


def _explain_tokens(plan: MicroBatchPlan, limits: MicroBatchLimits) -> str:
    holds = f"{_describe_free(limits)}, which hold {plan.fitting_tokens:,} tokens"
    if plan.tokens >= limits.step_tokens:
        return f"Every step fits one micro-batch: {holds}."
    if plan.tokens >= MOST_TOKENS:
        return f"More tokens a micro-batch gain no speed: {holds}."
    return f"{holds}; larger steps are split."


def _explain_layers(plan: MicroBatchPlan, limits: MicroBatchLimits) -> str:
    free, layers = _describe_free(limits), limits.layers
    if plan.layers_kept == layers:
        return f"No layer is computed twice: {free}."
    return (
        f"{layers - plan.layers_kept} of {layers} layers are computed twice, so that a micro-batch of"
        f" {limits.needed_tokens:,} tokens fits: {free}."
    )


def _describe_free(limits: MicroBatchLimits) -> str:
    return f"{limits.free_bytes / GIB:.1f} GiB of the GPU are free"
