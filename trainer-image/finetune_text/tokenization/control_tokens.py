"""Control tokens inside the text of a row, such as an `<|im_end|>` in a question about chat formats.

Below `sequences`. A tokenizer makes a control token of these characters wherever they stand, so that a
turn ends in the middle of a sentence. Rule: a row whose own text holds one is a finding with its line,
in profile, status, plan and log; the row is trained on, since a text may hold them on purpose. The stop token at
the very end of a text or a completion is none: training ends the row with it anyway.
"""

from collections.abc import Iterable
from typing import Any

PREFIX_CHARACTERS = 2
"""Tokens are grouped by their beginning: most texts hold none of the few groups."""


class ControlTokens:
    """The control tokens of one tokenizer."""

    def __init__(self, tokens: Iterable[str]) -> None:
        """Take the tokens' texts."""
        self._groups: dict[str, list[str]] = {}
        for token in sorted({token for token in tokens if token.strip()}):
            self._groups.setdefault(token[:PREFIX_CHARACTERS], []).append(token)

    def find(self, text: str) -> str | None:
        """Return the first of the tokens, in the order of their texts, that stands in a text."""
        for prefix, tokens in self._groups.items():
            if prefix in text:
                found = next((token for token in tokens if token in text), None)
                if found is not None:
                    return found
        return None


def list_control_tokens(tokenizer: Any) -> list[str]:
    """Return the texts that a tokenizer reads as one token of structure, whatever stands around them.

    Args:
        tokenizer: A `FastTokenizer`, or one of transformers.
    """
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [*tokenizer.all_special_tokens, *added]
