"""Sequences: examples as token ids with the labels of what is learned.

Below tokenization, above `chat_rendering` and `stops`. A chat is rendered by the model's own template
and only its answers carry loss; a text carries loss whole. Labels come from where characters stand
and never from padding, so a tokenizer whose padding equals its EOS does no harm.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_text.errors import TextInvalid
from finetune_text.rows.examples import Example, Message
from finetune_text.tokenization.chat_rendering import (
    RenderedChat,
    Span,
    TemplateRefusalError,
    reads_parts,
    render_chat,
)
from finetune_text.tokenization.control_tokens import ControlTokens, list_control_tokens
from finetune_text.tokenization.stop_token import Stop, Token, decide_stop
from finetune_text.tokenization.tally import Tally

IGNORED = -100
"""The label of a token without loss, as PyTorch's cross entropy has it."""
BATCH = 256
"""Examples tokenised at once: enough for the tokenizer's threads."""
MAX_REFUSALS = 5
"""Rows named in one message that the template does not take."""


@dataclass(frozen=True)
class TokenizedExample:
    """One sequence to train on."""

    input_ids: "array[int]"
    labels: "array[int]"
    """As long as `input_ids`; -100 where there is no loss."""
    supervised_bytes: int
    """UTF-8 bytes of the text that carries loss; what ends a turn is no text, and the first token of
    a sequence is never predicted."""
    supervised_characters: int
    source: str
    """Where the row stands, for messages."""

    @property
    def supervised_tokens(self) -> int:
        """Tokens that carry loss. The first of a sequence is never predicted."""
        return sum(1 for label in self.labels[1:] if label != IGNORED)


@dataclass(frozen=True)
class TokenizationRules:
    """What the plan says of tokenization."""

    max_seq_length: int
    """Longest sequence, in tokens."""
    completion_only: bool = True
    """Answers alone carry loss; else the whole sequence."""
    splits_long_texts: bool = False
    """Long plain texts go on in another sequence instead of being cut: continued pretraining."""


@dataclass(frozen=True)
class Written:
    """An example as text, with what is learned of it."""

    source: str
    text: str
    learned: tuple[Span, ...]
    said: tuple[Span, ...]
    """`learned` without what ends a turn."""
    needs_stop: bool
    """Whether the stop token is to be appended."""
    is_splittable: bool = False
    adds_special_tokens: bool = True


