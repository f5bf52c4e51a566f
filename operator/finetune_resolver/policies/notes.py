"""What a parameter's message adds once every value is decided: the numbers that follow from it.

The guide gives reasons that the libraries do not share (C14, C29); a decision states the guide's
reason and then what the number does. Pure.
"""

from collections.abc import Callable, Mapping

from finetune_resolver.steps import Values, count, effective_batch

Note = Callable[[Values, int], str]


def batch_note(values: Values, _: int) -> str:
    """Return the tokens of one micro-step: padded memory depends on tokens only (C14)."""
    batch, length = count(values, "batch_size"), count(values, "max_seq_length")
    return f"A full micro-step is {batch} x {length} = {batch * length:,} tokens."


def accumulation_note(values: Values, world: int) -> str:
    """Return the sequences of one optimizer step (C4).

    Args:
        values: the parameters decided so far, by the guide's name.
        world: processes that train together, one a GPU.
    """
    per_device = count(values, "per_device_train_batch_size")
    steps = count(values, "gradient_accumulation_steps")
    total = effective_batch(values, world=world)
    return f"One optimizer step is {per_device} x {steps} x {world} = {total} sequences."


def epochs_note(values: Values, _: int) -> str:
    """Return that the epochs do not count, where the steps do."""
    steps = count(values, "max_steps")
    return (
        f"It does not count here: max_steps ends the run after {steps:,} steps."
        if steps > 0
        else ""
    )


def alpha_note(values: Values, _: int) -> str:
    """Return what alpha does in PEFT: it scales the update, so more is a larger one (C29)."""
    alpha, rank = count(values, "lora_alpha"), count(values, "r")
    if values["use_rslora"]:
        return f"PEFT scales the update by alpha/sqrt(r) = {alpha / rank**0.5:.3g}."
    return f"PEFT scales the update by alpha/r = {alpha}/{rank} = {alpha / rank:.3g}."


NOTES: Mapping[str, Note] = {
    "batch_size": batch_note,
    "gradient_accumulation_steps": accumulation_note,
    "num_train_epochs": epochs_note,
    "lora_alpha": alpha_note,
}
"""Parameter to what its message adds."""


def build_message(message: str, *, parameter: str, values: Values, world: int) -> str:
    """Return a decision's message with what follows from the decided values.

    Args:
        message: of the rule.
        parameter: the guide's name.
        values: the parameters decided so far, by the guide's name.
        world: processes that train together, one a GPU.
    """
    note = NOTES.get(parameter)
    added = note(values, world) if note else ""
    return f"{message} {added}" if added else message
