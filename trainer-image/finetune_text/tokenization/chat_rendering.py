"""Chats as text: rendered by the model's own template, with the answers found in it.

Below tokenization. A template is a program of its author: it may refuse roles, strip thinking, move
the system text or write a date. So nothing is assumed of its form: where an answer begins and ends
is found by rendering the chat up to it, and what the template left out is reported.

Rules: a template that renders nothing of a string and reads lists of parts gets such lists. An answer
whose words do not stand in its own turn of the rendered text, and a turn whose tool call the template
does not render, carry no loss and are counted among what the template leaves out.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2.exceptions import TemplateError

from finetune_text.rows.examples import Example, Message

TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""What a template that writes today's date gets, so that a run gives the same tokens every day. It is
the date that Llama 3.1's own template falls back to."""
THINKING_END = "</think>"
"""After it stands what is left of an answer when a template strips thinking from earlier turns."""


class ChatTokenizer(Protocol):
    """The part of a transformers tokenizer that renders chats."""

    all_special_tokens: list[str]

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render a conversation."""


@dataclass(frozen=True)
class Span:
    """A stretch of text, in characters."""

    start: int
    end: int


@dataclass(frozen=True)
class RenderedChat:
    """A chat as the model sees it."""

    text: str
    answers: tuple[Span, ...]
    """What is learned: each answer with the token that ends its turn."""
    said: tuple[Span, ...]
    """The answers without that token."""
    unlearned: tuple[Span, ...]
    """Answers that a mark of the data takes the loss from, with the token that ends the turn."""
    turn_end: str | None
    """The special token after the last answer, or None where the template writes none."""
    dropped: tuple[str, ...]
    """What the template left out: "the system message", "a tool call"."""


class TemplateRefusalError(Exception):
    """The template does not take this chat."""


PROBE = (Message("user", "Habari?"), Message("assistant", "Nzuri."))
"""A chat of our own, to see what a template does."""


def reads_parts(tokenizer: ChatTokenizer) -> bool:
    """Return whether a chat template renders content only if it is a list of parts."""
    shown = [_shows_words(tokenizer, PROBE, has_parts=has_parts) for has_parts in (False, True)]
    return shown == [False, True]


def _shows_words(
    tokenizer: ChatTokenizer, messages: tuple[Message, ...], *, has_parts: bool
) -> bool:
    chat = _Chat(tokenizer, Example(source="", messages=messages), has_parts=has_parts)
    try:
        text = chat.render(len(messages))
    except TemplateRefusalError:
        return False
    return all(_stands_in(text, message.content) for message in messages) and "'text'" not in text


def render_chat(
    tokenizer: ChatTokenizer, example: Example, *, has_parts: bool = False
) -> RenderedChat:
    """Render a chat and find its answers.

    Args:
        tokenizer: With a chat template.
        example: A chat.
        has_parts: Content goes to the template as a list of parts; see `reads_parts`.

    Raises:
        TemplateRefusalError: The template raises, in its own words.
    """
    chat = _Chat(tokenizer, example, has_parts=has_parts)
    text = chat.render(len(example.messages))
    answers: list[Span] = []
    said: list[Span] = []
    unlearned: list[Span] = []
    dropped = find_dropped(text, example)
    cursor = 0
    for place, message in enumerate(example.messages):
        if message.role == "system":
            # Some templates write it before the last question: no place to go on from.
            continue
        if message.role != "assistant":
            cursor = _after(text, message.content.strip(), cursor)
            continue
        found = _find_answer(chat, text, place=place, cursor=cursor)
        if found is None:
            dropped += ("a tool call" if message.tool_calls else "an answer",)
            continue
        answer, words = found
        cursor = answer.end
        if not message.is_learned:
            unlearned.append(answer)
        elif not message.is_empty:
            answers.append(answer)
            said.append(words)
    turn_end = text[said[-1].end : answers[-1].end] if said else ""
    return RenderedChat(
        text=text,
        answers=tuple(answers),
        said=tuple(said),
        unlearned=tuple(unlearned),
        turn_end=turn_end or None,
        dropped=tuple(dict.fromkeys(dropped)),
    )


class _Chat:
    """One example and the template, which renders any beginning of it."""

    def __init__(
        self, tokenizer: ChatTokenizer, example: Example, *, has_parts: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._example = example
        self._values = [
            message.as_template_value(has_parts=has_parts) for message in example.messages
        ]
        self.special_tokens = [token for token in tokenizer.all_special_tokens if token]

    @property
    def messages(self) -> Sequence[Message]:
        """The messages of the example."""
        return self._example.messages

    def render(self, count: int, *, is_asking: bool = False) -> str:
        """Render the first `count` messages, as a question to the model where `is_asking`."""
        tools = [dict(tool) for tool in self._example.tools]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    self._values[:count],
                    tools=tools or None,
                    add_generation_prompt=is_asking,
                    tokenize=False,
                    strftime_now=_write_date,
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError) as fault:
            raise TemplateRefusalError(str(fault).splitlines()[0] if str(fault) else "") from fault


def _write_date(form: str) -> str:
    return TEMPLATE_DATE.strftime(form)


# --- Finding an answer --------------------------------------------------------------------------


def _find_answer(chat: _Chat, text: str, *, place: int, cursor: int) -> tuple[Span, Span] | None:
    """Return where the answer of message `place` stands with its turn's end, and without it."""
    start = _find_start(chat, text, place=place, cursor=cursor)
    if start is None:
        return None
    words_end = _find_words_end(chat, text, place=place, start=start)
    if words_end is None:
        return None
    turn_end = _find_turn_end(chat, text, words_end)
    if turn_end is None:
        return Span(start, words_end), Span(start, words_end)
    return Span(start, turn_end.end), Span(start, turn_end.start)


