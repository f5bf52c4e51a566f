"""Tokenization: each language's rows become sequences, and what was seen of them is summed up.

Third of the stages, after validate and before the model is loaded. The tokenizer is handed in;
`sequences` does the work on one example. Ids are kept as machine integers in the order
of the rows, so memory grows by eight bytes a token and a run sees the same data every time.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from finetune_api.outcome import CorpusLanguage
from finetune_text.counting import count_of, has_or_have, is_or_are
from finetune_text.rows.examples import Example
from finetune_text.survey.row_store import nearest_rank
from finetune_text.tokenization.sequences import (
    MAX_REFUSALS,
    Sequencer,
    TokenizationRules,
    TokenizedExample,
)
from finetune_text.tokenization.stop_token import Stop
from finetune_text.tokenization.tally import Tally
from finetune_trainer.errors import DataInvalid, PlanInvalid
from finetune_trainer.inputs.text_errors import told_as_invalid_data

__all__ = [
    "CorpusTokenizer",
    "TokenizationRules",
    "TokenizedCorpus",
    "TokenizedExample",
    "TokenizedLanguage",
    "check_context",
]


@dataclass(frozen=True)
class TokenizedLanguage:
    """One language's sequences."""

    train: tuple[TokenizedExample, ...]
    validation: tuple[TokenizedExample, ...]
    corpus: CorpusLanguage
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class TokenizedCorpus:
    """All languages' sequences."""

    languages: tuple[TokenizedLanguage, ...]

    @property
    def train(self) -> list[TokenizedExample]:
        """Every training sequence, language by language, in the order of rows."""
        return [example for language in self.languages for example in language.train]

    @property
    def validation(self) -> list[TokenizedExample]:
        """Every held-out sequence."""
        return [example for language in self.languages for example in language.validation]

    @property
    def corpus(self) -> tuple[CorpusLanguage, ...]:
        """The figures of each language, for status."""
        return tuple(language.corpus for language in self.languages)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person may want to act on, each once."""
        every = (warning for language in self.languages for warning in language.warnings)
        return tuple(dict.fromkeys(every))


class CorpusTokenizer:
    """A tokenizer with its template, under the plan's rules."""

    def __init__(
        self, tokenizer: Any, *, rules: TokenizationRules, generation: Mapping[str, Any]
    ) -> None:
        """Take a transformers tokenizer and the model's generation config, empty where it has none."""
        self._sequencer = Sequencer(tokenizer, rules=rules, generation=generation)

    @property
    def stop(self) -> Stop:
        """What ends an answer, for generation and for the published tokenizer."""
        return self._sequencer.stop

    def tokenize_language(
        self, tag: str, *, train: Iterable[Example], validation: Iterable[Example]
    ) -> TokenizedLanguage:
        """Return one language's sequences.

        Raises:
            DataInvalid: Chats without a chat template, a chat that the template does not take, or
                nothing left to learn.
        """
        tally, held_out = Tally(), Tally()
        with told_as_invalid_data():
            sequences = tuple(self._sequencer.read(train, tally))
            validated = tuple(self._sequencer.read(validation, held_out))
        refusals = (tally.refusals + held_out.refusals)[:MAX_REFUSALS]
        if refusals:
            raise _build_refusal(refusals)
        if not sequences:
            raise _build_nothing_left(self._sequencer.rules, tag, tally)
        warnings = [
            *_describe(self._sequencer, tag, tally),
            *_describe_held_out(self._sequencer.rules, tag, held_out),
        ]
        if not validated:
            sequences, validated = _replace_held_out(sequences)
            if not sequences:
                raise _build_one_content(self._sequencer.rules, tag, validated, held_out)
            warnings.append(
                f"{count_of(len(validated), 'training sequence')} of {tag}"
                f" {is_or_are(len(validated))} evaluated instead and not trained on."
            )
        return TokenizedLanguage(
            train=sequences,
            validation=validated,
            corpus=_summarise(tag, sequences, validated, tally),
            warnings=tuple(warnings),
        )


def check_context(corpus: TokenizedCorpus, *, context: int | None, model_uri: str) -> None:
    """See that the model was made to read sequences as long as these, whatever length is allowed.

    Raises:
        PlanInvalid: It was not. Unsloth would stretch its positions without a word, and who loads the
            adapter would not.
    """
    longest = max(len(each.input_ids) for each in (*corpus.train, *corpus.validation))
    if context is not None and longest > context:
        raise PlanInvalid(
            f"The longest row has {longest} tokens within parameters.maxSeqLength, and the model"
            f" {model_uri} reads {context} at most: set parameters.maxSeqLength to {context}, so that"
            " longer rows lose their end, or choose a model that reads more, and apply again.",
            reason="SequenceTooLong",
        )


