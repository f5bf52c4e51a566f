"""Whether an adapter helped, in one sentence, from its loss on held-out text. Pure.

The operator's message, the status and the screens of the CLI use the same sentence.
"""

from typing import Final

FEW_EXAMPLES: Final = 30
"""Held-out examples below which a difference of a few percent may be chance (assumption)."""
NOTICEABLE: Final = 0.01
"""Share of the base model's bits per byte below which a person will hardly see a difference (assumption)."""


def describe_gain(*, base: float, adapter: float, examples: int) -> str:
    """Return in one sentence whether held-out text became likelier, by how much, and what would help.

    Args:
        base: Bits per UTF-8 byte of the base model.
        adapter: The same with the adapter.
        examples: Examples held out.
    """
    gain = (base - adapter) / base if base else 0.0
    if gain < 0:
        return (
            f"The adapter is worse than the base model on held-out text: {-gain:.1%} more bits per byte. "
            "A lower learning rate, fewer epochs or more text would help."
        )
    if gain < NOTICEABLE:
        return (
            f"The adapter changed next to nothing: {gain:.1%} fewer bits per byte on held-out text. A higher "
            "learning rate (policy Evidence sets one), more steps or more text would help."
        )
    doubt = ""
    if examples < FEW_EXAMPLES:
        doubt = f" {examples} examples are few, so take the figure as a rough one."
    return (
        f"The adapter learned: it needs {gain:.0%} fewer bits for text that it did not see.{doubt}"
    )


def is_gain_clear(*, base: float, adapter: float, examples: int) -> bool:
    """Return whether the gain is noticeable and rests on enough examples to be more than chance."""
    return examples >= FEW_EXAMPLES and base > 0 and (base - adapter) / base >= NOTICEABLE
