"""The tally: what is counted while one language is tokenised. Below `sequences`, which counts into it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from finetune_text.counting import count_of, verb_of

MOST_NAMED = 256
"""Rows with control tokens that are kept by name until the list is emptied: those of one batch."""


@dataclass
class Tally:
    """What is counted while one language is tokenised."""

    lengths: list[int] = field(default_factory=list)
    """Tokens of each row, before it is cut."""
    characters: int = 0
    """Of the text that is trained on: what is cut off has no tokens either."""
    skipped: int = 0
    first_skipped: str = ""
    truncated: int = 0
    dropped: dict[str, tuple[int, str]] = field(default_factory=dict)
    """What templates left out: how often, and where first."""
    control_tokens: int = 0
    """Rows whose text holds a control token."""
    first_control_token: tuple[str, str] = ("", "")
    """Where the first of them stands, and its token."""
    rows_with_control_tokens: list[tuple[str, str]] = field(default_factory=list)
    """Row and token, for at most `MOST_NAMED` rows since the list was emptied."""
    refusals: list[tuple[str, str]] = field(default_factory=list)
    """Rows that the template does not take, with its words."""

    def note_dropped(self, parts: Sequence[str], source: str) -> None:
        """Count what the template leaves out of one row."""
        for what in parts:
            count, first = self.dropped.get(what, (0, source))
            self.dropped[what] = (count + 1, first)

    def note_control_token(self, token: str, source: str) -> None:
        """Count a row whose text holds a control token."""
        if not self.control_tokens:
            self.first_control_token = (source, token)
        self.control_tokens += 1
        if len(self.rows_with_control_tokens) < MOST_NAMED:
            self.rows_with_control_tokens.append((source, token))

    def describe(self, tag: str, *, with_uri: bool) -> Iterator[str]:
        """Yield what the template leaves out and which control tokens stand in texts.

        Args:
            tag: BCP 47 tag of the language.
            with_uri: Places have the URI of their file, and else its name.
        """
        for what, (count, first) in self.dropped.items():
            rows, place = count_of(count, "row"), _place(first, with_uri=with_uri)
            yield f"The chat template leaves out {what} in {rows} of {tag}, first in {place}."
        if self.control_tokens:
            source, token = self.first_control_token
            yield (
                f"{count_of(self.control_tokens, 'row')} of {tag}"
                f" {verb_of(self.control_tokens, 'hold')} a control token in the text, first {token!r} in"
                f" {_place(source, with_uri=with_uri)}: the model reads it as structure, not as text."
            )


def _place(source: str, *, with_uri: bool) -> str:
    return source if with_uri else source.rpartition("/")[2]