class Sequencer:
    """A tokenizer with its template, under the plan's rules."""

    def __init__(
        self, tokenizer: Any, *, rules: TokenizationRules, generation: Mapping[str, Any]
    ) -> None:
        """Take a transformers tokenizer and the model's generation config, empty where it has none."""
        self._tokenizer = tokenizer
        self.rules = rules
        self._has_template = bool(tokenizer.chat_template)
        self._reads_parts = self._has_template and reads_parts(tokenizer)
        self._control_tokens = ControlTokens(list_control_tokens(tokenizer))
        self.stop: Stop = decide_stop(
            of_template=self._find_turn_end(),
            of_tokenizer=_read_token(tokenizer, tokenizer.eos_token_id),
            of_generation=_read_tokens(tokenizer, generation.get("eos_token_id")),
        )
        """What ends an answer, for generation and for the published tokenizer."""

    # --- From an example to text ---

    def read(self, examples: Iterable[Example], tally: Tally) -> Iterator[TokenizedExample]:
        """Yield the sequences of examples, in order, and count into the tally.

        Raises:
            TextInvalid: A chat, and the tokenizer has no chat template.
        """
        iterator = iter(examples)
        while batch := list(islice(iterator, BATCH)):
            written = [self.write(example, tally) for example in batch]
            if len(tally.refusals) >= MAX_REFUSALS:
                return
            known = [each for each in written if each is not None]
            for each, (encoding, labels) in zip(known, self.encode(known), strict=True):
                yield from self._cut(each, encoding, labels, tally)

    def write(self, example: Example, tally: Tally) -> Written | None:
        """Return the example as text, or None where the template does not take it.

        Raises:
            TextInvalid: A chat, and the tokenizer has no chat template.
        """
        token = self._find_control_token(example)
        if token is not None:
            tally.note_control_token(token, example.source)
        if example.text is not None:
            whole = (Span(0, len(example.text)),)
            return Written(
                source=example.source,
                text=example.text,
                learned=whole,
                said=whole,
                needs_stop=True,
                is_splittable=self.rules.splits_long_texts,
            )
        if example.messages or self._has_template:
            return self._write_chat(_as_chat(example), tally)
        earlier = "".join(f"{message.content}\n\n" for message in example.earlier)
        asked = f"{earlier}{example.prompt}{example.separator}"
        if example.tools:
            tally.note_dropped(("the tools",), example.source)
        text = f"{asked}{example.completion}"
        answer = (Span(len(asked) if self.rules.completion_only else 0, len(text)),)
        return Written(example.source, text, answer, answer, needs_stop=True)

    def _find_control_token(self, example: Example) -> str | None:
        """Return a control token in the texts of an example, if there is one."""
        parts = example.parts()
        ended = example.text or example.completion
        if ended and self.stop.token is not None and ended.rstrip().endswith(self.stop.token.text):
            parts.remove(ended)
            parts.append(ended.rstrip().removesuffix(self.stop.token.text))
        found = (self._control_tokens.find(part) for part in parts)
        return next((token for token in found if token is not None), None)

    def _write_chat(self, example: Example, tally: Tally) -> Written | None:
        if not self._has_template:
            raise TextInvalid(
                f"{example.source} is a chat, but the model's tokenizer has no chat template:"
                " expected a template, or rows with prompt and completion or text; name the"
                " instruction-tuned model, add chat_template.jinja to the model, or change the rows,"
                " and apply again.",
                reason="ChatTemplateMissing",
            )
        try:
            rendered = render_chat(self._tokenizer, example, has_parts=self._reads_parts)
        except TemplateRefusalError as refusal:
            tally.refusals.append((example.source, str(refusal)))
            return None
        tally.note_dropped(rendered.dropped, example.source)
        return self._cut_chat(example, rendered)

    def _cut_chat(self, example: Example, rendered: RenderedChat) -> Written:
        """Let the chat end where its last answer ends: what follows teaches nothing."""
        end = rendered.answers[-1].end if rendered.answers else len(rendered.text)
        learned, said = rendered.answers, rendered.said
        if not self.rules.completion_only:
            learned = said = _without_spans(Span(0, end), rendered.unlearned)
        return Written(
            source=example.source,
            text=rendered.text[:end],
            learned=learned,
            said=said,
            needs_stop=rendered.turn_end is None and bool(learned),
            # The template writes the BOS itself.
            adds_special_tokens=False,
        )

    # --- From text to ids ---

    def encode(self, written: Sequence[Written]) -> Iterator[tuple["Encoded", NDArray[np.int32]]]:
        """Yield each text as tokens, uncut, with their labels; shape of labels: (tokens,)."""
        for each, encoded in zip(written, self._encode(written), strict=True):
            labels = np.where(find_learned(encoded.offsets, each.learned), encoded.ids, IGNORED)
            stop = self.stop.token
            if each.needs_stop and stop is not None:
                yield _append_stop(encoded, labels, stop, at=len(each.text))
            else:
                yield encoded, labels

    def _encode(self, written: Sequence[Written]) -> Iterator["Encoded"]:
        """Yield ids and where each token stands; rows that are encoded alike go together."""
        for adds in (True, False):
            if written and all(each.adds_special_tokens is adds for each in written):
                yield from self._encode_alike([each.text for each in written], adds=adds)
                return
        for each in written:
            yield from self._encode_alike([each.text], adds=each.adds_special_tokens)

    def _encode_alike(self, texts: Sequence[str], *, adds: bool) -> Iterator["Encoded"]:
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=adds,
            return_offsets_mapping=True,
            return_attention_mask=False,
            truncation=False,
            padding=False,
        )
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            yield Encoded(
                ids=np.asarray(ids, dtype=np.int32),
                offsets=np.asarray(offsets, dtype=np.int64).reshape(-1, 2),
            )

    def _cut(
        self, written: Written, encoded: "Encoded", labels: NDArray[np.int32], tally: Tally
    ) -> Iterator[TokenizedExample]:
        """Yield the sequences of one example: one, or several where a long text is split."""
        length, longest = len(encoded.ids), self.rules.max_seq_length
        tally.lengths.append(length)
        tally.truncated += length > longest
        made = False
        for first in range(0, length if written.is_splittable else min(length, longest), longest):
            part = slice(first, first + longest)
            # The first token of a sequence is never predicted.
            if (labels[part][1:] != IGNORED).any():
                made = True
                tally.characters += _count_characters(encoded.offsets[part])
                yield _build(written, encoded.part(part), labels[part])
        if not made:
            tally.skipped += 1
            tally.first_skipped = tally.first_skipped or written.source

    # --- What ends a turn ---

    def _find_turn_end(self) -> Token | None:
        """Return the special token with which the template ends an answer, from a chat of our own."""
        if not self._has_template:
            return None
        probe = Example(
            source="", messages=(Message("user", "Habari?"), Message("assistant", "Nzuri."))
        )
        try:
            rendered = render_chat(self._tokenizer, probe, has_parts=self._reads_parts)
        except TemplateRefusalError:
            # It may want a system message or tools; the rows will tell.
            return None
        if rendered.turn_end is None:
            return None
        return _read_token(
            self._tokenizer, self._tokenizer.convert_tokens_to_ids(rendered.turn_end)
        )


