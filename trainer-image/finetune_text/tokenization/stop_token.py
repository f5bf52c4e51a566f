"""Which token ends an answer: what the template writes, what the model stops at, what the tokenizer says.

Pure, below tokenization. The three disagree in real models: a converted tokenizer may name the token
that opens a turn. An adapter trained on the wrong one never learns to stop.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """A special token."""

    id: int
    text: str


@dataclass(frozen=True)
class Stop:
    """The token that ends an answer."""

    token: Token | None
    """None where the model has none, and nothing is appended."""
    warning: str = ""


def decide_stop(
    *,
    of_template: Token | None,
    of_tokenizer: Token | None,
    of_generation: Sequence[Token],
) -> Stop:
    """Return the token that ends answers: the template's, else what generation stops at.

    Args:
        of_template: The special token after an answer in the rendered template.
        of_tokenizer: The tokenizer's EOS.
        of_generation: The generation config's EOS, one or several.
    """
    if of_template is not None:
        return Stop(of_template, _describe_template(of_template, of_tokenizer, of_generation))
    if of_generation and of_tokenizer not in of_generation:
        said = _name(of_tokenizer)
        return Stop(
            of_generation[0],
            f"The tokenizer's EOS is {said}, but generation_config stops at"
            f" {of_generation[0].text!r}: texts end with the latter.",
        )
    if of_tokenizer is None:
        return Stop(None, "The tokenizer has no EOS: the adapter cannot learn where a text ends.")
    return Stop(of_tokenizer)


def _describe_template(
    turn_end: Token, of_tokenizer: Token | None, of_generation: Collection[Token]
) -> str:
    if turn_end == of_tokenizer or turn_end in of_generation:
        if turn_end == of_tokenizer or of_tokenizer in of_generation:
            return ""
        return (
            f"The tokenizer's EOS is {_name(of_tokenizer)}, but the chat template ends a turn with"
            f" {turn_end.text!r}, where generation_config stops too: answers end with it."
        )
    return (
        f"The chat template ends a turn with {turn_end.text!r}, but the tokenizer's EOS is"
        f" {_name(of_tokenizer)}: answers end with the former; stop at it when you generate."
    )


def _name(token: Token | None) -> str:
    return "unset" if token is None else repr(token.text)
