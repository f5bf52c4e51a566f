"""What a profile says to the resolver and to status."""

from typing import Any

import pytest

from finetune_api.profile import LanguageProfile, Profile, TokenizerProfile
from finetune_api.resource import LanguageFinetuneSpec
from finetune_resolver.errors import UnsupportedModelError
from finetune_resolver.traits.from_profile import build_measurements, corpus_statuses

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
MIXTURE = {"model_type": "mixtral", "num_hidden_layers": 40, "num_local_experts": 8}
SWAHILI: dict[str, Any] = {
    "tag": "sw",
    "examples": 9500,
    "unique_examples": 9400,
    "tokens": 2_000_000,
    "unique_tokens": 1_990_000,
    "supervised_tokens": 1_500_000,
    "p50": 180,
    "p95": 512,
    "p99": 1312,
    "longest": 2100,
    "characters": 4_000_000,
    "text_tokens": 1_500_000,
    "text_bytes": 4_100_000,
    "words": 700_000,
    "mattr500": 0.61,
    "script_share": 0.99,
    "code_mixing_index": 0.4,
    "validation_examples": 500,
    "truncated": (475, 200, 19, 0, 0),
}


def spec(**changes: Any) -> LanguageFinetuneSpec:
    language = {"tag": "sw", "dataset": {"uri": "s3://c/"} | changes.pop("dataset", {})}
    values: dict[str, Any] = {
        "model": {"uri": "hf://a/b"},
        "languages": [language],
        "output": {"uri": "s3://o/"},
    }
    return LanguageFinetuneSpec.model_validate(values | changes)


def profile(model: dict[str, Any] | None = None, **changes: Any) -> Profile:
    return Profile(
        tokenizer=TokenizerProfile(sha256="a" * 64, vocabulary=128_256),
        model=LLAMA if model is None else model,
        languages=(LanguageProfile(**SWAHILI | changes),),
    )


def test_a_fraction_that_is_held_out_is_part_of_the_text() -> None:
    [language] = build_measurements(spec(), profile()).languages
    assert (language.examples, language.held_out) == (10_000, 500)


def test_a_held_out_file_of_its_own_is_no_part_of_the_text() -> None:
    own = spec(dataset={"validation": {"uri": "s3://c/held-out.jsonl"}})
    [language] = build_measurements(own, profile()).languages
    assert (language.examples, language.held_out) == (9_500, 0)


def test_ratios_and_lengths_reach_the_resolver() -> None:
    [language] = build_measurements(spec(), profile()).languages
    assert language.chars_per_token == pytest.approx(4 / 1.5)
    assert (language.p95_tokens, language.p99_tokens, language.max_tokens) == (512, 1312, 2100)
    assert dict(language.truncated_shares) == pytest.approx(
        {512: 0.05, 1024: 200 / 9500, 2048: 0.002, 4096: 0.0, 8192: 0.0}
    )


def test_a_text_without_examples_decides_nothing_of_lengths() -> None:
    [language] = build_measurements(spec(), profile(examples=0, text_tokens=0)).languages
    assert (language.truncated_shares, language.chars_per_token) == ((), None)


def test_the_model_has_the_shape_that_its_config_tells() -> None:
    measured = build_measurements(spec(), profile())
    assert measured.shape is not None
    assert (measured.layers, measured.shape.hidden_size) == (32, 4096)


def test_of_a_model_of_experts_the_layers_are_known_and_no_shape() -> None:
    measured = build_measurements(spec(), profile(MIXTURE))
    assert (measured.shape, measured.layers) == (None, 40)


def test_a_model_of_experts_is_refused_where_memory_must_be_decided() -> None:
    with pytest.raises(UnsupportedModelError):
        build_measurements(spec(resources={"gpuMemory": "80Gi"}), profile(MIXTURE))


def test_a_model_of_experts_runs_where_class_and_method_are_declared() -> None:
    declared = spec(method="LoRA", resources={"gpuMemory": "80Gi", "gpuMemoryClass": "Constrained"})
    assert build_measurements(declared, profile(MIXTURE)).shape is None


def test_layers_of_a_multimodal_model_are_those_of_its_language_part() -> None:
    config = {"model_type": "gemma3", "text_config": {"num_hidden_layers": 34}}
    assert build_measurements(spec(), profile(config)).hidden_layers == 34


@pytest.mark.parametrize("model", [{}, {"num_hidden_layers": True}], ids=["none", "no number"])
def test_a_model_without_facts_has_neither_shape_nor_layers(model: dict[str, Any]) -> None:
    measured = build_measurements(spec(), profile(model))
    assert (measured.shape, measured.layers) == (None, None)


