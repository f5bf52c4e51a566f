"""docs/parameters.md: written from the rules, whole, and never by hand."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.resource import LoraParameters, Parameters
from finetune_resolver.parameters_page import PAGE, build_page, main
from finetune_resolver.policies.defaults import ALL_RULES
from finetune_resolver.policies.evidence import RULES as EVIDENCE
from finetune_resolver.policies.guide import RULES as GUIDE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    return build_page()


def test_the_page_in_the_repository_is_what_the_rules_say(page):
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page


def test_every_rule_of_both_policies_has_a_row(page):
    every: tuple[Any, ...] = (*GUIDE, *EVIDENCE, *ALL_RULES)
    rules = [rule.id for rule in every]
    assert [rule for rule in rules if f"\n| {rule} | " not in page] == []


def test_every_override_of_the_resource_is_named(page):
    fields = [info.alias for name, info in Parameters.model_fields.items() if name != "lora"]
    fields += [f"lora.{info.alias}" for info in LoraParameters.model_fields.values()]
    assert [field for field in fields if f"`spec.parameters.{field}`" not in page] == []


def test_every_guide_item_is_a_link_to_its_claim(page):
    claims = (ROOT / "docs" / "guide-claims.md").read_text(encoding="utf-8")
    ids = {guide_id for rule in GUIDE for guide_id in rule.guide_ids}
    missing = [one for one in sorted(ids) if f"[{one}](guide-claims.md#{one.lower()})" not in page]
    assert missing == []
    assert [one for one in sorted(ids) if f'<a id="{one.lower()}"></a>' not in claims] == []


def test_no_placeholder_of_a_message_is_left(page):
    assert "{" not in page


def test_a_page_that_differs_is_told_and_can_be_written(tmp_path, monkeypatch, capsys, page):
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    assert capsys.readouterr().err == (
        "out of date: docs/parameters.md; run `python -m finetune_resolver.parameters_page`\n"
    )
    assert main([]) == 0
    assert (tmp_path / PAGE).read_text(encoding="utf-8") == page
    assert main(["--check"]) == 0