def _describe(sequencer: Sequencer, tag: str, tally: Tally) -> Iterator[str]:
    rules = sequencer.rules
    if sequencer.stop.warning:
        yield sequencer.stop.warning
    yield from tally.describe(tag, with_uri=True)
    cut = tally.truncated
    if cut and not rules.splits_long_texts:
        yield (
            f"{cut} of {count_of(len(tally.lengths), 'row')} of {tag} {is_or_are(cut)} longer than"
            f" {rules.max_seq_length} tokens and {'loses its' if cut == 1 else 'lose their'} end; the"
            f" longest has {max(tally.lengths)}."
        )
    if tally.skipped:
        yield (
            f"{count_of(tally.skipped, 'row')} of {tag} {has_or_have(tally.skipped)} no token to learn"
            f" within {rules.max_seq_length} tokens and {is_or_are(tally.skipped)} not trained on; the"
            f" first is {tally.first_skipped}."
        )


Sequences: TypeAlias = tuple[TokenizedExample, ...]


def _replace_held_out(sequences: Sequences) -> tuple[Sequences, Sequences]:
    """Return what is trained on and what is evaluated if no held-out row has a token to learn.

    One content is evaluated, with all its copies: the one with the smallest hash, so that the order of
    rows changes nothing.
    """
    hashes = [hashlib.sha256(each.input_ids.tobytes()).digest() for each in sequences]
    chosen = min(hashes)
    pairs = list(zip(sequences, hashes, strict=True))
    train = tuple(each for each, content in pairs if content != chosen)
    return train, tuple(each for each, content in pairs if content == chosen)


def _describe_held_out(rules: TokenizationRules, tag: str, tally: Tally) -> Iterator[str]:
    rows = len(tally.lengths)
    if tally.skipped:
        yield (
            f"{tally.skipped} of {count_of(rows, 'held-out row')} of {tag}"
            f" {has_or_have(tally.skipped)} no token to learn within {rules.max_seq_length} tokens and"
            f" {is_or_are(tally.skipped)} not evaluated; the first is {tally.first_skipped}."
        )


def _build_one_content(
    rules: TokenizationRules, tag: str, sequences: Sequences, held_out: Tally
) -> DataInvalid:
    return DataInvalid(
        f"No held-out row of {tag} has a token to learn within {rules.max_seq_length} tokens (the longest"
        f" has {max(held_out.lengths, default=0)}), and the training rows have one content alone"
        f" ({sequences[0].source}): expected one to train on and one to evaluate; raise"
        " parameters.maxSeqLength or add rows, and apply again.",
        reason="NothingToLearn",
    )


def _build_nothing_left(rules: TokenizationRules, tag: str, tally: Tally) -> DataInvalid:
    longest = max(tally.lengths, default=0)
    return DataInvalid(
        f"None of the {len(tally.lengths)} training rows of {tag} has a token to learn within"
        f" {rules.max_seq_length} tokens (the longest has {longest}, the first is"
        f" {tally.first_skipped}): expected answers that begin earlier; raise"
        " parameters.maxSeqLength or shorten the prompts, and apply again.",
        reason="NothingToLearn",
    )


def _build_refusal(refusals: Sequence[tuple[str, str]]) -> DataInvalid:
    source, words = refusals[0]
    others = ", ".join(source for source, _ in refusals[1:])
    more = f" (and {len(refusals) - 1} more: {others})" if others else ""
    return DataInvalid(
        f"{source} is not taken by the model's chat template ({words.rstrip('.')}): expected roles"
        f" and fields that this model knows; change the row and apply again{more}.",
        reason="ChatTemplateRefused",
    )


def _summarise(
    tag: str,
    train: Sequence[TokenizedExample],
    validation: Sequence[TokenizedExample],
    tally: Tally,
) -> CorpusLanguage:
    lengths = sorted(tally.lengths)
    return CorpusLanguage(
        tag=tag,
        examples=len(train),
        validation_examples=len(validation),
        tokens=sum(len(example.input_ids) for example in train),
        supervised_tokens=sum(example.supervised_tokens for example in train),
        characters=tally.characters,
        p50=nearest_rank(lengths, 50),
        p95=nearest_rank(lengths, 95),
        p99=nearest_rank(lengths, 99),
        longest=lengths[-1],
        truncated=tally.truncated,
        skipped=tally.skipped,
    )
