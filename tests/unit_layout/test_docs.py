"""The pages that people look things up in name everything that they should."""

import re
from pathlib import Path

from tests.unit_layout.room_map import build_map, read_map

ROOT = Path(__file__).resolve().parents[2]

NO_FAILURES = frozenset(
    {
        "AlreadyDone",
        "AwaitingMeasurement",
        "Created",
        "Done",
        "Finished",
        "Measured",
        "Measuring",
        "PlanKept",
        "PlanReady",
        "PodStarting",
        "PodStopping",
        "Published",
        "Recreated",
        "LookedForFinishedWork",
        "LookingForFinishedWork",
        "Resumed",
        "Retrying",
        "RulesApplied",
        "Training",
        "Valid",
    }
)
"""Reasons of what goes well."""


def reasons_in_code() -> set[str]:
    conditions = (ROOT / "operator/finetune_operator/decide/values/conditions.py").read_text(
        encoding="utf-8"
    )
    after_types = conditions.partition("# --- Reasons")[2]
    found = set(re.findall(r': Final = "([A-Z]\w+)"', after_types))
    for module in (ROOT / "trainer-image").glob("finetune_*/**/*.py"):
        found |= set(re.findall(r'reason="([A-Z]\w+)"', module.read_text(encoding="utf-8")))
    return found - NO_FAILURES


def test_every_reason_of_a_failure_has_its_remedy() -> None:
    page = (ROOT / "docs/failures.md").read_text(encoding="utf-8")
    assert sorted(reason for reason in reasons_in_code() if f"`{reason}`" not in page) == []


def test_no_link_of_a_page_leads_nowhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/**/*.md")]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_decisions_are_counted_through_and_listed() -> None:
    folder = ROOT / "docs/decisions"
    pages = sorted(page.name for page in folder.glob("[0-9]*.md"))
    assert [int(name[:4]) for name in pages] == list(range(1, len(pages) + 1))
    index = (folder / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\d{4}-[^)]+)\)", index) == pages


def test_the_map_of_rooms_is_the_tree() -> None:
    assert read_map() == build_map(), "run `make generate`"
