"""Tables as spreadsheets write them: commas, semicolons or tabs, by the header."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_text.rows.data_errors import Fault
from finetune_text.rows.records import SEPARATORS, Row, find_separator, read_records

ROWS = [{"question": "Bawo ni, ọ̀rẹ́?", "answer": "Dada; o ṣé."}, {"question": "a\tb", "answer": "c"}]


def write_table(path: Path, *, delimiter: str, opening: str = "") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(opening)
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["question", "answer"], *(one.values() for one in ROWS)])
    return path


@pytest.mark.parametrize("opening", ["", "\ufeff", "\r\n\r\n"])
@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")]
)
def test_a_table_is_read_by_its_separator(
    tmp_path: Path, name: str, delimiter: str, opening: str
) -> None:
    path = write_table(tmp_path / name, delimiter=delimiter, opening=opening)
    rows = list(read_records(path))
    assert [row.values for row in rows if isinstance(row, Row)] == ROWS
    first = 2 + opening.count("\n")
    assert [row.line for row in rows if isinstance(row, Row)] == [first, first + 1]


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("text", ","),
        ("", ","),
        ('"a;b;c",d', ","),
        ("question;answer", ";"),
        ("question, formal;answer", ","),
        ("a;b;c, d", ";"),
    ],
)
def test_the_header_tells_the_separator(header: str, separator: str) -> None:
    assert find_separator(header) == separator


@given(
    names=st.lists(st.text("abcäọ _", min_size=1, max_size=8), min_size=2, unique=True),
    separator=st.sampled_from(SEPARATORS),
)
def test_any_header_of_plain_names_tells_it(names: list[str], separator: str) -> None:
    assert find_separator(separator.join(names)) == separator


def test_a_row_of_another_length_is_a_fault_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question;answer\none;two;three\n", "utf-8")
    (fault,) = read_records(path)
    assert isinstance(fault, Fault)
    assert fault.problem == "has 3 fields where the header has 2"
