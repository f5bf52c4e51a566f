"""Examples: what a row means, in one form for every format, or the rule that it breaks.

Pure, between the record readers and validate. Chats, instructions, prompt with completion and plain
text become one frozen value; names that other tools use (`conversations`, `from`, `gpt`) are
understood, text is never changed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.plan import PlannedColumns
from finetune_api.resource import DatasetFormat
from finetune_text.records import TEXT_COLUMN, Fault, Row

MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
INSTRUCTION_COLUMNS = ("instruction",)
INPUT_COLUMNS = ("input", "context")
OUTPUT_COLUMNS = ("output", "response", "completion", "answer")
PROMPT_COLUMNS = ("prompt", "question", "query")
COMPLETION_COLUMNS = ("completion", "response", "answer", "output")
TEXT_COLUMNS = (TEXT_COLUMN, "content")
ALLOWED_COLUMNS = (
    "messages or conversations, instruction with output, prompt with completion, or text"
)

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
_MESSAGE = 'a message must be {"role", "content"} or {"from", "value"}; correct the message'


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    """system, user, assistant or tool."""
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """Each `{"type": "function", "function": {"name", "arguments"}}`, arguments as an object."""
    extra: Mapping[str, str] | None = None
    """`name`, `tool_call_id` and `reasoning_content`, where given."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to say or to learn."""
        return not self.content.strip() and not self.tool_calls

    def as_template_value(self) -> dict[str, Any]:
        """Return the mapping that chat templates read."""
        value: dict[str, Any] = {"role": self.role, "content": self.content, **(self.extra or {})}
        return value | ({"tool_calls": list(self.tool_calls)} if self.tool_calls else {})


