"""What a row that breaks a rule does: refuse the corpus, or be left out, counted and named."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.plan import PlannedDataset
from finetune_api.resource import BadRowPolicy
from finetune_text.rows.bad_rows import has_too_many
from finetune_text.survey.language_report import FindingKind, LanguageReport
from tests.unit_text.texts import File, measure

GOOD = [json.dumps({"text": f"habari ya {n} asubuhi"}) for n in range(40)]


def measure_lines(folder: Path, lines: list[str], **dataset: Any) -> LanguageReport:
    path = folder / "a.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return measure(File(path, "a.jsonl"), **dataset)


BAD = {
    "broken JSON": '{"text": "habari',
    "a number": '{"text": 7}',
    "half a character": '{"text": "\\ud83d"}',
    "no object": "[]",
    "too long": json.dumps({"text": "neno " * 500}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
def test_a_bad_row_is_left_out_and_named_where_that_is_wanted(bad: str, tmp_path: Path) -> None:
    lines = [*GOOD[:20], bad, *GOOD[20:]]
    report = measure_lines(tmp_path, lines, on_bad_row=BadRowPolicy.SKIP, max_row_characters=2_000)
    profile = report.profile
    assert profile.examples + profile.validation_examples == 40
    assert (profile.skipped, profile.invalid) == (1, 0)
    assert [place.source for place in report.places(FindingKind.SKIPPED_ROW)] == ["a.jsonl line 21"]
    assert profile.first_place("SkippedRow") == "a.jsonl line 21"


def test_without_it_the_same_row_refuses_the_corpus(tmp_path: Path) -> None:
    report = measure_lines(tmp_path, [*GOOD, BAD["a number"]])
    assert (report.profile.skipped, report.profile.invalid) == (None, 1)


def test_more_than_one_row_in_ten_refuses_the_corpus_under_either(tmp_path: Path) -> None:
    report = measure_lines(tmp_path, [*GOOD, *["{"] * 5], on_bad_row=BadRowPolicy.SKIP)
    assert (report.profile.skipped, report.profile.invalid) == (None, 5)
    assert report.count(FindingKind.SKIPPED_ROW) == 0


def test_a_file_that_ends_too_early_is_never_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"[{', '.join(GOOD)}, {{", encoding="utf-8")
    report = measure(File(path, "a.json"), on_bad_row=BadRowPolicy.SKIP)
    assert (report.profile.skipped, report.profile.invalid) == (None, 1)


@pytest.mark.parametrize(
    ("skipped", "rows", "expected"),
    [(0, 0, False), (1, 1, False), (1, 2, False), (2, 19, True), (2, 20, False), (11, 100, True)],
)
def test_a_tenth_of_the_rows_and_always_a_single_one_may_be_skipped(
    *, skipped: int, rows: int, expected: bool
) -> None:
    assert has_too_many(skipped, rows=rows) is expected


def test_a_plan_with_the_defaults_is_written_as_before_they_existed() -> None:
    plan = PlannedDataset(tag="sw", uri="s3://corpora/")
    for by_alias in (True, False):
        written = plan.model_dump(mode="json", by_alias=by_alias)
        assert not {"onBadRow", "on_bad_row", "maxRowCharacters", "max_row_characters"} & set(
            written
        )
    changed = plan.model_copy(update={"on_bad_row": BadRowPolicy.SKIP, "max_row_characters": 5_000})
    assert changed.model_dump(mode="json", by_alias=True) == plan.model_dump(
        mode="json", by_alias=True
    ) | {"onBadRow": "Skip", "maxRowCharacters": 5_000}
    assert PlannedDataset.model_validate_json(changed.model_dump_json(by_alias=True)) == changed
