"""Loss marks: fields of a row or of a message that say whether it is learned.

Rule: a mark that says yes or no is obeyed, on messages and on whole rows. A message or row with "no"
carries no loss and is counted under the mark's name. A mark with any other value (a fraction, a list of
tokens), or with "yes" on a message that is no answer, is not obeyed, and is named as an unread column.
Pure, below `chats` and `reading`.

The names are those of OpenAI and Mistral (`weight`), Axolotl (`train`, `training`), verl (`loss_mask`),
ms-swift (`loss`), and of the unpaired preferences of TRL, ms-swift and LLaMA-Factory (`label`, `kto_tag`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

MESSAGE_MARKS = ("weight", "train", "training", "trainable", "loss_mask", "loss", "label")
"""Fields of a message."""
ROW_MARKS = ("weight", "train", "training", "trainable", "loss_mask", "loss")
"""Columns of a row: 0, 1 and truth values are obeyed."""
PREFERENCE_MARKS = ("label", "kto_tag")
"""Columns that are obeyed if they are truth values and the row holds an answer: a number may be a class."""
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_mark(value: object) -> bool | None:
    """Return whether a mark says that something is learned; None if it says neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None


def parse_truth(value: object) -> bool | None:
    """Return a truth value, or text that holds one; None for anything else, numbers included."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


@dataclass
class RowMarks:
    """What the marks of one row say."""

    obeyed: dict[str, int] = field(default_factory=dict)
    """Names of the marks that take the loss from a message or a row, with how many messages; 1 for a row."""
    read: set[str] = field(default_factory=set)
    """Columns whose value was obeyed."""
    unread: set[str] = field(default_factory=set)
    """Fields of messages whose value was not obeyed."""

    def read_message(self, message: Mapping[str, Any], *, is_answer: bool) -> bool:
        """Return whether the marks of a message let it be learned."""
        learned = True
        for name in MESSAGE_MARKS:
            value = message.get(name)
            if value is None:
                continue
            mark = parse_mark(value)
            if mark is None or (mark and not is_answer):
                self.unread.add(name)
            elif not mark and is_answer:
                self.obeyed[name] = self.obeyed.get(name, 0) + 1
                learned = False
        return learned

    def read_row(
        self, values: Mapping[str, Any], *, answers: bool, but: Collection[str] = ()
    ) -> bool:
        """Return whether the marks of a row let it be learned.

        Args:
            values: The row.
            answers: Whether the row holds an answer to a question; preferences mark no other.
            but: Columns that hold what is learned, whatever they are called.
        """
        learned = True
        for name in (*ROW_MARKS, *(PREFERENCE_MARKS if answers else ())):
            if name in but or (value := values.get(name)) is None:
                continue
            mark = parse_truth(value) if name in PREFERENCE_MARKS else parse_mark(value)
            if mark is None:
                continue
            self.read.add(name)
            if not mark:
                self.obeyed[name] = 1
                learned = False
        return learned
