"""Every item of the guide, by its id: its cells resolve, its labels stand, its claims are written down."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_resolver.policies.guide import RULES

ITEMS: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[1] / "guide_ids.yaml").read_text("utf-8")
)
CLAIMS = Path(__file__).parents[3] / "docs" / "guide-claims.md"


def rows(kind: str) -> list[Any]:
    return [
        pytest.param(row, id=f"{item}-{number}")
        for item, shown in ITEMS.items()
        for number, row in enumerate(shown.get(kind, []), 1)
    ]


@pytest.mark.parametrize("cell", rows("cells"))
def test_cell_resolves_to_the_printed_value(cell, resolve_of, view_of):
    value = view_of(resolve_of(**cell["declare"]), cell["parameter"])
    allowed = cell.get("oneOf", [cell.get("value")])
    assert value in allowed
    assert all(type(value) is type(expected) for expected in allowed)


@pytest.mark.parametrize("label", rows("labels"))
def test_label_is_the_languages_trait_by_the_guide(label, resolve_of):
    traits = {trait.name: trait for trait in resolve_of(tag=label["tag"]).traits}
    assert (traits[label["trait"]].value, traits[label["trait"]].source) == (
        label["value"],
        "Guide",
    )


@pytest.mark.parametrize(
    "advice",
    [pytest.param(shown["advice"], id=item) for item, shown in ITEMS.items() if "advice" in shown],
)
def test_advice_on_adapters_is_the_guides(advice, resolve_of):
    assert resolve_of(**advice["declare"]).method.advice == advice["value"]


@pytest.mark.parametrize("item", ITEMS)
def test_item_is_written_down_once_in_our_words(item):
    assert (
        len(re.findall(rf"^\| <a id=.*></a>{item} \| \S", CLAIMS.read_text("utf-8"), re.MULTILINE))
        == 1
    )


def test_guide_has_164_items():
    assert len(ITEMS) == 164


def test_every_rule_cites_items_that_exist():
    cited = {item for rule in RULES for item in rule.guide_ids}
    assert cited - set(ITEMS) == set()


def test_every_message_cites_items_that_exist():
    text = " ".join(rule.message for rule in RULES)
    assert set(re.findall(r"G-[A-Z]+-\w+", text)) - set(ITEMS) == set()
