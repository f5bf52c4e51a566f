"""What of a chat or text is learned, under the templates of many families and real tokenizers."""

from collections.abc import Sequence
from typing import Any

import pytest

from finetune_text.rows.examples import Example, Message
from finetune_text.tokenization.stop_token import Stop, Token, decide_stop
from finetune_trainer.errors import DataInvalid, PlanInvalid
from finetune_trainer.inputs.tokenization import (
    CorpusTokenizer,
    TokenizationRules,
    TokenizedCorpus,
    TokenizedExample,
    TokenizedLanguage,
    check_context,
)
from tests.unit_trainer import tokenizers_of_tests as families
from tests.unit_trainer.tokenizers_of_tests import build_tokenizer

pytestmark = pytest.mark.torch

RULES = TokenizationRules(max_seq_length=512)
HELD_OUT = Example(source="held.jsonl line 1", text="Maji.")


def chat(*turns: tuple[str, str], source: str = "rows.jsonl line 1", **more: Any) -> Example:
    messages = tuple(Message(role, content) for role, content in turns)
    return Example(source=source, messages=messages, **more)


TWO_TURNS = (
    ("user", "Habari?"),
    ("assistant", "Nzuri sana."),
    ("user", "Maji ni nini?"),
    ("assistant", "Maji ni uhai."),
)


def tokenize(
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    rules: TokenizationRules = RULES,
    generation: dict[str, Any] | None = None,
) -> TokenizedLanguage:
    corpus = CorpusTokenizer(tokenizer, rules=rules, generation=generation or {})
    return corpus.tokenize_language("sw", train=examples, validation=[HELD_OUT])


def learned(tokenizer: Any, example: TokenizedExample) -> list[str]:
    """Return each stretch of the sequence that carries loss, as text."""
    stretches: list[list[int]] = [[]]
    for token, label in zip(example.input_ids, example.labels, strict=True):
        assert label in (-100, token)
        if label == -100:
            stretches.append([])
        else:
            stretches[-1].append(token)
    return [tokenizer.decode(stretch) for stretch in stretches if stretch]


def learn(template: str | None, example: Example, **options: Any) -> list[str]:
    tokenizer = build_tokenizer(template, **options)
    return learned(tokenizer, tokenize(tokenizer, [example]).train[0])


FAMILIES = {
    "ChatML": (families.CHATML, "<|im_end|>", ["Nzuri sana.<|im_end|>", "Maji ni uhai.<|im_end|>"]),
    "Llama 3": (
        families.LLAMA3,
        "<|eot_id|>",
        ["Nzuri sana.<|eot_id|>", "Maji ni uhai.<|eot_id|>"],
    ),
    "no system role": (
        families.NO_SYSTEM,
        "<end_of_turn>",
        ["Nzuri sana.<end_of_turn>", "Maji ni uhai.<end_of_turn>"],
    ),
    "moves system": (families.MOVES_SYSTEM, "</s>", [" Nzuri sana.</s>", " Maji ni uhai.</s>"]),
    "plain words": (families.PLAIN_WORDS, "</s>", [" Nzuri sana.", " Maji ni uhai.</s>"]),
}


@pytest.mark.parametrize(("template", "eos", "expected"), FAMILIES.values(), ids=list(FAMILIES))
def test_answers_and_the_end_of_their_turn_are_learned_and_nothing_else(
    template: str, eos: str, expected: list[str]
) -> None:
    assert learn(template, chat(*TWO_TURNS), eos=eos) == expected


def test_a_system_text_that_moves_does_not_hide_an_answer() -> None:
    example = chat(("system", "Uwe mfupi."), *TWO_TURNS)
    assert learn(families.MOVES_SYSTEM, example, eos="</s>") == [
        " Nzuri sana.</s>",
        " Maji ni uhai.</s>",
    ]


def test_thinking_that_the_template_strips_is_not_looked_for() -> None:
    example = chat(
        ("user", "Habari?"),
        ("assistant", "<think>\nHm.\n</think>\n\nNzuri sana."),
        ("user", "Maji?"),
        ("assistant", "<think>\nMaji.\n</think>\n\nUhai."),
    )
    assert learn(families.THINKING, example) == [
        "Nzuri sana.<|im_end|>",
        "<think>\nMaji.\n</think>\n\nUhai.<|im_end|>",
    ]


def test_an_empty_thought_that_the_template_adds_is_learned_with_the_answer() -> None:
    assert learn(families.THINKING, chat(*TWO_TURNS)) == [
        "Nzuri sana.<|im_end|>",
        "<think>\n\n</think>\n\nMaji ni uhai.<|im_end|>",
    ]