def _find_start(chat: _Chat, text: str, *, place: int, cursor: int) -> int | None:
    """Return where the model begins to speak.

    Usually the question, rendered alone, is how the whole begins. A template that treats the last
    turn apart breaks this; the words themselves are then looked for.
    """
    words = _words(chat.messages[place])
    question = _render_or_nothing(chat, place, is_asking=True)
    if question and text.startswith(question):
        return len(question)
    before = _render_or_nothing(chat, place) if question else ""
    found = text.find(words, cursor) if words else -1
    if before and text.startswith(before):
        # The question ends in more than the history shows, such as an opened <think>.
        common = _common_length(text, question)
        return min(common, found) if found >= len(before) else common
    return found if found >= 0 else None


def _render_or_nothing(chat: _Chat, count: int, *, is_asking: bool = False) -> str:
    """Return the beginning of a chat, or nothing where the template does not take it alone."""
    try:
        return chat.render(count, is_asking=is_asking)
    except TemplateRefusalError:
        return ""


def _find_limit(chat: _Chat, text: str, *, place: int, start: int) -> int:
    """Return where the next message begins at the latest."""
    for message in chat.messages[place + 1 :]:
        found = text.find(message.content.strip(), start) if message.content.strip() else -1
        if found >= 0:
            return found
    return len(text)


def _find_words_end(chat: _Chat, text: str, *, place: int, start: int) -> int | None:
    """Return where the answer's own words or calls end; None if its turn does not show them.

    The form of a tool call is the template's own: it is learned with all that stands in its turn.
    """
    message = chat.messages[place]
    words = _words(message) or message.content.strip()
    found = None
    if words:
        found = _locate_words(chat, text, place=place, start=start, words=words)
    if found is not None and not message.tool_calls:
        return found + len(words)
    region = _find_region(chat, text, place=place, start=start)
    said = text[region.start : region.end]
    if message.is_empty or any(_shows_call(said, call) for call in message.tool_calls):
        return region.end
    if found is not None:
        return found + len(words)
    # A template may write the words as JSON text.
    is_escaped = bool(words) and words not in said and _stands_in(said, words)
    return region.end if is_escaped else None