@dataclass(frozen=True)
class Encoded:
    """One text as tokens."""

    ids: NDArray[np.int32]
    """Shape: (tokens,)."""
    offsets: NDArray[np.int64]
    """Shape: (tokens, 2). First character of each token, and the one after its last."""

    def part(self, tokens: slice) -> "Encoded":
        """Return some of the tokens."""
        return Encoded(ids=self.ids[tokens], offsets=self.offsets[tokens])


def find_learned(offsets: NDArray[np.int64], learned: Sequence[Span]) -> NDArray[np.bool_]:
    """Return which tokens reach into a learned stretch.

    A tokenizer that trims offsets gives a run of spaces no width, at its end; a BOS has none either,
    at the beginning. So a token without width counts where it ends inside and not where it begins.

    Args:
        offsets: Shape: (tokens, 2).
        learned: Stretches of the text, in characters.

    Returns:
        Shape: (tokens,).
    """
    starts, ends = offsets[:, 0], offsets[:, 1]
    has_width = starts < ends
    found: NDArray[np.bool_] = np.zeros(len(offsets), dtype=np.bool_)
    for span in learned:
        reaches = has_width & (ends > span.start) & (starts < span.end)
        found |= reaches | (~has_width & (ends > span.start) & (ends <= span.end))
    return found


def _append_stop(
    encoded: Encoded, labels: NDArray[np.int32], stop: Token, *, at: int
) -> tuple[Encoded, NDArray[np.int32]]:
    """Let the sequence end in exactly one stop token, which is learned."""
    if len(encoded.ids) and encoded.ids[-1] == stop.id:
        labels[-1] = stop.id
        return encoded, labels
    ids: NDArray[np.int32] = np.append(encoded.ids, np.int32(stop.id))
    offsets = np.vstack([encoded.offsets, [[at, at]]])
    return Encoded(ids=ids, offsets=offsets), np.append(labels, np.int32(stop.id))


def _build(written: Written, encoded: Encoded, labels: NDArray[np.int32]) -> TokenizedExample:
    """Return one sequence, counting the text that is predicted: all but that of its first token."""
    reach = Span(int(encoded.offsets[0, 1]), int(encoded.offsets[:, 1].max()))
    parts = [
        written.text[max(span.start, reach.start) : min(span.end, reach.end)]
        for span in written.said
        if span.start < reach.end and span.end > reach.start
    ]
    return TokenizedExample(
        input_ids=_pack(encoded.ids),
        labels=_pack(labels),
        supervised_bytes=sum(len(part.encode()) for part in parts),
        supervised_characters=sum(len(part) for part in parts),
        source=written.source,
    )


def _without_spans(whole: Span, left_out: Sequence[Span]) -> tuple[Span, ...]:
    """Return what remains of a stretch without others, which are in ascending order."""
    kept, start = [], whole.start
    for span in left_out:
        kept.append(Span(start, min(span.start, whole.end)))
        start = max(start, span.end)
    kept.append(Span(start, whole.end))
    return tuple(span for span in kept if span.start < span.end)


def _count_characters(offsets: NDArray[np.int64]) -> int:
    return int(offsets[:, 1].max() - offsets[0, 0])


def _pack(values: NDArray[np.int32]) -> "array[int]":
    return array("i", values.astype(np.int32).tobytes())


def _as_chat(example: Example) -> Example:
    """Return prompt and completion as the two turns that a template renders."""
    if example.messages:
        return example
    return Example(
        source=example.source,
        messages=(
            *example.earlier,
            Message("user", example.prompt or ""),
            Message("assistant", example.completion or ""),
        ),
        tools=example.tools,
    )


def _read_token(tokenizer: Any, token_id: int | None) -> Token | None:
    if token_id is None:
        return None
    return Token(id=int(token_id), text=str(tokenizer.convert_ids_to_tokens(int(token_id))))


def _read_tokens(tokenizer: Any, ids: int | Sequence[int] | None) -> tuple[Token, ...]:
    """Return generation_config's EOS, which is one id or several."""
    if ids is None:
        return ()
    every = [ids] if isinstance(ids, int) else list(ids)
    tokens = (_read_token(tokenizer, each) for each in every if 0 <= each < len(tokenizer))
    return tuple(token for token in tokens if token is not None)