def test_words_that_stand_in_question_and_answer_alike_are_told_apart() -> None:
    example = chat(
        ("user", "Sema maji"), ("assistant", "maji"), ("user", "maji"), ("assistant", "a")
    )
    assert learn(families.CHATML, example) == ["maji<|im_end|>", "a<|im_end|>"]


def test_spaces_are_learned_by_a_tokenizer_that_gives_them_no_width() -> None:
    answer = "if x:\n        return  1  "
    example = chat(("user", "Python?"), ("assistant", answer))
    assert learn(families.CHATML, example, trims_offsets=True) == [f"{answer}<|im_end|>"]


def test_an_empty_answer_is_read_and_not_learned() -> None:
    example = chat(("user", "A?"), ("assistant", ""), ("user", "B?"), ("assistant", "Maji"))
    assert learn(families.CHATML, example) == ["Maji<|im_end|>"]


def test_what_follows_the_last_answer_is_left_out() -> None:
    tokenizer = build_tokenizer(families.CHATML)
    example = chat(*TWO_TURNS, ("user", "Asante"))
    (sequence,) = tokenize(tokenizer, [example]).train
    assert tokenizer.decode(sequence.input_ids).endswith("Maji ni uhai.<|im_end|>")


def test_a_tool_call_is_learned_as_the_template_writes_it() -> None:
    call = {"type": "function", "function": {"name": "hali", "arguments": {"mji": "Nairobi"}}}
    messages = (
        Message("user", "Hali ya hewa?"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "jua"),
        Message("assistant", "Kuna jua."),
    )
    example = Example(source="rows.jsonl line 1", messages=messages)
    assert learn(families.LLAMA3, example, eos="<|eot_id|>") == [
        '{"name": "hali", "arguments": {"mji": "Nairobi"}}<|eot_id|>',
        "Kuna jua.<|eot_id|>",
    ]


# --- Without a template


def test_a_prompt_and_its_completion_are_joined_as_they_are() -> None:
    example = Example(source="", prompt="Swali: maji? Jibu:", completion=" uhai")
    assert learn(None, example, eos="</s>") == [" uhai</s>"]


def test_an_instruction_is_set_apart_by_a_blank_line() -> None:
    tokenizer = build_tokenizer(None, eos="</s>", bos=None)
    example = Example(source="", prompt="Sema", separator="\n\n", completion="maji")
    (sequence,) = tokenize(tokenizer, [example]).train
    assert tokenizer.decode(sequence.input_ids) == "Sema\n\nmaji</s>"
    assert learned(tokenizer, sequence) == ["maji</s>"]


def test_an_instruction_becomes_a_chat_where_there_is_a_template() -> None:
    example = Example(source="", prompt="Sema", separator="\n\n", completion="maji")
    tokenizer = build_tokenizer(families.CHATML)
    (sequence,) = tokenize(tokenizer, [example]).train
    assert tokenizer.decode(sequence.input_ids) == (
        "<|im_start|>user\nSema<|im_end|>\n<|im_start|>assistant\nmaji<|im_end|>"
    )


def test_a_text_is_learned_whole_and_its_end_too() -> None:
    assert learn(None, Example(source="", text="Maji ni uhai. नमस्ते क्ष"), eos="</s>") == [
        "Maji ni uhai. नमस्ते क्ष</s>"
    ]


def test_a_chat_without_a_chat_template_is_refused_with_the_remedy() -> None:
    with pytest.raises(DataInvalid) as error:
        tokenize(build_tokenizer(None), [chat(*TWO_TURNS)])
    assert error.value.reason == "ChatTemplateMissing"
    assert error.value.message == (
        "rows.jsonl line 1 is a chat, but the model's tokenizer has no chat template: expected a"
        " template, or rows with prompt and completion or text; name the instruction-tuned model, add"
        " chat_template.jinja to the model, or change the rows, and apply again."
    )


# --- EOS and padding


@pytest.mark.parametrize("template", [families.CHATML, None], ids=["chat", "text"])
def test_padding_equal_to_eos_changes_nothing(template: str | None) -> None:
    example = Example(source="", prompt="Habari?", completion=" Nzuri")
    apart = tokenize(build_tokenizer(template, pad="<pad>"), [example]).train[0]
    equal = tokenize(build_tokenizer(template, pad="<|im_end|>"), [example]).train[0]
    none = tokenize(build_tokenizer(template, pad=None), [example]).train[0]
    assert (apart.input_ids, apart.labels) == (equal.input_ids, equal.labels)
    assert (apart.input_ids, apart.labels) == (none.input_ids, none.labels)


