"""The catalogue's schema, and how a tag finds its row."""

from pathlib import Path

import langcodes
import pytest
import yaml

from finetune_resolver import UnknownLanguageError
from finetune_resolver.traits.catalogue import find, load_catalogue

ITEMS = yaml.safe_load((Path(__file__).parents[1] / "guide_ids.yaml").read_text("utf-8"))
ROWS = load_catalogue()
NOTICE = (Path(__file__).parents[3] / "NOTICE").read_text("utf-8")


def test_the_catalogue_has_107_languages():
    assert len(ROWS) == 107


@pytest.mark.parametrize("tag", ROWS)
def test_row_is_sound(tag):
    row = ROWS[tag]
    assert tag == langcodes.standardize_tag(tag)
    assert row.script == langcodes.Language.get(tag).maximize().script
    chars = [chars for chars, _ in row.evidence.tokens.values()]
    premiums = [token_premium for _, token_premium in row.evidence.tokens.values()]
    assert set(row.evidence.tokens) == {"llama2", "llama31", "qwen3", "gemma3"}
    assert all(0.3 <= value <= 6 for value in chars)
    assert all(0.8 <= value <= 16 for value in premiums)


@pytest.mark.parametrize("tag", [tag for tag, row in ROWS.items() if row.guide.ids])
def test_the_guides_labels_cite_items_that_exist(tag):
    assert set(ROWS[tag].guide.ids) - set(ITEMS) == set()


@pytest.mark.parametrize("tag", [tag for tag, row in ROWS.items() if not row.guide.ids])
def test_a_row_without_items_has_no_labels(tag):
    assert ROWS[tag].guide.model_dump(exclude_none=True) == {"ids": ()}


@pytest.mark.parametrize("source", ["World Atlas", "Joshi", "FineWeb-2", "FLORES-200", "langcodes"])
def test_notice_names_every_source(source):
    assert source in NOTICE


@pytest.mark.parametrize(
    ("tag", "row", "script", "other_script"),
    [
        ("zh", "zh-Hans", "Hans", False),
        ("zh-TW", "zh-Hant", "Hant", False),
        ("zh-HK", "zh-Hant", "Hant", False),
        ("cmn", "zh-Hans", "Hans", False),
        ("yue", "yue-Hant", "Hant", False),
        ("ko", "ko", "Kore", False),
        ("no", "nb", "Latn", False),
        ("SW", "sw", "Latn", False),
        ("swa", "sw", "Latn", False),
        ("sw-KE", "sw", "Latn", False),
        ("arb", "ar", "Arab", False),
        ("arz", "arz", "Arab", False),
        ("tl", "fil", "Latn", False),
        ("hi-Latn", "hi", "Latn", True),
        ("pa-PK", "pa", "Arab", True),
        ("sr-Latn", "sr", "Latn", True),
        ("zh-Latn", "zh-Hans", "Latn", True),
        ("und", "", "", False),
        ("und-Deva", "", "Deva", False),
        ("x-made-up", "", "", False),
        ("kab", "", "Latn", False),
    ],
)
def test_tag_finds_the_most_specific_row(tag, row, script, other_script):
    found = find(tag)
    assert (found.row_tag, found.script, found.other_script) == (row, script, other_script)


def test_a_language_without_a_row_resolves_by_script_and_names_its_neighbour(resolve_of):
    resolution = resolve_of(tag="nn", corpus="Small")
    assert resolution.value("batch_size") == 16
    warning = resolution.warnings[0]
    assert (warning.id, warning.message) == (
        "language-not-in-catalogue",
        (
            "Language nn is not in the catalogue: only its script (Latn) and what is declared or measured "
            "decide. The nearest language in it is nb. Declare traits where you know them."
        ),
    )


def test_a_private_tag_resolves_by_declared_traits_alone(resolve_of):
    assert resolve_of(tag="x-made-up").warnings[0].message == (
        "Language x-made-up is not in the catalogue: only declared traits and what is declared or "
        "measured decide. Declare traits where you know them."
    )


def test_another_script_is_told(resolve_of):
    advice = next(a for a in resolve_of(tag="hi-Latn").warnings if a.id == "catalogue-other-script")
    assert advice.message == (
        "Language hi-Latn is written in Latn and the catalogue's row hi in another script: its "
        "grammar counts, its token density does not."
    )


@pytest.mark.parametrize(
    ("tag", "hint"),
    [
        ("swa-hili", "; did you mean sw?"),
        ("swahili", "; did you mean sw?"),
        ("hindi", "; did you mean hi?"),
        ("xx-yy", "."),
        ("sw-tttttttttttt", "; did you mean sw?"),
    ],
)
def test_a_tag_that_is_no_language_is_refused_with_what_is_near(tag, hint):
    with pytest.raises(UnknownLanguageError) as refused:
        find(tag)
    assert str(refused.value) == (
        f'Language tag "{tag}" is not a language, expected a BCP 47 tag such as sw, zh-Hans or '
        f"pa-Arab{hint} Correct the tag, or write und and declare the traits."
    )
