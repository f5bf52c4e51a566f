"""The contract of Measure: what crosses from the Measure pod to the operator, and that it fits."""

import json
import os
import random
from pathlib import Path

import pytest
from pydantic import ValidationError

from finetune_api import wire
from finetune_api.measure_plan import MeasurePlan, measure_hash
from finetune_api.outcome import Outcome, Stage
from finetune_api.profile import (
    CANDIDATE_LENGTHS,
    COUNTED_LENGTHS,
    KeptAtLength,
    LanguageProfile,
    Profile,
    TokenizerProfile,
    pick_config_facts,
)

GOLDEN = Path(__file__).with_name("golden")
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "rope_scaling": {"factor": 8.0},
}


def build_language(tag: str = "sw") -> LanguageProfile:
    return LanguageProfile(
        tag=tag,
        content="9f86d081884c",
        examples=11_400,
        unique_examples=11_205,
        tokens=2_345_678,
        unique_tokens=2_300_001,
        supervised_tokens=1_600_000,
        p50=180,
        p95=512,
        p99=1312,
        longest=2044,
        characters=4_100_000,
        text_tokens=1_588_600,
        text_bytes=4_150_000,
        words=700_123,
        mattr500=0.61234,
        script="Latn",
        script_share=0.99871,
        code_mixing_index=0.4,
        duplicates=150,
        near_duplicates=45,
        validation_examples=600,
        overlap=3,
        unsupervised=2,
        empty=5,
        truncated=(570, 200, 0, 0, 0),
    )


def build_profile(*languages: LanguageProfile) -> Profile:
    return Profile(
        tokenizer=TokenizerProfile(
            sha256="a" * 64, family="llama31", vocabulary=128_256, english_bytes_per_token=4.87
        ),
        model=pick_config_facts(LLAMA),
        languages=languages,
    )


def build_outcome(profile: Profile, *, message: str = "Measured 1 language.") -> Outcome:
    return Outcome(
        exit_code=0,
        reason="Measured",
        stage=Stage.PUBLISH,
        message=message,
        plan_hash="b" * 64,
        model_revision="c" * 40,
        profile=profile,
    )


def build_plan() -> MeasurePlan:
    return MeasurePlan.model_validate(
        {
            "identity": {"namespace": "ml", "name": "swahili", "uid": "u-1", "run": 1},
            "model": {"uri": "hf://org/model", "credentials": "MODEL"},
            "datasets": [{"tag": "sw", "uri": "s3://corpora/sw/", "credentials": "DATASET_0"}],
            "stage": "Instruction",
            "output": {"uri": "s3://adapters", "credentials": "OUTPUT"},
        }
    ).with_hash()