def test_a_wrong_eos_is_told_and_the_template_s_end_is_learned() -> None:
    tokenizer = build_tokenizer(families.CHATML, eos="<|im_start|>")
    language = tokenize(tokenizer, [chat(*TWO_TURNS)], generation={"eos_token_id": 2})
    assert learned(tokenizer, language.train[0])[-1] == "Maji ni uhai.<|im_end|>"
    (warning,) = language.warnings
    assert warning == (
        "The tokenizer's EOS is '<|im_start|>', but the chat template ends a turn with"
        " '<|im_end|>', where generation_config stops too: answers end with it."
    )


END, OTHER = Token(2, "<|im_end|>"), Token(0, "<|endoftext|>")
STOPS = {
    "all agree": (END, END, [END], Stop(END)),
    "template ends elsewhere": (
        END,
        OTHER,
        [OTHER],
        Stop(
            END,
            "The chat template ends a turn with '<|im_end|>', but the tokenizer's EOS is"
            " '<|endoftext|>': answers end with the former; stop at it when you generate.",
        ),
    ),
    "generation stops at both": (END, OTHER, [OTHER, END], Stop(END)),
    "no template, generation differs": (
        None,
        OTHER,
        [END],
        Stop(
            END,
            "The tokenizer's EOS is '<|endoftext|>', but generation_config stops at '<|im_end|>':"
            " texts end with the latter.",
        ),
    ),
    "no EOS at all": (
        None,
        None,
        [],
        Stop(None, "The tokenizer has no EOS: the adapter cannot learn where a text ends."),
    ),
}


@pytest.mark.parametrize(
    ("of_template", "of_tokenizer", "of_generation", "expected"), STOPS.values(), ids=list(STOPS)
)
def test_the_stop_is_what_the_template_writes_or_generation_ends_at(
    of_template: Token | None,
    of_tokenizer: Token | None,
    of_generation: list[Token],
    expected: Stop,
) -> None:
    decided = decide_stop(
        of_template=of_template, of_tokenizer=of_tokenizer, of_generation=of_generation
    )
    assert decided == expected


# --- What templates refuse and leave out


def test_a_role_that_the_template_refuses_is_told_with_its_line() -> None:
    rows = [
        chat(("system", "Mfupi"), *TWO_TURNS, source=f"s3://corpora/rows.jsonl line {n}")
        for n in (3, 8)
    ]
    with pytest.raises(DataInvalid) as error:
        tokenize(build_tokenizer(families.NO_SYSTEM, eos="<end_of_turn>"), rows)
    assert error.value.reason == "ChatTemplateRefused"
    assert error.value.message == (
        "s3://corpora/rows.jsonl line 3 is not taken by the model's chat template (System role not"
        " supported): expected roles and fields that this model knows; change the row and apply again"
        " (and 1 more: s3://corpora/rows.jsonl line 8)."
    )


def test_what_the_template_leaves_out_is_told_with_its_line() -> None:
    call = {"type": "function", "function": {"name": "hali", "arguments": {}}}
    messages = (
        Message("system", "Mfupi."),
        Message("user", "Hali?"),
        Message("assistant", "Ngoja.", tool_calls=(call,)),
        Message("tool", "mawingu"),
        Message("assistant", "Kuna jua."),
    )
    rows = [
        chat(*TWO_TURNS),
        Example(source="rows.jsonl line 2", messages=messages),
        Example(source="rows.jsonl line 3", messages=messages),
    ]
    language = tokenize(build_tokenizer(families.DROPS_SYSTEM), rows)
    assert language.warnings == (
        "The chat template leaves out the system message in 2 rows of sw, first in rows.jsonl line 2.",
        "The chat template leaves out the tool's message in 2 rows of sw, first in rows.jsonl line 2.",
        "The chat template leaves out a tool call in 2 rows of sw, first in rows.jsonl line 2.",
    )


def test_text_with_joiners_and_marks_gives_no_warning() -> None:
    example = chat(("user", " क्\u200dष e\u0301 "), ("assistant", "\u202bمرحبا\u202c"))
    assert tokenize(build_tokenizer(families.LLAMA3, eos="<|eot_id|>"), [example]).warnings == ()