def _find_region(chat: _Chat, text: str, *, place: int, start: int) -> Span:
    """Return all of a turn, without the special token that ends it."""
    region = Span(start, _find_limit(chat, text, place=place, start=start))
    if place + 1 < len(chat.messages):
        return Span(start, _find_turn_change(chat, text, place=place, region=region))
    last = _find_last_special(chat, text, region)
    return Span(start, region.end if last is None else last)


def _locate_words(chat: _Chat, text: str, *, place: int, start: int, words: str) -> int | None:
    """Return where the words of an answer stand in its turn; None if they do not.

    That is at the beginning of the turn, or after what the template writes before them, as far as the
    chat that ends with this answer is rendered alike.
    """
    at = start
    while at < len(text) and text[at].isspace() and not text.startswith(words, at):
        at += 1
    if text.startswith(words, at) and _is_free(chat, text, at, words):
        return at
    common = _common_length(text, _render_or_nothing(chat, place + 1))
    at = text.find(words, start, common)
    while at >= 0 and not _is_free(chat, text, at, words):
        at = text.find(words, at + 1, common)
    return at if at >= 0 else None


def _is_free(chat: _Chat, text: str, at: int, words: str) -> bool:
    """Return whether words stand beside the special tokens around them and not inside of one."""
    end = at + len(words)
    for token in chat.special_tokens:
        first = text.find(token, max(0, at - len(token) + 1), end + len(token) - 1)
        while 0 <= first < end:
            last = first + len(token)
            if first < at < last or first < end < last:
                return False
            first = text.find(token, first + 1, end + len(token) - 1)
    return True


def _find_last_special(chat: _Chat, text: str, region: Span) -> int | None:
    found = (text.rfind(token, region.start, region.end) for token in chat.special_tokens)
    last = max(found, default=-1)
    return last if last >= 0 else None


def _find_turn_change(chat: _Chat, text: str, *, place: int, region: Span) -> int:
    """Return where the turn ends by rendering the chat up to it."""
    try:
        until = chat.render(place + 1)
    except TemplateRefusalError:
        return region.end
    if not text.startswith(until):
        return region.end
    last = _find_last_special(chat, text, Span(region.start, len(until)))
    return len(until) if last is None else last


def _find_turn_end(chat: _Chat, text: str, start: int) -> Span | None:
    """Return the special token that follows the words: only blanks may stand between."""
    at = start
    while at < len(text) and text[at].isspace():
        at += 1
    matching = [token for token in chat.special_tokens if text.startswith(token, at)]
    if not matching:
        return None
    return Span(at, at + len(max(matching, key=len)))


def _words(message: Message) -> str:
    return message.content.rpartition(THINKING_END)[2].strip()


def _after(text: str, words: str, cursor: int) -> int:
    found = text.find(words, cursor) if words else -1
    return found + len(words) if found >= 0 else cursor


def _common_length(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


# --- What is missing ----------------------------------------------------------------------------


def find_dropped(text: str, example: Example) -> tuple[str, ...]:
    """Return what of the chat does not stand in the rendered text."""
    dropped = [
        f"the {_NAMES[message.role]} message"
        for message in example.messages
        if message.role != "assistant" and not _stands_in(text, message.content.strip())
    ]
    for message in example.messages:
        dropped += ["a tool call" for call in message.tool_calls if not _shows_call(text, call)]
    if example.tools and not any(_shows_tool(text, tool) for tool in example.tools):
        dropped.append("the tools")
    return tuple(dict.fromkeys(dropped))


_NAMES = {"system": "system", "user": "user", "tool": "tool's"}


def _stands_in(text: str, words: str) -> bool:
    return words in text or json.dumps(words)[1:-1] in text or _json_inside(words) in text


def _json_inside(words: str) -> str:
    return json.dumps(words, ensure_ascii=False)[1:-1]


def _shows_call(text: str, call: Mapping[str, Any]) -> bool:
    return str(call["function"]["name"]) in text


def _shows_tool(text: str, tool: Mapping[str, Any]) -> bool:
    inner = tool.get("function", tool)
    return isinstance(inner, Mapping) and str(inner.get("name")) in text