@dataclass(frozen=True)
class Example:
    """One thing to learn: a chat, a prompt with its completion, or a text."""

    source: str
    """`<uri> line <n>`, for messages."""
    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None
    """With `completion`: the part that is read and not learned."""
    separator: str = ""
    """Between prompt and completion where no chat template sets them apart."""
    completion: str | None = None
    text: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing could be learned from it."""
        if self.text is not None:
            return not self.text.strip()
        if self.completion is not None:
            return not self.completion.strip()
        return all(m.is_empty for m in self.messages if m.role == "assistant")

    def words(self) -> str:
        """Return all that is said in it, whoever says it, in order."""
        parts = (self.text, self.prompt, self.completion, *(m.content for m in self.messages))
        return "\n".join(part for part in parts if part is not None)

    def canonical(self) -> str:
        """Return the content as one text: equal for equal examples, whatever file they stand in."""
        messages = [message.as_template_value() for message in self.messages]
        content = [messages, list(self.tools), self.prompt, self.completion, self.text]
        return json.dumps(content, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Reading:
    """How the rows of a file are read."""

    format: DatasetFormat
    """Never Auto."""
    columns: PlannedColumns


class BrokenRuleError(Exception):
    """A row breaks a rule; validate collects these and tells several at once."""

    def __init__(self, problem: str, rule: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.rule = rule


# --- Which format -------------------------------------------------------------------------------


def decide_reading(
    columns: Sequence[str], *, wanted: DatasetFormat, named: PlannedColumns
) -> Reading | None:
    """Return how rows with these columns are read, or None where the columns do not fit."""
    candidates = (
        _chat_columns(columns, named),
        _instruction_columns(columns, named),
        _prompt_columns(columns, named),
        _text_columns(columns, named),
    )
    for reading in candidates:
        if reading is not None and wanted in (DatasetFormat.AUTO, reading.format):
            return reading
    return None


def _pick(columns: Sequence[str], named: str | None, usual: Sequence[str]) -> str | None:
    if named is not None:
        return named if named in columns else None
    return next((name for name in usual if name in columns), None)


def _chat_columns(columns: Sequence[str], named: PlannedColumns) -> Reading | None:
    messages = _pick(columns, named.messages, MESSAGE_COLUMNS)
    if messages is None or (named.messages is None and _names_others(named)):
        return None
    return Reading(DatasetFormat.CHAT, PlannedColumns(messages=messages))


def _instruction_columns(columns: Sequence[str], named: PlannedColumns) -> Reading | None:
    # Without an instruction column of the usual name this is a plain prompt with its completion.
    usual = () if "instruction" not in columns else INSTRUCTION_COLUMNS
    prompt = _pick(columns, named.prompt, usual)
    completion = _pick(columns, named.completion, OUTPUT_COLUMNS)
    if prompt is None or completion is None or named.text or named.messages:
        return None
    if prompt not in INSTRUCTION_COLUMNS:
        return None
    return Reading(DatasetFormat.INSTRUCTION, PlannedColumns(prompt=prompt, completion=completion))


def _prompt_columns(columns: Sequence[str], named: PlannedColumns) -> Reading | None:
    prompt = _pick(columns, named.prompt, (*PROMPT_COLUMNS, *INSTRUCTION_COLUMNS, "input"))
    usual = [name for name in COMPLETION_COLUMNS if name != prompt]
    completion = _pick(columns, named.completion, usual)
    if prompt is None or completion is None or named.text or named.messages:
        return None
    return Reading(
        DatasetFormat.PROMPT_COMPLETION, PlannedColumns(prompt=prompt, completion=completion)
    )


def _text_columns(columns: Sequence[str], named: PlannedColumns) -> Reading | None:
    text = _pick(columns, named.text, TEXT_COLUMNS)
    if text is None or (named.text is None and _names_others(named)):
        return None
    return Reading(DatasetFormat.TEXT, PlannedColumns(text=text))


def _names_others(named: PlannedColumns) -> bool:
    return any((named.messages, named.prompt, named.completion, named.text))


# --- One row ------------------------------------------------------------------------------------


def build_example(row: Row, reading: Reading, *, uri: str) -> Example | Fault:
    """Return what the row teaches, or the rule that it breaks."""
    source = f"{uri} line {row.line}"
    try:
        match reading.format:
            case DatasetFormat.CHAT:
                return _build_chat(row.values, reading.columns.messages or "", source=source)
            case DatasetFormat.TEXT:
                return Example(source=source, text=_text(row.values, reading.columns.text or ""))
            case _:
                return _build_pair(row.values, reading, source=source)
    except BrokenRuleError as broken:
        return Fault(line=row.line, problem=broken.problem, rule=broken.rule)


def _build_chat(values: Mapping[str, Any], column: str, *, source: str) -> Example:
    messages = parse_messages(_present(values, column), where=f"column {column!r}")
    check_order(messages)
    return Example(source=source, messages=messages, tools=_parse_tools(values))


def _build_pair(values: Mapping[str, Any], reading: Reading, *, source: str) -> Example:
    prompt, completion = reading.columns.prompt or "", reading.columns.completion or ""
    if isinstance(_present(values, prompt), list):
        messages = parse_messages(values[prompt], where=f"column {prompt!r}")
        answer = _present(values, completion)
        said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
        messages += parse_messages(said, where=f"column {completion!r}")
        check_order(messages)
        return Example(source=source, messages=messages, tools=_parse_tools(values))
    asked, answered = _text(values, prompt), _text(values, completion)
    if reading.format is DatasetFormat.PROMPT_COMPLETION:
        return Example(source=source, prompt=asked, completion=answered)
    # The answer may stand in a column of such a name: it is never part of its own question.
    inputs = (name for name in INPUT_COLUMNS if name not in (prompt, completion))
    more = next((values[name] for name in inputs if values.get(name)), None)
    instruction = f"{asked}\n\n{more}" if isinstance(more, str) else asked
    return Example(source=source, prompt=instruction, separator="\n\n", completion=answered)


def _present(values: Mapping[str, Any], column: str) -> Any:
    value = values.get(column)
    if value is None:
        found = ", ".join(sorted(values)) or "none"
        raise BrokenRuleError(
            f"has no value in column {column!r} (columns: {found})",
            "every row must have it; fill it or drop the row",
        )
    return value


def _text(values: Mapping[str, Any], column: str) -> str:
    return check_text(_present(values, column), where=f"column {column!r}")


def check_text(value: Any, *, where: str) -> str:
    """Return the value where it is a text that can be trained on, unchanged."""
    if not isinstance(value, str):
        raise BrokenRuleError(
            f"has {type(value).__name__} in {where}", "it must be text; correct the row"
        )
    try:
        value.encode()
    except UnicodeEncodeError as fault:
        code = ord(value[fault.start])
        raise BrokenRuleError(
            f"has half a character in {where} (\\u{code:04x} at character {fault.start + 1})",
            "a surrogate must have its other half; correct the row",
        ) from fault
    return value


# --- Chats --------------------------------------------------------------------------------------


def parse_messages(value: Any, *, where: str) -> tuple[Message, ...]:
    """Return the messages of a list, or of JSON text that holds one."""
    parsed = _parse_json_text(value, where=where)
    if not isinstance(parsed, list) or not parsed:
        raise BrokenRuleError(
            f"has no list of messages in {where}",
            "it must be a list of messages that is not empty, or JSON text of one; correct the row",
        )
    return tuple(_parse_message(each, number) for number, each in enumerate(parsed, start=1))


def _parse_message(value: Any, number: int) -> Message:
    if not isinstance(value, dict):
        raise BrokenRuleError(f"has no object as message {number}", _MESSAGE)
    spoken = value.get("role", value.get("from"))
    role = ROLES.get(str(spoken).lower())
    if role is None:
        raise BrokenRuleError(
            f"has the role {spoken!r} in message {number}",
            "a role must be system, user, assistant or tool; correct the message",
        )
    calls = _parse_tool_calls(value, number)
    content = _parse_content(value, number, is_optional=bool(calls))
    kept = ("name", "tool_call_id", "reasoning_content")
    extra = {key: value[key] for key in kept if isinstance(value.get(key), str)}
    return Message(role=role, content=content, tool_calls=calls, extra=extra or None)


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
    return result | ({"id": call["id"]} if isinstance(call.get("id"), str) else {})


def _parse_tools(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    tools = values.get("tools")
    if not tools:
        return ()
    parsed = _parse_json_text(tools, where="column 'tools'")
    if not isinstance(parsed, list):
        raise BrokenRuleError(
            "has no list in column 'tools'", "it must be a list of functions; correct the row"
        )
    parsed = [_parse_json_text(tool, where="column 'tools'") for tool in parsed]
    return tuple(tool for tool in parsed if isinstance(tool, dict))


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