def test_a_template_that_writes_the_date_gives_the_same_tokens_every_day() -> None:
    tokenizer = build_tokenizer(families.LLAMA3, eos="<|eot_id|>")
    (sequence,) = tokenize(tokenizer, [chat(("system", "Mfupi."), *TWO_TURNS)]).train
    assert "Today: 26 Jul 2024" in tokenizer.decode(sequence.input_ids)


# --- Lengths


def test_a_long_answer_is_cut_and_told() -> None:
    rows = [chat(("user", "A?"), ("assistant", "maji " * 100)), chat(*TWO_TURNS)]
    rules = TokenizationRules(max_seq_length=64)
    language = tokenize(build_tokenizer(families.CHATML), rows, rules=rules)
    longest = language.corpus.longest
    assert len(language.train[0].input_ids) == 64
    assert language.corpus.truncated == 1
    assert language.warnings == (
        f"1 of 2 rows of sw is longer than 64 tokens and loses its end; the longest has {longest}.",
    )


def test_a_row_whose_answer_is_cut_off_is_skipped_and_told() -> None:
    rows = [
        chat(("user", "maji " * 100), ("assistant", "Ndiyo"), source="rows.jsonl line 7"),
        chat(*TWO_TURNS),
    ]
    rules = TokenizationRules(max_seq_length=64)
    language = tokenize(build_tokenizer(families.CHATML), rows, rules=rules)
    assert (language.corpus.examples, language.corpus.skipped) == (1, 1)
    assert language.warnings[-1] == (
        "1 row of sw has no token to learn within 64 tokens and is not trained on; the first is"
        " rows.jsonl line 7."
    )


def test_when_every_answer_is_cut_off_the_numbers_are_told() -> None:
    rows = [chat(("user", "maji " * 100), ("assistant", "Ndiyo"))]
    with pytest.raises(DataInvalid) as error:
        tokenize(build_tokenizer(families.CHATML), rows, rules=TokenizationRules(max_seq_length=64))
    assert error.value.reason == "NothingToLearn"
    assert error.value.message.startswith(
        "None of the 1 training rows of sw has a token to learn within 64 tokens (the longest has "
    )


TOO_LONG = [
    chat(("user", "maji " * 100), ("assistant", "Ndiyo"), source=f"rows.jsonl line {n}")
    for n in (3, 4)
]


def test_held_out_rows_that_are_too_long_do_not_stop_a_run() -> None:
    rows = [chat(("user", f"Swali {n}?"), ("assistant", f"Jibu {n}.")) for n in range(6)]
    corpus = CorpusTokenizer(
        build_tokenizer(families.CHATML), rules=TokenizationRules(max_seq_length=64), generation={}
    )
    found = [
        corpus.tokenize_language("sw", train=order, validation=TOO_LONG)
        for order in ([*rows, rows[0]], [rows[0], *reversed(rows)])
    ]
    for language in found:
        texts = [
            {bytes(each.input_ids) for each in part}
            for part in (language.train, language.validation)
        ]
        assert not texts[0] & texts[1]
        assert len(language.train) + len(language.validation) == 7
        assert language.warnings == (
            (
                "2 of 2 held-out rows of sw have no token to learn within 64 tokens and are not evaluated; the"
                " first is rows.jsonl line 3."
            ),
            (
                f"{len(language.validation)} training sequence{'s' if len(language.validation) > 1 else ''} of sw"
                f" {'are' if len(language.validation) > 1 else 'is'} evaluated instead and not trained on."
            ),
        )
    assert found[0].validation[0].input_ids == found[1].validation[0].input_ids


def test_one_content_cannot_be_trained_on_and_evaluated() -> None:
    corpus = CorpusTokenizer(
        build_tokenizer(families.CHATML), rules=TokenizationRules(max_seq_length=64), generation={}
    )
    with pytest.raises(DataInvalid) as error:
        corpus.tokenize_language("sw", train=[chat(*TWO_TURNS)] * 2, validation=TOO_LONG)
    assert error.value.reason == "NothingToLearn"
    assert error.value.message.startswith("No held-out row of sw has a token to learn within 64")


def test_a_held_out_row_that_is_too_long_is_told_beside_one_that_is_not() -> None:
    corpus = CorpusTokenizer(
        build_tokenizer(families.CHATML), rules=TokenizationRules(max_seq_length=64), generation={}
    )
    language = corpus.tokenize_language(
        "sw", train=[chat(*TWO_TURNS)], validation=[TOO_LONG[0], HELD_OUT]
    )
    assert (len(language.train), len(language.validation)) == (1, 1)
    assert language.warnings == (
        (
            "1 of 2 held-out rows of sw has no token to learn within 64 tokens and is not evaluated; the first"
            " is rows.jsonl line 3."
        ),
    )


