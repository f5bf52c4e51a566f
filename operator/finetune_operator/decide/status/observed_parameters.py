"""What a finished run showed of each parameter, in one sentence beside its reason.

`status` calls this once, with the outcome of the pod that did the job. Facts first, then what follows
from them where that is arithmetic; a parameter of which nothing was measured has no observation. Pure.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Final

from finetune_api.outcome import Evaluation, Outcome, RunSummary
from finetune_api.status import ParameterStatus

LENGTH_STEP: Final = 256
"""Sequence lengths are advised in multiples of this; assumption: as fine as anybody sets it."""
MEBIBYTE: Final = 1024**2
GIBIBYTE: Final = 1024**3


@dataclass(frozen=True)
class Shown:
    """A finished run, as the observers look at it."""

    outcome: Outcome
    values: Mapping[str, str]
    """Each parameter's value as JSON, by the guide's name."""

    @cached_property
    def summary(self) -> RunSummary | None:
        """Figures of the training, or None where no step was done."""
        summary = self.outcome.summary
        return summary if summary is not None and summary.steps else None

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """Base against adapter, or None where nothing was held out."""
        result = self.outcome.evaluation
        return result if result is not None and result.examples else None

    def number(self, name: str) -> float | None:
        """Return a parameter's value where it is a number."""
        try:
            value = json.loads(self.values.get(name, "null"))
        except ValueError:
            return None  # a value that was too long for status is cut
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number else None


def with_observations(
    parameters: Iterable[ParameterStatus], *, outcome: Outcome
) -> list[ParameterStatus]:
    """Return the parameters, each with what the run showed of it."""
    parameters = list(parameters)
    shown = Shown(outcome=outcome, values={one.name: one.value for one in parameters})
    return [
        parameter.model_copy(update={"observation": _observation(parameter.name, shown=shown)})
        for parameter in parameters
    ]


def _observation(name: str, *, shown: Shown) -> str:
    observe = OBSERVERS.get(name)
    return observe(shown) if observe else ""


# --- The text ---------------------------------------------------------------------------------------


