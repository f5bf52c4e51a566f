"""Every column is read, known to say nothing of what is learned, or named once with its rows."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_text.rows.column_census import MEANINGLESS_COLUMNS, MOST_COLUMNS, ColumnCensus
from finetune_text.survey.language_report import FindingKind
from tests.unit_text.texts import measure, write_rows

PAIR = {"prompt": "Habari?", "completion": "Nzuri."}


def pairs(**more: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Swali la {n}?", "completion": f"Jibu la {n} ni hili hapa."} | more
        for n in range(40)
    ]


def test_a_column_that_nothing_reads_is_named_with_its_rows_and_first_line(tmp_path: Path) -> None:
    rows = pairs(zamani="mazungumzo")
    rows[0].pop("zamani")
    rows[1]["zamani"] = ""
    report = measure(write_rows(tmp_path / "a.jsonl", rows))
    (place,) = report.places(FindingKind.UNREAD_COLUMN)
    assert (place.source, place.what) == (
        "s3://corpora/a.jsonl line 3",
        "column 'zamani' has a value in 38 of 40 rows and is not read",
    )
    assert report.profile.notes == (
        ("Column 'zamani' has a value in 38 of 40 rows and is not read (first in a.jsonl line 3)."),
    )


def test_several_columns_are_named_in_one_sentence(tmp_path: Path) -> None:
    rows = pairs(moja="a", mbili="b", split="test", language="en")
    report = measure(write_rows(tmp_path / "a.jsonl", rows))
    assert report.count(FindingKind.UNREAD_COLUMN) == 4
    assert report.profile.notes == (
        (
            "4 columns have values and are not read, of 40 rows: language (40: en 40), mbili (40), moja"
            " (40), split (40: test 40)."
        ),
    )


QUIET: dict[str, dict[str, Any]] = {
    "provenance": {"id": 7, "url": "https://example.org", "source": "wiki", "timestamp": "2024"},
    "the tag's own language": {"language": "sw"},
    "another code of the language": {"lang": "swh_Latn"},
    "its English name": {"Language": "Swahili"},
    "the training split": {"split": "train"},
    "columns without values": {"history": [], "system": None, "context": "", "notes": {}},
}


@pytest.mark.parametrize("more", QUIET.values(), ids=list(QUIET))
def test_columns_that_change_nothing_are_not_named(more: dict[str, Any], tmp_path: Path) -> None:
    report = measure(write_rows(tmp_path / "a.jsonl", pairs(**more)))
    assert (report.findings, report.profile.notes) == ((), None)


def test_values_that_are_false_or_zero_are_values() -> None:
    census = ColumnCensus("sw")
    for label in (False, 0, True):
        census.add(PAIR | {"label": label}, read=PAIR, file="a.jsonl", line=1)
    (column,) = census.unread()
    assert column.describe() == (
        "column 'label' has a value in 3 of 3 rows (False 1, 0 1, True 1) and is not read"
    )


def test_rows_that_each_bring_names_of_their_own_are_counted_within_bounds() -> None:
    census = ColumnCensus("sw")
    for number in range(5 * MOST_COLUMNS):
        census.add({f"c{number}": "x"}, read=(), file="a.jsonl", line=number + 1)
    assert len(census.unread()) == MOST_COLUMNS


VALUES = st.one_of(st.none(), st.just(""), st.booleans(), st.integers(), st.text(max_size=9))
ROWS = st.lists(st.dictionaries(st.text(max_size=9), VALUES, max_size=6), max_size=20)


@given(rows=ROWS, read=st.sets(st.text(max_size=9), max_size=3))
def test_every_column_with_a_value_is_read_or_meaningless_or_named(
    rows: list[dict[str, Any]], read: set[str]
) -> None:
    census = ColumnCensus("sw")
    for number, row in enumerate(rows, start=1):
        census.add(row, read=read, file="a.jsonl", line=number)
    named = {column.name for column in census.unread()}
    filled = {name for row in rows for name, value in row.items() if value not in (None, "")}
    quiet = MEANINGLESS_COLUMNS | {"lang", "split"}
    assert named | read | {name for name in filled if name.lower() in quiet} >= filled
    assert all(column.describe().isprintable() for column in census.unread())
