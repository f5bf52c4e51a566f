"""Companion columns: the system message, the earlier turns and the passage that stand beside a question.

Pure, below `reading`. Rule: a companion with a value is used, or it is noted as unread; which of the
two is seen row by row.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_text.rows.chats import parse_messages
from finetune_text.rows.column_census import is_blank
from finetune_text.rows.columns import HISTORY_COLUMN, INPUT_COLUMNS, SYSTEM_COLUMNS
from finetune_text.rows.examples import BrokenRuleError, Message, check_text
from finetune_text.rows.loss_marks import RowMarks


@dataclass
class RowNotes:
    """What was seen of one row beside what it teaches."""

    marks: RowMarks = field(default_factory=RowMarks)
    unread: set[str] = field(default_factory=set)
    """Companion columns with a value that could not be used."""


def find_system(
    values: Mapping[str, Any], notes: RowNotes, *, but: Collection[str] = ()
) -> tuple[Message, ...]:
    """Return the system message of a row's own column: one, or none."""
    found: tuple[Message, ...] = ()
    for name in SYSTEM_COLUMNS:
        value = None if name in but else values.get(name)
        if is_blank(value):
            continue
        if found or not isinstance(value, str):
            notes.unread.add(name)
        elif value.strip():
            found = (Message("system", check_text(value, where=f"column {name!r}")),)
    return found


def with_system(
    messages: tuple[Message, ...], values: Mapping[str, Any], notes: RowNotes, *, column: str
) -> tuple[Message, ...]:
    """Return a chat under the system message of the row's column, unless it has one of its own."""
    system = find_system(values, notes, but=(column,))
    if not system or messages[0].role != "system":
        return (*system, *messages)
    if messages[0].content.strip() != system[0].content.strip():
        notes.unread |= {name for name in SYSTEM_COLUMNS if values.get(name)}
    return messages


def find_passage(values: Mapping[str, Any], notes: RowNotes, *, but: Collection[str]) -> str:
    """Return the texts of the input columns, a blank line between them; "" if there is none.

    Args:
        values: The row.
        notes: Takes the input columns that hold no text.
        but: Columns of the question and the answer: an answer is never part of its own question.
    """
    found = []
    for name in INPUT_COLUMNS:
        value = None if name in but else values.get(name)
        if is_blank(value):
            continue
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            value = "\n\n".join(value)
        if isinstance(value, str):
            found.append(check_text(value, where=f"column {name!r}"))
        else:
            notes.unread.add(name)
    return "\n\n".join(found)


def find_history(values: Mapping[str, Any], notes: RowNotes) -> tuple[Message, ...]:
    """Return the earlier turns of a row; none, and noted as unread, if they are in no known form."""
    value = values.get(HISTORY_COLUMN)
    if is_blank(value):
        return ()
    try:
        turns = json.loads(value) if isinstance(value, str) else value
        messages = parse_messages(_as_messages(turns), where=f"column {HISTORY_COLUMN!r}")
    except (BrokenRuleError, ValueError, TypeError, RecursionError):
        messages = ()
    roles = [message.role for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        if not isinstance(value, list | str) or len(value):
            notes.unread.add(HISTORY_COLUMN)
        return ()
    return messages


def _as_messages(turns: Any) -> list[dict[str, Any]]:
    """Return pairs of question and answer as messages; a list of messages is returned unchanged."""
    if all(isinstance(turn, dict) for turn in turns):
        return list(turns)
    messages = []
    for asked, answered in turns:
        messages += [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answered},
        ]
    return messages