def _sequence_length(shown: Shown) -> str:
    corpus, limit = shown.outcome.corpus, shown.number("max_seq_length")
    if not corpus or limit is None:
        return ""
    length = int(limit)
    p99 = max(language.p99 for language in corpus)
    longest = max(language.longest for language in corpus)
    truncated = sum(language.truncated for language in corpus)
    if truncated:
        examples = sum(language.examples for language in corpus)
        return (
            f"{truncated:,} of {examples:,} examples are longer than {length:,} tokens and were cut; "
            f"the longest has {longest:,}."
        )
    enough = -(-longest // LENGTH_STEP) * LENGTH_STEP
    spare = f"; {enough:,} would do" if 0 < enough < length else ""
    return f"p99 of the texts is {p99:,} tokens, the longest has {longest:,}: none was cut{spare}."


def _completion_only(shown: Shown) -> str:
    tokens = sum(language.tokens for language in shown.outcome.corpus)
    if not tokens:
        return ""
    supervised = sum(language.supervised_tokens for language in shown.outcome.corpus)
    return f"{supervised:,} of {tokens:,} tokens carried loss ({100 * supervised / tokens:.0f} %)."


# --- Batches and memory -----------------------------------------------------------------------------


def _batch(shown: Shown) -> str:
    summary = shown.summary
    if summary is None or not summary.sequences_per_step:
        return ""
    said = (
        f"An optimizer step held {summary.sequences_per_step:.1f} sequences and "
        f"{summary.tokens_per_step:,.0f} tokens on average"
    )
    batch, length = shown.number("batch_size"), shown.number("max_seq_length")
    if not batch or not length:
        return f"{said}."
    full = int(batch * length)
    return f"{said}; a full batch of the longest texts would be {full:,} tokens."


def _per_device(shown: Shown) -> str:
    summary = shown.summary
    if summary is None or not summary.micro_batches_per_step:
        return ""
    where = "the device" if summary.world_size == 1 else f"each of {summary.world_size} GPUs"
    said = f"The sequences of a step reached {where} in {_micro_batches(summary)}{_peak(summary)}"
    if not summary.micro_batch_halvings:
        return f"{said}."
    times = _times(summary.micro_batch_halvings)
    return f"{said}; GPU memory ran out {times}, and micro-batches were halved each time."


def _accumulation(shown: Shown) -> str:
    summary = shown.summary
    if summary is None or not summary.micro_batches_per_step:
        return ""
    return (
        f"The gradients of {_micro_batches(summary)} made one optimizer step of "
        f"{summary.sequences_per_step:.1f} sequences; the split changes memory and speed, not the "
        "gradient."
    )


def _checkpointing(shown: Shown) -> str:
    summary = shown.summary
    if summary is None:
        return ""
    if summary.peak_gpu_memory_bytes is None:
        return "The run was on CPU, where no GPU memory had to be saved."
    return f"The peak of GPU memory was {_gib(summary.peak_gpu_memory_bytes)}{_speed(summary)}."


def _attention(shown: Shown) -> str:
    summary = shown.outcome.summary
    if summary is None or not summary.attention:
        return ""
    return f"{summary.attention} ran{_speed(summary)}."


def _micro_batches(summary: RunSummary) -> str:
    each = f"{summary.micro_batches_per_step:.1f}"
    budget = (
        f" of at most {summary.micro_batch_tokens:,} tokens" if summary.micro_batch_tokens else ""
    )
    return f"{each} {'micro-batch' if each == '1.0' else 'micro-batches'}{budget}"


def _peak(summary: RunSummary) -> str:
    peak = summary.peak_gpu_memory_bytes
    return f", with a peak of {_gib(peak)} of GPU memory" if peak is not None else ""


def _speed(summary: RunSummary) -> str:
    if not summary.tokens or summary.train_seconds <= 0:
        return ""
    return f", at {summary.tokens / summary.train_seconds:,.0f} tokens a second"


def _gib(size: int) -> str:
    return f"{size / GIBIBYTE:.1f} GiB"


# --- The optimization -------------------------------------------------------------------------------


def _learning_rate(shown: Shown) -> str:
    said = [_trend(shown), _held_out(shown), _clipped(shown)]
    return " ".join(one for one in said if one)


def _trend(shown: Shown) -> str:
    summary = shown.summary
    if summary is None or summary.loss_at_start is None or summary.loss_at_end is None:
        return ""
    return (
        f"Training loss went from {summary.loss_at_start:.4f} to {summary.loss_at_end:.4f} nats a "
        "token, as means of the first and the last tenth of the steps."
    )


def _held_out(shown: Shown) -> str:
    result = shown.evaluation
    if result is None:
        return ""
    return (
        f"Held-out loss went from {result.base_loss:.4f} to {result.adapter_loss:.4f} nats a token."
    )


def _clipped(shown: Shown) -> str:
    summary = shown.summary
    if summary is None or summary.clipped_share is None:
        return ""
    if not summary.clipped_share:
        return "No gradient was clipped."
    return f"The gradient was clipped in {100 * summary.clipped_share:.2g} % of the steps."


def _optimizer(shown: Shown) -> str:
    summary = shown.summary
    if summary is None or summary.train_seconds <= 0:
        return ""
    return (
        f"{summary.steps:,} steps took {summary.train_seconds:,.0f} s with their evaluations"
        f"{_speed(summary)}; every loss and gradient was finite."
    )


def _weight_decay(shown: Shown) -> str:
    summary = shown.summary
    rate, decay = shown.number("learning_rate"), shown.number("weight_decay")
    if summary is None or rate is None or decay is None:
        return ""
    # AdamW multiplies the weights by 1 - rate * decay each step; the rate is never above its peak.
    shrunk = 100 * (1 - (1 - min(rate * decay, 1.0)) ** summary.steps)
    return f"Over {summary.steps:,} steps it took at most {shrunk:.2g} % off the adapter's weights."


# --- The length of the run --------------------------------------------------------------------------


def _epochs(shown: Shown) -> str:
    summary = shown.summary
    if summary is None:
        return ""
    done = f"{summary.epochs:.2f} epochs were trained in {summary.steps:,} steps"
    if not summary.stopped_early:
        return f"{done}."
    best = f"; the best was step {summary.best_step:,}" if summary.best_step is not None else ""
    return f"{done}, then early stopping ended the run{best}."


def _max_steps(shown: Shown) -> str:
    summary = shown.summary
    if summary is None:
        return ""
    why = "the epochs make" if shown.number("max_steps") == -1 else "were asked for"
    return f"{summary.steps:,} of the {summary.total_steps:,} steps that {why} were done."


def _evaluations(shown: Shown) -> str:
    summary = shown.summary
    if summary is None or summary.evaluations is None:
        return ""
    if not summary.evaluations:
        return "The held-out part was not looked at before the end."
    every = f", every {summary.eval_steps:,} steps" if summary.eval_steps else ""
    said = f"The held-out part was evaluated {_times(summary.evaluations)} during training{every}"
    if summary.best_eval_loss is None or summary.best_step is None:
        return f"{said}."
    return (
        f"{said}; its lowest loss was {summary.best_eval_loss:.4f} at step {summary.best_step:,}."
    )


def _saving(shown: Shown) -> str:
    summary = shown.summary
    if summary is None or summary.published_step is None:
        return ""
    said = f"The adapter of step {summary.published_step:,} of {summary.steps:,} is published"
    if summary.best_step is None:
        return f"{said}."
    if summary.best_step == summary.published_step:
        return f"{said}, the one with the lowest held-out loss."
    return f"{said}; step {summary.best_step:,} had the lowest held-out loss."


def _early_stopping(shown: Shown) -> str:
    summary = shown.summary
    if summary is None:
        return ""
    if summary.stopped_early:
        return f"It ended the run at step {summary.steps:,} of {summary.total_steps:,}."
    return "It did not end the run."


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


# --- The adapter ------------------------------------------------------------------------------------


def _rank(shown: Shown) -> str:
    summary, published = shown.summary, shown.outcome.published
    if summary is None or not summary.trainable_parameters:
        return ""
    said = f"The adapter has {summary.trainable_parameters:,} parameters"
    if published is not None and published.size_bytes:
        said += f", and all its published files {published.size_bytes / MEBIBYTE:,.1f} MiB"
    if not summary.tokens:
        return f"{said}."
    each = summary.tokens / summary.trainable_parameters
    return f"{said}; it saw {each:.2g} training tokens for each parameter."


def _alpha(shown: Shown) -> str:
    alpha, rank = shown.number("lora_alpha"), shown.number("r")
    clipped = _clipped(shown)
    if not clipped or alpha is None or not rank:
        return ""
    is_rooted = shown.values.get("use_rslora") == "true"
    scale = alpha / (sqrt(rank) if is_rooted else rank)
    return f"The adapter's update counted {scale:.3g} times. {clipped}"


def _dropout(shown: Shown) -> str:
    summary, result = shown.summary, shown.evaluation
    if summary is None or result is None or summary.loss_at_end is None:
        return ""
    gap = result.adapter_loss - summary.loss_at_end
    read = "no sign of learning by heart" if gap <= 0 else f"{gap:.4f} above it"
    return (
        f"Training loss ended at {summary.loss_at_end:.4f} and held-out loss at "
        f"{result.adapter_loss:.4f} nats a token, {read}."
    )


def _modules(shown: Shown) -> str:
    result = shown.evaluation
    if result is None:
        return ""
    return (
        f"With adapters in these modules the held-out text took {result.adapter_bits_per_byte:.4f} "
        f"bits a byte, {result.base_bits_per_byte:.4f} without."
    )


def _bias(shown: Shown) -> str:
    summary = shown.summary
    if summary is None or not summary.trainable_parameters:
        return ""
    trained = f"{summary.trainable_parameters:,} parameters were trained"
    if shown.values.get("bias") == '"none"':
        return f"{trained}, none of them of the base model: without the adapter it is as it was."
    return f"{trained}, biases of the base model among them."


OBSERVERS: Final[dict[str, Callable[[Shown], str]]] = {
    "max_seq_length": _sequence_length,
    "batch_size": _batch,
    "per_device_train_batch_size": _per_device,
    "gradient_accumulation_steps": _accumulation,
    "learning_rate": _learning_rate,
    "optimizer": _optimizer,
    "weight_decay": _weight_decay,
    "gradient_checkpointing": _checkpointing,
    "use_flash_attention": _attention,
    "num_train_epochs": _epochs,
    "max_steps": _max_steps,
    "evaluation_strategy": _evaluations,
    "save_strategy": _saving,
    "early_stopping_patience": _early_stopping,
    "r": _rank,
    "lora_alpha": _alpha,
    "lora_dropout": _dropout,
    "target_modules": _modules,
    "bias": _bias,
    "max_grad_norm": _clipped,
    "completion_only_loss": _completion_only,
}
"""By the guide's name of the parameter: every row of its table for Hindi, and what it is silent on."""
