"""What tells how many tokens a language takes against English, and where nothing does."""

import pytest

from finetune_api.profile import LanguageProfile, Profile, TokenizerProfile
from finetune_api.resource import LanguageFinetuneSpec
from finetune_resolver import build_measurements, corpus_statuses, resolve
from finetune_resolver.traits.catalogue import find
from finetune_resolver.traits.token_premium import estimate_token_premium


def premium_of(tag, *, family="", here=None, english=None):
    return estimate_token_premium(
        find(tag), family=family, bytes_per_token=here, english_bytes_per_token=english
    )


def profile_of(*, family: str) -> Profile:
    text = LanguageProfile(
        tag="am",
        examples=100,
        unique_examples=100,
        tokens=5 * 10**9,
        unique_tokens=5 * 10**9,
        supervised_tokens=5 * 10**9,
        p50=1,
        p95=1,
        p99=1,
        longest=1,
        characters=10**9,
        text_tokens=10**9,
        text_bytes=25 * 10**8,
    )
    tokenizer = TokenizerProfile(
        sha256="0" * 64, family=family, vocabulary=1, english_bytes_per_token=4.5
    )
    return Profile(tokenizer=tokenizer, languages=(text,))


def test_a_family_that_was_counted_on_parallel_text_tells_before_any_estimate():
    assert premium_of("hi", family="gemma3", here=1.0, english=9.0) == 1.32


def test_another_tokenizer_is_estimated_from_bytes():
    bytes_against_english = find("hi").facts.byte_premium
    assert bytes_against_english is not None
    assert premium_of("hi", here=6.0, english=4.5) == pytest.approx(bytes_against_english * 0.75)


@pytest.mark.parametrize("known", [{"here": 6.0}, {"english": 4.5}, {}])
def test_half_of_what_an_estimate_needs_tells_nothing(known):
    assert premium_of("hi", **known) is None


def test_romanised_text_takes_no_bytes_of_the_catalogues_script():
    assert premium_of("hi-Latn", family="gemma3", here=3.0, english=4.5) is None
    assert premium_of("und", family="gemma3", here=3.0, english=4.5) is None


@pytest.mark.parametrize(("family", "shown"), [("llama31", "7.71"), ("", "3.13")])
def test_status_shows_the_premium_of_the_tokenizer_that_counted(family, shown):
    [corpus] = corpus_statuses(profile_of(family=family), max_seq_length=None)
    assert corpus.token_premium == shown


def test_the_tokenizer_that_was_seen_counts_before_the_models_name():
    """A claim's path tells no family; the vocabulary does."""
    spec = LanguageFinetuneSpec.model_validate(
        {
            "model": {"uri": "pvc://models/base"},
            "languages": [{"tag": "am", "dataset": {"uri": "s3://corpora/text/"}}],
            "output": {"uri": "s3://adapters/"},
            "stage": "ContinuedPretraining",
            "policy": "Evidence",
        }
    )
    measured = build_measurements(spec, profile_of(family="llama31"))
    corpus = next(t for t in resolve(spec, measured=measured).traits if t.name == "corpus")
    assert corpus.detail == "648,508,431 unique tokens by English's measure"