def check_golden(name: str, text: str) -> None:
    file = GOLDEN / name
    whole = json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(whole, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == whole


def test_an_outcome_with_a_profile_keeps_its_form() -> None:
    check_golden(
        "measure-outcome.json",
        build_outcome(build_profile(build_language())).to_termination_message(),
    )


def test_a_measure_plan_keeps_its_form() -> None:
    check_golden("measure-plan.json", build_plan().to_json())


def test_a_profile_comes_back_equal() -> None:
    outcome = build_outcome(build_profile(build_language("sw"), build_language("hi")))
    assert Outcome.from_termination_message(outcome.to_termination_message()) == outcome


def test_sixteen_languages_with_long_tags_and_huge_numbers_fit_without_detail() -> None:
    draw = random.Random(4)
    rows, tokens = 10**8, 10**11

    def build_huge(number: int) -> LanguageProfile:
        counts = {name: draw.randrange(rows // 10, rows) for name in _rows()}
        amounts = {name: draw.randrange(tokens // 10, tokens) for name in _amounts()}
        return LanguageProfile(
            tag=f"zh-cmn-hant-tw-x-{draw.randrange(10**18):018d}",
            content=f"{draw.randrange(16**12):012x}",
            script="Hant",
            mattr500=draw.random(),
            script_share=draw.random(),
            code_mixing_index=100 * draw.random(),
            truncated=tuple(draw.randrange(rows) for _ in CANDIDATE_LENGTHS),
            **{name: draw.randrange(10**7, 10**8) for name in ("p50", "p95", "p99", "longest")},
            **counts,
            **amounts,
        )

    outcome = build_outcome(
        build_profile(*(build_huge(number) for number in range(16))), message="ж" * 1024
    )
    text = outcome.to_termination_message()
    assert len(text.encode()) <= wire.TERMINATION_LIMIT_BYTES
    back = Outcome.from_termination_message(text)
    assert back is not None
    assert outcome.profile is not None
    assert back.profile == outcome.profile.without_detail()


def test_sixteen_languages_of_usual_size_come_back_whole() -> None:
    tags = [f"{letter}x" for letter in "abcdefghijklmnop"]
    outcome = build_outcome(build_profile(*(build_language(tag) for tag in tags)))
    text = outcome.to_termination_message()
    assert len(text.encode()) <= wire.TERMINATION_LIMIT_BYTES
    assert Outcome.from_termination_message(text) == outcome


def _rows() -> list[str]:
    return [
        "examples",
        "unique_examples",
        "duplicates",
        "near_duplicates",
        "validation_examples",
        "overlap",
        "unsupervised",
        "empty",
        "invalid",
        "mojibake",
    ]


def _amounts() -> list[str]:
    return [
        "tokens",
        "unique_tokens",
        "supervised_tokens",
        "characters",
        "text_tokens",
        "text_bytes",
        "words",
    ]


@pytest.mark.parametrize(
    "profile",
    [3, [], {}, {"packed": "%%%"}, {"packed": "c-m"}, {"packed": 3}, {"languages": [["sw", "x"]]}],
    ids=repr,
)
def test_a_broken_profile_is_no_outcome(profile: object) -> None:
    whole = json.loads(build_outcome(build_profile(build_language())).to_termination_message())
    whole["profile"] = profile
    assert Outcome.from_termination_message(json.dumps(whole)) is None


def test_a_row_of_an_older_release_lacks_what_it_did_not_measure() -> None:
    whole = json.loads(build_outcome(build_profile(build_language())).to_termination_message())
    whole["profile"]["languages"] = [row[:14] for row in whole["profile"]["languages"]]
    outcome = Outcome.from_termination_message(json.dumps(whole))
    assert outcome is not None
    assert outcome.profile is not None
    assert outcome.profile.languages[0].mattr500 is None


def test_examples_that_are_cut_are_known_at_the_candidates_and_above_the_longest() -> None:
    language = build_language()
    assert [language.longer_than(length) for length in (512, 1024, 1536, 3000)] == [
        570,
        200,
        None,
        0,
    ]


def test_a_length_that_every_profile_counts_changes_no_measure_plan() -> None:
    plan = build_plan()
    assert "maxSeqLength" not in json.loads(plan.to_json())
    asked = plan.model_copy(update={"max_seq_length": 300}).with_hash()
    assert asked.hash != plan.hash
    assert json.loads(asked.to_json())["maxSeqLength"] == 300


def test_one_language_with_every_length_fits_a_termination_message() -> None:
    kept = tuple(
        KeptAtLength(length, 10**7, 10**6, 10**10 + length, 10**9 + length)
        for length in sorted(COUNTED_LENGTHS)
    )
    language = build_language().model_copy(update={"longest": 200_000, "kept": kept})
    outcome = build_outcome(build_profile(language))
    text = outcome.to_termination_message()
    assert len(text.encode()) <= wire.TERMINATION_LIMIT_BYTES
    assert Outcome.from_termination_message(text) == outcome


def test_lengths_yield_where_sixteen_languages_have_too_many() -> None:
    kept = tuple(
        KeptAtLength(length, 10**7 + length, 10**6 + length, 10**10 + length, 10**9 + 7 * length)
        for length in sorted(COUNTED_LENGTHS)
    )
    language = build_language().model_copy(update={"longest": 200_000, "kept": kept})
    outcome = build_outcome(build_profile(*[language] * 16), message="x" * 1024)
    back = Outcome.from_termination_message(outcome.to_termination_message())
    assert back is not None
    assert back.profile is not None
    assert [one.examples for one in back.profile.languages] == [language.examples] * 16


def test_what_is_left_is_unknown_between_the_counted_lengths() -> None:
    at_128 = KeptAtLength(128, 9, 1, 1_000, 900)
    whole = KeptAtLength(400, 0, 1, 3_000, 2_500)
    changes = {"longest": 400, "unsupervised": 1, "kept": (at_128, whole)}
    language = build_language().model_copy(update=changes)
    assert [language.kept_at(length) for length in (128, 129, 400, 9_000)] == [
        at_128,
        None,
        whole,
        whole,
    ]


def test_an_infinite_ratio_is_refused() -> None:
    with pytest.raises(ValidationError):
        LanguageProfile.model_validate({**build_language().model_dump(), "mattr500": float("inf")})


def test_a_shape_is_picked_and_the_rest_of_the_config_is_left() -> None:
    assert pick_config_facts(LLAMA) == {
        key: value for key, value in LLAMA.items() if key not in ("architectures", "rope_scaling")
    }


def test_the_language_part_of_a_multimodal_config_stays_inside_it() -> None:
    config = {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "layer_types": ["a"]},
        "vision_config": {"hidden_size": 1152},
    }
    assert pick_config_facts(config) == {
        "model_type": "gemma3",
        "vision_config": True,
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560},
    }


def test_names_credentials_weights_and_output_do_not_change_the_measure_hash() -> None:
    plan = build_plan()
    other = plan.model_copy(
        update={
            "identity": plan.identity.model_copy(update={"name": "other", "uid": "u-2"}),
            "output": plan.output.model_copy(update={"uri": "s3://elsewhere"}),
            "model": plan.model.model_copy(update={"credentials": None}),
            "datasets": (plan.datasets[0].model_copy(update={"weight": 3}),),
        }
    )
    assert measure_hash(other) == plan.hash


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "ContinuedPretraining"},
        {"completion_only_loss": False},
        {"model": {"uri": "hf://org/other"}},
        {"datasets": [{"tag": "sw", "uri": "s3://corpora/sw2/"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_numbers_changes_the_measure_hash(change: dict[str, object]) -> None:
    plan = build_plan()
    other = MeasurePlan.model_validate({**plan.model_dump(), **change})
    assert measure_hash(other) != plan.hash
