"""`kubectl finetune languages`: the list, one language by tag or by name, and what is not known.

Golden tables lie in tests/cases/languages/; after a wanted change, write them again with
`UPDATE_GOLDEN=1 pytest tests/unit_cli/test_languages.py` and read the difference.
"""

import json
import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.languages import find_languages, list_languages

CASES = Path(__file__).parents[1] / "cases" / "languages"
RUNNER = CliRunner()


def languages(*arguments, width=80):
    result = RUNNER.invoke(app, ["languages", *arguments], env={"COLUMNS": str(width)})
    assert (result.exit_code, result.stderr) == (0, "")
    return "\n".join(line.rstrip() for line in result.stdout.splitlines()) + "\n"


def document(*arguments):
    return json.loads(languages(*arguments, "-o", "json"))


def trait(of, name):
    return next(each for each in of["traits"] if each["name"] == name)


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("tag", ["hi", "hi-Latn", "nn", "und"])
def test_table_of_a_language_is_the_golden_one(tag, width):
    path = CASES / f"{tag}-{width}.txt"
    text = languages(tag, width=width)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


@pytest.mark.parametrize("width", [80, 140])
def test_the_list_has_all_languages_and_fits_the_terminal(width):
    lines = languages(width=width).splitlines()
    assert lines[0] == "107 languages"
    assert sum(line.split()[0] in {"sw", "zh-Hans", "zu", "sq"} for line in lines if line) == 4
    assert max(map(len, lines)) <= width


def test_in_a_narrow_terminal_traits_stand_below_their_language():
    lines = languages(width=50).splitlines()
    place = lines.index("tr  Turkish")
    assert lines[place + 1] == "  Latn, Complex*, Light*, High, Far*"


def test_the_list_marks_the_guides_labels_and_the_defaults_of_a_script():
    lines = languages().splitlines()
    assert next(line.split() for line in lines if line.startswith("tr ")) == [
        *("tr", "Turkish", "Latn", "Complex*", "Light*", "High", "Far*")
    ]
    assert next(line.split() for line in lines if line.startswith("kk ")) == [
        *("kk", "Kazakh", "Cyrl", "Light?")
    ]


def test_a_wide_list_has_the_resource_class_and_the_premium_of_every_tokenizer_family():
    row = next(line for line in languages(width=140).splitlines() if line.startswith("my "))
    assert row.split()[-5:] == ["1", "8.20", "11.66", "8.93", "2.40"]


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("sw", "sw"),
        ("swahili", "sw"),
        ("SWAHILI", "sw"),
        ("swa", "sw"),
        ("maori", "mi"),
        ("norwegian", "nb"),
        ("zh-TW", "zh-Hant"),
        ("haitian creole", "ht"),
        ("kurdish", "ckb"),
    ],
)
def test_a_language_is_found_by_tag_and_by_name(text, tag):
    assert document(text)["tag"] == tag


def test_every_language_is_found_by_its_own_name_and_tag():
    lost = [
        view.tag
        for view in list_languages()
        for asked in (view.tag, view.name, view.name.upper())
        # "lao" is Lao's name and a longer tag of it as well.
        if [found.tag for found in find_languages(asked)] != [view.tag]
    ]
    assert lost == []


def test_a_name_that_several_languages_have_lists_them():
    assert [item["tag"] for item in document("chinese")["items"]] == ["zh-Hans", "zh-Hant"]


def test_every_trait_says_what_each_policy_takes_and_from_where():
    resource = trait(document("hi"), "resourceLevel")
    assert resource == {
        "name": "resourceLevel",
        "guide": {
            "value": "High",
            "source": "Guide",
            "detail": "guide's row hi (G-CL-hi, G-HT-1, G-HT-5)",
        },
        "evidence": {"value": "High", "source": "Evidence", "detail": "resource class 4 of 0-5"},
        "disputed": False,
    }


@pytest.mark.parametrize(
    ("tag", "name"),
    [("mr", "resourceLevel"), ("zh", "morphology"), ("hi", "tokenDensity"), ("ar", "tokenDensity")],
)
def test_where_databases_contradict_the_guide_the_trait_is_disputed(tag, name):
    assert trait(document(tag), name)["disputed"] is True


@pytest.mark.parametrize(("tag", "name"), [("ja", "tokenDensity"), ("en", "morphology")])
def test_where_databases_agree_nothing_is_disputed(tag, name):
    assert trait(document(tag), name)["disputed"] is False


def test_token_density_depends_on_the_tokenizer():
    of = document("hi")
    assert trait(of, "tokenDensity")["otherwise"] == (
        "by the model's tokenizer: Light with gemma3; Dense with llama2, llama31, qwen3"
    )
    assert of["tokens"][-1] == {
        "family": "gemma3",
        "charactersPerToken": 3.68,
        "premium": 1.32,
        "density": "Light",
    }


def test_a_figure_on_the_bound_gives_no_density():
    cost = next(cost for cost in document("yo")["tokens"] if cost["family"] == "gemma3")
    assert (cost["charactersPerToken"], cost["density"]) == (2.0, None)
    assert "gemma3                     2   on the bound" in languages("yo")


def test_a_tag_without_a_row_says_what_is_assumed_and_what_is_near():
    of = document("nn")
    assert (of["inCatalogue"], of["close"], of["facts"]) == (False, ["nb"], {})
    density = trait(of, "tokenDensity")["guide"]
    assert density == {"value": "Light", "source": "Script", "detail": "script Latn"}
    assert trait(of, "syntaxDistance") == {
        "name": "syntaxDistance",
        "guide": None,
        "evidence": None,
        "disputed": False,
        "otherwise": "no word order is known",
    }


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("swahilii", "did you mean sw (Swahili)? "),
        ("xx-yy", ""),
        ("tamill", "did you mean ta (Tamil)? "),
    ],
)
def test_what_is_neither_a_tag_nor_a_name_is_refused_with_what_is_near(text, hint):
    result = RUNNER.invoke(app, ["languages", text])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f'"{text}" is neither a language tag (BCP 47) nor a name in the catalogue; {hint}'
        "`kubectl finetune languages` lists all 107.\n"
    )


def test_yaml_says_the_same_as_json():
    assert yaml.safe_load(languages("ta", "-o", "yaml")) == document("ta")


def test_markdown_of_a_language_is_a_section_with_three_tables():
    text = languages("ja", "-o", "markdown")
    assert text.startswith(
        "## ja\n\nJapanese, script Jpan, in the guide as G-CL-ja G-MSL-1 G-JA-0."
    )
    assert (
        "| `syntaxDistance` | Far, the guide's label | Far, word order SOV (WALS 81A) |  |" in text
    )
    assert "| gemma3 | 1.8 | Dense | 1.21 |" in text
    assert "| SOV | order of subject, object and verb (WALS 81A) |" in text


def test_markdown_of_the_list_is_one_table():
    text = languages("-o", "markdown")
    assert "| `fi` | Finnish | Latn | Complex* | Light* | High | Near* | 4 |" in text
