"""What a finished run showed of each parameter, in one sentence beside its reason.

`status` calls this once, with the outcome of the pod that did the job. A parameter of which nothing
was measured has no observation.
"""

from collections.abc import Callable, Iterable
from typing import Final

from finetune_api.outcome import Outcome
from finetune_api.status import ParameterStatus

LENGTH_STEP: Final = 256
"""Sequence lengths are advised in multiples of this; assumption: as fine as anybody sets it."""


def with_observations(
    parameters: Iterable[ParameterStatus], *, outcome: Outcome
) -> list[ParameterStatus]:
    """Return the parameters, each with what the run showed of it."""
    return [
        parameter.model_copy(update={"observation": _observation(parameter, outcome=outcome)})
        for parameter in parameters
    ]


def _observation(parameter: ParameterStatus, *, outcome: Outcome) -> str:
    observe = OBSERVERS.get(parameter.name)
    return observe(parameter, outcome) if observe else ""


def _sequence_length(parameter: ParameterStatus, outcome: Outcome) -> str:
    if not outcome.corpus or not parameter.value.isdigit():
        return ""
    length = int(parameter.value)
    p99 = max(language.p99 for language in outcome.corpus)
    longest = max(language.longest for language in outcome.corpus)
    truncated = sum(language.truncated for language in outcome.corpus)
    if truncated:
        examples = sum(language.examples for language in outcome.corpus)
        return (
            f"{truncated:,} of {examples:,} examples are longer than {length:,} tokens and were cut; "
            f"the longest has {longest:,}."
        )
    enough = -(-longest // LENGTH_STEP) * LENGTH_STEP
    spare = f"; {enough:,} would do" if 0 < enough < length else ""
    return f"p99 of the texts is {p99:,} tokens, the longest has {longest:,}: none was cut{spare}."


def _epochs(_: ParameterStatus, outcome: Outcome) -> str:
    summary = outcome.summary
    if summary is None or not summary.steps:
        return ""
    done = f"{summary.epochs:.2f} epochs were trained in {summary.steps:,} steps"
    if not summary.stopped_early:
        return f"{done}."
    best = f"; the best was step {summary.best_step:,}" if summary.best_step is not None else ""
    return f"{done}, then early stopping ended the run{best}."


def _early_stopping(_: ParameterStatus, outcome: Outcome) -> str:
    summary = outcome.summary
    if summary is None or not summary.steps:
        return ""
    if summary.stopped_early:
        return f"It ended the run at step {summary.steps:,} of {summary.total_steps:,}."
    return "It did not end the run."


def _attention(_: ParameterStatus, outcome: Outcome) -> str:
    summary = outcome.summary
    return f"{summary.attention} ran." if summary is not None and summary.attention else ""


def _learning_rate(_: ParameterStatus, outcome: Outcome) -> str:
    result = outcome.evaluation
    if result is None or not result.examples:
        return ""
    return (
        f"Held-out loss went from {result.base_loss:.4f} to {result.adapter_loss:.4f} nats a token."
    )


OBSERVERS: Final[dict[str, Callable[[ParameterStatus, Outcome], str]]] = {
    "max_seq_length": _sequence_length,
    "num_train_epochs": _epochs,
    "early_stopping_patience": _early_stopping,
    "use_flash_attention": _attention,
    "learning_rate": _learning_rate,
}
"""By the guide's name of the parameter."""
