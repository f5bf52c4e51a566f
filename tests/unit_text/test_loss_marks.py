"""Marks of the known dialects take the loss from a message or a row, or are named with their count."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_text.rows.loss_marks import MESSAGE_MARKS, RowMarks, parse_mark
from finetune_text.survey.language_report import FindingKind, LanguageReport
from tests.unit_text.texts import measure, write_rows

ROWS = 20
BAD = "Jibu baya, lisifundishwe."
GOOD = "Samahani, jibu sahihi ni saba."


def chats(mark: dict[str, Any] | None = None, *, of: int = 1) -> list[dict[str, Any]]:
    """Return chats of four turns; `mark` stands on turn `of`."""
    rows = []
    for number in range(ROWS):
        turns: list[dict[str, Any]] = [
            {"role": "user", "content": f"Swali la {number}?"},
            {"role": "assistant", "content": BAD},
            {"role": "user", "content": f"Jaribu tena {number}."},
            {"role": "assistant", "content": GOOD},
        ]
        turns[of].update(mark or {})
        rows.append({"messages": turns})
    return rows


def pairs(**more: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Swali la {n}?", "completion": f"Jibu la {n}."}
        | {name: value(n) if callable(value) else value for name, value in more.items()}
        for n in range(ROWS)
    ]


def measured(rows: list[dict[str, Any]], path: Path, **more: Any) -> LanguageReport:
    return measure(write_rows(path / "a.jsonl", rows), **more)


NO_LOSS = [
    {"weight": 0},
    {"weight": 0.0},
    {"train": False},
    {"training": "false"},
    {"trainable": "no"},
    {"loss_mask": 0},
    {"loss": False},
    {"label": False},
    {"weight": 1, "train": False},
]


@pytest.mark.parametrize("mark", NO_LOSS, ids=str)
def test_a_marked_answer_carries_no_loss_and_is_counted(mark: Any, tmp_path: Path) -> None:
    plain = measured(chats(), tmp_path).profile
    report = measured(chats(mark), tmp_path)
    profile = report.profile
    assert profile.tokens == plain.tokens
    # Bytes are tokens of this tokenizer almost; the answer's end is one of them.
    assert profile.supervised_tokens < plain.supervised_tokens
    assert profile.text_bytes == profile.examples * len(GOOD)
    (note,) = profile.notes or ()
    name = "train" if len(mark) > 1 else next(iter(mark))
    assert note == (
        f"The loss mark {name!r} takes the loss from {ROWS} rows or messages, in {ROWS} of {ROWS} rows"
        " (first in a.jsonl line 1)."
    )


def test_marks_that_say_yes_to_answers_change_nothing(tmp_path: Path) -> None:
    plain, marked = measured(chats(), tmp_path), measured(chats({"weight": 1}), tmp_path)
    assert marked.profile == plain.profile


UNREAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "a fraction": ({"weight": 0.5}, 1, "weight"),
    "a mark of each token": ({"loss_mask": [0, 1]}, 1, "loss_mask"),
    "parts of an answer": (
        {"train_detail": [{"begin_offset": 0, "train": False}]},
        1,
        "train_detail",
    ),
    "a question that is to be learned": ({"train": True}, 0, "train"),
    "an old call": ({"function_call": {"name": "saa"}}, 1, "function_call"),
}


@pytest.mark.parametrize(("mark", "of", "name"), UNREAD.values(), ids=list(UNREAD))
def test_a_field_of_a_message_that_is_not_obeyed_is_named(
    mark: Any, of: int, name: str, tmp_path: Path
) -> None:
    report = measured(chats(mark, of=of), tmp_path)
    assert report.profile.supervised_tokens == measured(chats(), tmp_path).profile.supervised_tokens
    (place,) = report.places(FindingKind.UNREAD_COLUMN)
    assert place.what == (
        f"column 'messages[].{name}' has a value in {ROWS} of {ROWS} rows and is not read"
    )


ROW_MARKS: dict[str, dict[str, Any]] = {
    "TRL's unpaired preference": {"label": lambda n: n % 2 == 0},
    "its CSV": {"label": lambda n: str(n % 2 == 0)},
    "LLaMA-Factory's": {"kto_tag": lambda n: n % 2 == 0},
    "a weight": {"weight": lambda n: (n + 1) % 2},
    "no loss": {"loss": lambda n: n % 2 == 0},
}


@pytest.mark.parametrize("mark", ROW_MARKS.values(), ids=list(ROW_MARKS))
def test_a_row_that_is_marked_is_not_trained_on(mark: Any, tmp_path: Path) -> None:
    report = measured(pairs(**mark), tmp_path)
    assert report.profile.examples + report.profile.validation_examples == ROWS // 2
    places = report.places(FindingKind.EMPTY_ROW)
    assert (len(places), places[0].what) == (ROWS // 2, "is marked not to be learned")
    assert "takes the loss from 10 rows" in (report.profile.notes or ("",))[0]


@pytest.mark.parametrize("value", [3, 0, "positive", 0.25], ids=str)
def test_a_label_that_is_a_class_is_named_and_the_row_is_trained_on(
    value: object, tmp_path: Path
) -> None:
    report = measured(pairs(label=value), tmp_path)
    assert report.profile.examples + report.profile.validation_examples == ROWS
    assert report.count(FindingKind.UNREAD_COLUMN) == 1


def test_a_label_of_a_plain_text_is_a_class(tmp_path: Path) -> None:
    rows = [{"text": f"Maandishi ya {n}.", "label": False} for n in range(ROWS)]
    report = measured(rows, tmp_path)
    assert (report.count(FindingKind.EMPTY_ROW), report.count(FindingKind.UNREAD_COLUMN)) == (0, 1)


def test_a_column_of_the_format_is_no_mark_whatever_its_name_is(tmp_path: Path) -> None:
    rows = [{"swali": f"Swali la {n}?", "label": "false"} for n in range(ROWS)]
    named = {"columns": {"prompt": "swali", "completion": "label"}}
    assert not measured(rows, tmp_path, **named).findings


ANY = st.one_of(
    st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=6), st.lists(st.integers())
)


@given(st.dictionaries(st.sampled_from(MESSAGE_MARKS), ANY, max_size=4), st.booleans())
def test_every_mark_is_obeyed_or_named(marks: dict[str, Any], is_answer: bool) -> None:
    row = RowMarks()
    learned = row.read_message(marks, is_answer=is_answer)
    for name, value in marks.items():
        says = parse_mark(value)
        obeyed = (says is True and is_answer and name not in row.obeyed) or (
            says is False and (not is_answer or (name in row.obeyed and not learned))
        )
        assert obeyed != (name in row.unread)
    assert learned == (not row.obeyed)
