"""Chats: the messages of a row in one form, or the rule that they break.

Pure, beside `columns`, below `reading`. Names that other tools use (`from`, `gpt`, `value`) are
understood, also where a list stands there as JSON text; what a message says is never changed.
"""

import json
import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from finetune_text.rows.column_census import MEANINGLESS_COLUMNS, is_blank
from finetune_text.rows.examples import BrokenRuleError, Message, check_text
from finetune_text.rows.loss_marks import MESSAGE_MARKS, RowMarks

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""What other tools call a role, and what chat templates call it."""
MOST_DEPTH = 64
"""Of lists and objects inside each other in tools and calls: schemas of functions have a dozen, and
templates write them recursively."""
_MESSAGE = 'a message must be {"role", "content"} or {"from", "value"}; correct the message'


_READ_FIELDS = frozenset(
    ["role", "from", "content", "value", "tool_calls", "name", "tool_call_id", "reasoning_content"]
)


def parse_messages(value: Any, *, where: str, marks: RowMarks | None = None) -> tuple[Message, ...]:
    """Return the messages of a list, or of JSON text that holds one.

    Args:
        value: The list.
        where: What messages call its place.
        marks: Takes what the marks of messages say, and the fields that nothing reads.
    """
    parsed = _parse_json_text(value, where=where)
    if not isinstance(parsed, list) or not parsed:
        raise BrokenRuleError(
            f"has no list of messages in {where}",
            "it must be a list of messages that is not empty, or JSON text of one; correct the row",
        )
    known = RowMarks() if marks is None else marks
    return tuple(_parse_message(each, number, known) for number, each in enumerate(parsed, start=1))


def _parse_message(value: Any, number: int, marks: RowMarks) -> Message:
    if not isinstance(value, dict):
        raise BrokenRuleError(f"has no object as message {number}", _MESSAGE)
    spoken = value.get("role", value.get("from"))
    role = ROLES.get(str(spoken).lower())
    if role is None:
        raise BrokenRuleError(
            f"has the role {reprlib.repr(spoken)} in message {number}",
            "a role must be system, user, assistant or tool; correct the message",
        )
    calls = _parse_tool_calls(value, number)
    content = _parse_content(value, number, is_optional=bool(calls))
    kept = ("name", "tool_call_id", "reasoning_content")
    extra = {
        key: check_text(value[key], where=f"{key} of message {number}")
        for key in kept
        if isinstance(value.get(key), str)
    }
    more = value.keys() - _READ_FIELDS
    learned = not more or _read_other_fields(value, more, marks, is_answer=role == "assistant")
    return Message(
        role=role, content=content, tool_calls=calls, extra=extra or None, is_learned=learned
    )


def _read_other_fields(
    message: Mapping[str, Any], names: Collection[str], marks: RowMarks, *, is_answer: bool
) -> bool:
    """Return whether the message is learned, and note its fields that nothing reads."""
    for name in names:
        if (
            name not in MESSAGE_MARKS
            and not is_blank(message[name])
            and str(name).lower() not in MEANINGLESS_COLUMNS
        ):
            marks.unread.add(name)
    return marks.read_message(message, is_answer=is_answer)


def _parse_content(value: Mapping[str, Any], number: int, *, is_optional: bool) -> str:
    content = value.get("content", value.get("value"))
    if content is None and (is_optional or "content" in value or "value" in value):
        return ""
    if content is None:
        raise BrokenRuleError(f"has no content in message {number}", _MESSAGE)
    if isinstance(content, list):
        content = "".join(_part_text(part, number) for part in content)
    return check_text(content, where=f"message {number}")


def _part_text(part: Any, number: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise BrokenRuleError(
        f"has a part without text in message {number}",
        "only text can be trained on; drop pictures and sounds",
    )


def _parse_tool_calls(value: Mapping[str, Any], number: int) -> tuple[Mapping[str, Any], ...]:
    """Return the calls in one form, whether they and their arguments were objects or JSON text."""
    calls = _parse_json_text(value.get("tool_calls") or [], where=f"message {number}")
    if not isinstance(calls, list):
        raise BrokenRuleError(f"has no list of tool calls in message {number}", _CALL)
    return tuple(_parse_call(call, number) for call in calls)


_CALL = 'a tool call must be {"function": {"name", "arguments"}}; correct the message'


def _parse_call(call: Any, number: int) -> Mapping[str, Any]:
    call = _parse_json_text(call, where=f"message {number}")
    inner = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise BrokenRuleError(f"has a tool call without a name in message {number}", _CALL)
    arguments = _parse_json_text(inner.get("arguments") or {}, where=f"message {number}")
    if not isinstance(arguments, dict):
        raise BrokenRuleError(f"has arguments that are no object in message {number}", _CALL)
    result: dict[str, Any] = {
        "type": "function",
        "function": {"name": inner["name"], "arguments": arguments},
    }
    result |= {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    _check_value(result, where=f"a tool call of message {number}")
    return result


def parse_tools(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the functions that a row offers to the model; none where it names none."""
    tools = values.get("tools")
    if not tools:
        return ()
    parsed = _parse_json_text(tools, where="column 'tools'")
    if not isinstance(parsed, list):
        raise BrokenRuleError(
            "has no list in column 'tools'", "it must be a list of functions; correct the row"
        )
    parsed = [_parse_json_text(tool, where="column 'tools'") for tool in parsed]
    _check_value(parsed, where="column 'tools'")
    return tuple(tool for tool in parsed if isinstance(tool, dict))


def _check_value(value: object, *, where: str) -> None:
    """Refuse what a template could not write as JSON, such as the dates that Parquet knows."""
    if _is_deeper(value, than=MOST_DEPTH):
        raise BrokenRuleError(
            f"has lists and objects in {where} that are more than {MOST_DEPTH} deep",
            "no template writes them; correct the row",
        )
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as fault:
        raise BrokenRuleError(
            f"has a value in {where} that JSON does not know ({fault})",
            "it must be text, a number, a truth value, a list or an object; correct the row",
        ) from fault
    check_text(text, where=where)


def _is_deeper(value: object, *, than: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return than == 0 or any(_is_deeper(part, than=than - 1) for part in parts)


def _parse_json_text(value: Any, *, where: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as fault:
        raise BrokenRuleError(
            f"has text in {where} that is not JSON",
            "it must be a list, or JSON text of one; correct the row",
        ) from fault


def check_order(messages: Sequence[Message]) -> None:
    """Refuse an order of roles that no chat template was made for."""
    before = "start"
    for number, message in enumerate(messages, start=1):
        role = message.role
        if role not in _MAY_FOLLOW[before]:
            raise BrokenRuleError(
                f"has the role {role!r} in message {number} {_AFTER[before]}",
                "a chat must begin with user, or with system and then user, and alternate between"
                " user and assistant, with tool answers after a tool call; reorder the messages",
            )
        before = "call" if message.tool_calls else role
    if not any(message.role == "assistant" for message in messages):
        raise BrokenRuleError(
            "has no assistant message",
            "a chat must hold an answer to learn; add it or drop the row",
        )


_MAY_FOLLOW = {
    "start": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}
_AFTER = {
    "start": "at the beginning",
    "system": "after system",
    "user": "after user",
    "assistant": "after assistant",
    "call": "after a tool call",
    "tool": "after a tool's answer",
}
