"""Several languages in one mixture: which one decides a trait."""

import pytest

from finetune_resolver import LanguageMeasurement, Measurements, UnsupportedSpecError


def mixture(*members):
    return [{"tag": tag, "traits": traits} for tag, traits in members]


def traits_of(resolution):
    return {trait.name: (trait.value, trait.source, trait.detail) for trait in resolution.traits}


@pytest.mark.parametrize(
    ("members", "name", "value"),
    [
        ([("es", {}), ("ja", {})], "tokenDensity", "Dense"),
        ([("es", {}), ("und", {})], "tokenDensity", "Light"),
        ([("en", {}), ("fi", {})], "morphology", "Complex"),
        ([("en", {}), ("zh", {})], "morphology", "Complex"),
        ([("en", {}), ("und", {})], "morphology", "Simple"),
        ([("en", {}), ("sw", {})], "resourceLevel", "Low"),
        ([("en", {}), ("ar", {})], "syntaxDistance", "Far"),
        ([("en", {"corpus": "Small"}), ("sw", {"corpus": "Medium"})], "corpus", "Medium"),
        ([("en", {"documents": "Short"}), ("sw", {"documents": "Long"})], "documents", "Long"),
        ([("hi", {"codeSwitching": True}), ("en", {})], "codeSwitching", True),
        ([("hi", {"codeSwitching": False}), ("en", {})], "codeSwitching", False),
    ],
)
def test_the_careful_value_wins(resolve_of, members, name, value):
    assert traits_of(resolve_of(languages=mixture(*members)))[name][0] == value


def test_a_folded_trait_names_the_language_that_decided(resolve_of):
    traits = traits_of(resolve_of(languages=mixture(("en", {}), ("fi", {"corpus": "Small"}))))
    assert traits["morphology"][1:] == ("Guide", "fi: guide's row fi (G-OP-2, G-PA-5)")
    assert traits["corpus"][1:] == ("Declared", "fi")


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        ([("zh", {}), ("ja", {})], "PA-4"),
        ([("zh", {}), ("en", {})], "PA-4"),
        ([("zh", {}), ("ko", {})], "PA-2"),
    ],
)
def test_one_inflecting_language_makes_the_mixture_inflectional(resolve_of, members, rule):
    assert resolve_of(languages=mixture(*members)).decision("lora_alpha").rule == rule


def test_traits_that_no_language_knows_stay_unset(resolve_of):
    assert set(traits_of(resolve_of(languages=mixture(("und", {}), ("und", {}))))) == {
        "codeSwitching",
        "modelDepth",
        "gpuMemory",
    }


def test_the_corpus_is_that_of_all_text_together(resolve_of):
    measured = Measurements(
        languages=(LanguageMeasurement(examples=6_000), LanguageMeasurement(examples=6_000))
    )
    languages = mixture(("en", {}), ("sw", {}))
    resolution = resolve_of(languages=languages, measurements=measured)
    assert traits_of(resolution)["corpus"] == ("Medium", "Measured", "12,000 examples")


def test_a_corpus_measured_in_part_is_no_total(resolve_of):
    measured = Measurements(languages=(LanguageMeasurement(examples=6_000),))
    languages = mixture(("en", {}), ("sw", {}))
    resolution = resolve_of(languages=languages, measurements=measured)
    assert traits_of(resolution)["corpus"] == ("Small", "Measured", "en: 6,000 examples")


def test_measured_mixing_counts_for_one_language_only(resolve_of):
    measured = Measurements(languages=(LanguageMeasurement(code_mixing_index=40.0),) * 2)
    alone = resolve_of(tag="hi", measurements=measured)
    mixed = resolve_of(languages=mixture(("hi", {}), ("en", {})), measurements=measured)
    assert alone.decision("lora_alpha").rule == "PA-1"
    assert mixed.decision("lora_alpha").rule == "PA-2"


def test_merge_is_not_resolved_as_a_mixture(resolve_of):
    with pytest.raises(UnsupportedSpecError) as refused:
        resolve_of(languages=mixture(("hi", {}), ("en", {})), multilingual={"strategy": "Merge"})
    assert str(refused.value) == (
        "spec.multilingual.strategy is Merge, which is not supported yet: expected Mixture; change the "
        "field, or apply one resource a language."
    )