def test_status_shows_the_text_at_the_resolved_length() -> None:
    [shown] = corpus_statuses(profile(), max_seq_length=2048)
    assert shown.model_dump(by_alias=True, exclude_none=True, exclude={"warnings"}) == {
        "tag": "sw",
        "examples": 9500,
        "tokens": 2_000_000,
        "charsPerToken": "2.67",
        "tokenLengths": {"p50": 180, "p95": 512, "p99": 1312, "max": 2100},
        "truncatedPercent": "0.20",
        "duplicates": 0,
        "scriptShare": "0.99",
        "supervisedTokens": 1_500_000,
        "uniqueTokens": 1_990_000,
        "validationExamples": 500,
        "bytesPerToken": "2.73",
        "codeMixingIndex": "0.40",
        "typeTokenRatio": "0.61",
    }


def test_truncation_at_a_length_that_was_not_counted_is_left_out() -> None:
    [between] = corpus_statuses(profile(), max_seq_length=1536)
    [longer] = corpus_statuses(profile(), max_seq_length=3000)
    assert (between.truncated_percent, longer.truncated_percent) == (None, "0.00")
    assert corpus_statuses(profile(), max_seq_length=None)[0].truncated_percent is None


def test_every_fault_of_the_text_is_told_with_its_number() -> None:
    faulty = profile(
        duplicates=150,
        near_duplicates=45,
        overlap=3,
        mojibake=2,
        unsupervised=4,
        empty=5,
        invalid=1,
    )
    [shown] = corpus_statuses(faulty, max_seq_length=2048)
    assert shown.duplicates == 195
    assert shown.warnings == [
        (
            "150 examples repeat an earlier one and 45 nearly do, of 9,500: what repeats is learnt by "
            "heart; remove it."
        ),
        (
            "3 of 500 held-out examples are trained on too, so the held-out loss flatters the "
            "adapter; remove them from one of the two."
        ),
        (
            "2 examples hold text that was decoded wrongly, or characters that were lost; repair them "
            "in the source."
        ),
        "4 examples have no token to learn at any length.",
        "5 rows have nothing to learn from and are left out.",
        "1 row breaks a rule, and training refuses a file with such a row.",
    ]


def test_a_single_fault_is_told_in_the_singular_with_its_place_and_what_is_not_read() -> None:
    faulty = profile(
        overlap=1,
        mojibake=1,
        unsupervised=1,
        empty=1,
        skipped=1,
        notes=("1 file (2 bytes) is not trained on because of a name that says test: test.jsonl.",),
        first_places=(
            "EmptyRow a.jsonl line 5",
            "Unsupervised a.jsonl line 6",
            "Mojibake b c.jsonl line 7",
            "Overlap held.jsonl line 8",
            "SkippedRow a.jsonl line 9",
        ),
    )
    [shown] = corpus_statuses(faulty, max_seq_length=2048)
    assert shown.warnings == [
        "1 file (2 bytes) is not trained on because of a name that says test: test.jsonl.",
        (
            "1 of 500 held-out examples is trained on too (first in held.jsonl line 8), so the held-out"
            " loss flatters the adapter; remove them from one of the two."
        ),
        (
            "1 example holds text that was decoded wrongly, or characters that were lost (first in b"
            " c.jsonl line 7); repair them in the source."
        ),
        "1 example has no token to learn at any length (first in a.jsonl line 6).",
        "1 row has nothing to learn from and is left out (first in a.jsonl line 5).",
        (
            "1 row breaks a rule and is left out, as dataset.onBadRow says (first in a.jsonl line 9)."
        ),
        "profile.json names each of these with file and line.",
    ]


@pytest.mark.parametrize(
    ("exact", "near", "said"),
    [
        (1, 0, "1 example repeats an earlier one, of 9,500"),
        (0, 1, "1 example nearly repeats an earlier one, of 9,500"),
        (2, 1, "2 examples repeat an earlier one and 1 nearly does, of 9,500"),
        (
            0,
            9_000,
            (
                "9,000 examples nearly repeat an earlier one, of 9,500 (nearly: 80 % of the runs of five "
                "words are the same, or of five letters without spaces, as also in rows of one template "
                "that differ in a number; keep those if the number matters)"
            ),
        ),
    ],
)
def test_repetitions_are_told_as_they_are_counted(exact: int, near: int, said: str) -> None:
    repeating = profile(duplicates=exact, near_duplicates=near)
    [shown] = corpus_statuses(repeating, max_seq_length=2048)
    assert shown.warnings == [f"{said}: what repeats is learnt by heart; remove it."]


def test_rows_that_were_only_counted_count_as_rows_and_tokens_like_the_measured_ones() -> None:
    [measured] = build_measurements(spec(), profile(unmeasured=4750)).languages
    assert (measured.examples, measured.held_out) == (9500 + 500 + 4750, 500)
    assert (measured.tokens, measured.supervised_tokens) == (3_000_000, 2_250_000)
    assert measured.unique_tokens == 2_985_000


def test_what_was_not_measured_is_told() -> None:
    [shown] = corpus_statuses(profile(unmeasured=4750, uncompared=1200), max_seq_length=None)
    assert shown.warnings == [
        "The first 9,500 examples were measured; 4,750 more were counted and are taken to be like them.",
        "For 1,200 examples no near duplicate was sought, because there are so many; equal texts were.",
    ]
