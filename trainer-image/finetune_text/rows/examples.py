"""Examples: what a row teaches, in one form for every format.

Pure, below all that learns or measures. Chats, instructions, prompt with completion and plain text are
one frozen value; `reading` makes them of rows, and text is never changed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    is_learned: bool = True
    """False if a mark of the data takes the loss from it; see `loss_marks`."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to say or to learn."""
        return not self.content.strip() and not self.tool_calls

    def as_template_value(self, *, has_parts: bool = False) -> dict[str, Any]:
        """Return the mapping that chat templates read.

        Args:
            has_parts: Content is a list of parts, `[{"type": "text", "text"}]`, and no string.
        """
        content: Any = [{"type": "text", "text": self.content}] if has_parts else self.content
        value: dict[str, Any] = {"role": self.role, "content": content, **(self.extra or {})}
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
    earlier: tuple[Message, ...] = ()
    """With `prompt`: the system message and the turns before it."""
    is_learned: bool = True
    """False if a mark of the data takes the loss from the whole row; see `loss_marks`."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing could be learned from it."""
        if not self.is_learned:
            return True
        if self.text is not None:
            return not self.text.strip()
        if self.completion is not None:
            return not self.completion.strip()
        answers = (m for m in self.messages if m.role == "assistant")
        return all(m.is_empty or not m.is_learned for m in answers)

    @property
    def is_marked(self) -> bool:
        """Whether a mark of the data takes the loss from all of it or a part."""
        return not self.is_learned or not all(message.is_learned for message in self.messages)

    def parts(self) -> list[str]:
        """Return the texts in it, of every role, in order."""
        said = (message.content for message in (*self.earlier, *self.messages))
        parts = (self.text, self.prompt, self.completion, *said)
        return [part for part in parts if part is not None]

    def words(self) -> str:
        """Return all that is said in it as one text."""
        return "\n".join(self.parts())

    def canonical(self) -> str:
        """Return the content as one text: equal for equal examples, whatever file they stand in."""
        messages = [message.as_template_value() for message in self.messages]
        content = [messages, list(self.tools), self.prompt, self.completion, self.text]
        # Only where a row has them: which rows are held out follows from this text.
        if self.earlier:
            content.append([message.as_template_value() for message in self.earlier])
        if self.is_marked:
            content.append([self.is_learned, *(message.is_learned for message in self.messages)])
        return json.dumps(content, sort_keys=True, ensure_ascii=False)


class BrokenRuleError(Exception):
    """A row breaks a rule; validate collects these and tells several at once."""

    def __init__(self, problem: str, rule: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.rule = rule


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