def test_a_long_text_goes_on_in_the_next_sequence_and_loses_no_token() -> None:
    tokenizer = build_tokenizer(None, eos="</s>", bos=None)
    text = "maji ni uhai " * 40
    rules = TokenizationRules(max_seq_length=50, completion_only=False, splits_long_texts=True)
    sequences = tokenize(tokenizer, [Example(source="", text=text)], rules=rules).train
    ids = [token for sequence in sequences for token in sequence.input_ids]
    assert tokenizer.decode(ids) == f"{text}</s>"
    unpredicted = sum(len(tokenizer.decode(sequence.input_ids[:1])) for sequence in sequences)
    assert sum(sequence.supervised_bytes for sequence in sequences) == len(text) - unpredicted


# --- What is counted


def test_bytes_are_those_of_the_answers_and_not_of_the_template() -> None:
    example = chat(("user", "Habari?"), ("assistant", "नमस्ते"))
    (sequence,) = tokenize(build_tokenizer(families.CHATML), [example]).train
    assert (sequence.supervised_characters, sequence.supervised_bytes) == (6, 18)


def test_the_first_token_is_never_predicted_and_its_bytes_do_not_count() -> None:
    tokenizer = build_tokenizer(None)
    text = "Maji ni uhai."
    (sequence,) = tokenize(tokenizer, [Example(source="a", text=text)]).train
    first = tokenizer.decode(sequence.input_ids[:1])
    assert sequence.supervised_bytes == len(text) - len(first)


def test_characters_are_those_of_the_tokens_that_are_left() -> None:
    tokenizer = build_tokenizer(None)
    example = Example(source="a", text="maji " * 400)
    whole = tokenize(tokenizer, [example], rules=TokenizationRules(max_seq_length=5000)).corpus
    cut = tokenize(tokenizer, [example], rules=TokenizationRules(max_seq_length=50)).corpus
    assert (whole.characters, cut.tokens) == (2000, 50)
    assert cut.characters / cut.tokens == pytest.approx(whole.characters / whole.tokens, rel=0.1)


def test_the_corpus_is_summed_up() -> None:
    tokenizer = build_tokenizer(families.CHATML)
    rows = [chat(("user", "A?"), ("assistant", "maji " * n)) for n in range(1, 101)]
    language = tokenize(tokenizer, rows)
    lengths = sorted(len(sequence.input_ids) for sequence in language.train)
    corpus = language.corpus
    assert (corpus.p50, corpus.p95, corpus.p99) == (lengths[49], lengths[94], lengths[98])
    assert (corpus.longest, corpus.tokens) == (lengths[-1], sum(lengths))
    assert (corpus.examples, corpus.validation_examples) == (100, 1)
    assert corpus.supervised_tokens == sum(s.supervised_tokens for s in language.train)


def test_languages_follow_one_another_in_their_order() -> None:
    tokenizer = build_tokenizer(families.CHATML)
    one = tokenize(tokenizer, [chat(*TWO_TURNS, source="a")])
    two = tokenize(tokenizer, [chat(*TWO_TURNS, source="b")])
    corpus = TokenizedCorpus((one, two))
    assert [sequence.source for sequence in corpus.train] == ["a", "b"]
    assert len(corpus.validation) == 2
    assert [language.tag for language in corpus.corpus] == ["sw", "sw"]


def test_rows_that_the_model_cannot_read_whole_are_refused_with_the_numbers() -> None:
    rows = [Example(source="a", text="maji " * 400)]
    rules = TokenizationRules(max_seq_length=5000)
    corpus = TokenizedCorpus((tokenize(build_tokenizer(None), rows, rules=rules),))
    longest = corpus.languages[0].corpus.longest
    check_context(corpus, context=None, model_uri="hf://org/tiny")
    check_context(corpus, context=longest, model_uri="hf://org/tiny")
    with pytest.raises(PlanInvalid) as caught:
        check_context(corpus, context=128, model_uri="hf://org/tiny")
    assert caught.value.message == (
        f"The longest row has {longest} tokens within parameters.maxSeqLength, and the model"
        " hf://org/tiny reads 128 at most: set parameters.maxSeqLength to 128, so that longer rows lose"
        " their end, or choose a model that reads more, and apply again."
    )
