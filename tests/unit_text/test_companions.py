"""System message, earlier turns and passage beside a question are used, or named as unread."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.plan import PlannedColumns
from finetune_api.resource import DatasetFormat
from finetune_text.rows.columns import COMPANION_COLUMNS, Reading
from finetune_text.rows.companions import RowNotes
from finetune_text.rows.examples import Example
from finetune_text.rows.reading import build_example
from finetune_text.rows.records import Row
from finetune_text.survey.language_report import FindingKind, LanguageReport
from tests.unit_text.texts import build_tokenizer, measure, write_rows

SYSTEM = "Wewe ni karani wa mkoa. Jibu kwa heshima."
TURNS = [["Jina lako nani?", "Naitwa karani."], ["Ofisi iko wapi?", "Karibu na soko."]]
PASSAGE = "Mto huu una urefu wa kilomita kumi."


def rows_of(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    merged = {name: value for part in parts for name, value in part.items()}
    return [
        {
            name: value.replace("#", str(n + 10)) if isinstance(value, str) else value
            for name, value in merged.items()
        }
        for n in range(20)
    ]


def measured(path: Path, *parts: dict[str, Any], **dataset: Any) -> LanguageReport:
    return measure(write_rows(path / "a.jsonl", rows_of(*parts)), **dataset)


ALPACA = {"instruction": "Andika salamu #.", "output": "Habari, namba #."}
ANSWERED = {"question": "Urefu ni gani #?", "answer": "Kilomita #."}


def chat(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": role, "content": said.replace("#", str(n + 10))} for role, said in turns
            ]
        }
        for n in range(20)
    ]


def test_a_system_column_beside_a_chat_is_its_system_message(tmp_path: Path) -> None:
    turns = (("user", "Andika #."), ("assistant", "Habari #."))
    inside = chat(("system", SYSTEM), *turns)
    beside = [row | {"system": SYSTEM} for row in chat(*turns)]
    one = measure(write_rows(tmp_path / "a.jsonl", inside)).profile
    other = measure(write_rows(tmp_path / "b.jsonl", beside)).profile
    assert other == one


def test_system_and_history_beside_an_instruction_are_earlier_turns(tmp_path: Path) -> None:
    turns = [
        (role, text)
        for pair in TURNS
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    inside = chat(
        ("system", SYSTEM), *turns, ("user", "Andika salamu #."), ("assistant", "Habari, namba #.")
    )
    one = measure(write_rows(tmp_path / "b.jsonl", inside)).profile
    for history in (TURNS, json.dumps(TURNS)):
        beside = measured(tmp_path, ALPACA, {"system": SYSTEM, "history": history})
        assert (beside.profile.tokens, beside.findings) == (one.tokens, ())
        assert beside.profile.supervised_tokens == one.supervised_tokens


@pytest.mark.parametrize("name", ["context", "passage", "input"])
def test_a_passage_counts_whatever_question_and_answer_are_called(
    name: str, tmp_path: Path
) -> None:
    bare = measured(tmp_path, ANSWERED).profile
    full = measured(tmp_path, ANSWERED, {name: PASSAGE})
    alpaca = measured(
        tmp_path,
        {"instruction": ANSWERED["question"], "output": ANSWERED["answer"], "context": PASSAGE},
    )
    assert bare.tokens < full.profile.tokens == alpaca.profile.tokens
    assert not full.findings


def test_input_and_context_are_both_read(tmp_path: Path) -> None:
    one = measured(tmp_path, ALPACA, {"input": PASSAGE}).profile
    both = measured(tmp_path, ALPACA, {"input": PASSAGE, "context": SYSTEM}).profile
    assert both.tokens > one.tokens


def test_without_a_template_earlier_turns_stand_before_the_question(tmp_path: Path) -> None:
    bare = measured(tmp_path, ALPACA, tokenizer=build_tokenizer(None)).profile
    full = measured(
        tmp_path, ALPACA, {"system": SYSTEM, "history": TURNS}, tokenizer=build_tokenizer(None)
    ).profile
    assert full.tokens > bare.tokens
    assert full.supervised_tokens == bare.supervised_tokens


UNREAD: dict[str, dict[str, Any]] = {
    "a passage that is no text": {"context": {"title": ["Mto"]}},
    "turns in no known form": {"history": [["swali"]]},
    "a system message that is no text": {"system": {"a": 1}},
    "a second system message": {"system": SYSTEM, "system_prompt": "Jibu kwa ufupi."},
}


@pytest.mark.parametrize("more", UNREAD.values(), ids=list(UNREAD))
def test_what_cannot_be_used_is_named(more: dict[str, Any], tmp_path: Path) -> None:
    report = measured(tmp_path, ALPACA, more)
    assert report.count(FindingKind.UNREAD_COLUMN) == 1
    assert list(more)[-1] in report.places(FindingKind.UNREAD_COLUMN)[0].what


def test_a_system_column_that_contradicts_the_chat_is_named(tmp_path: Path) -> None:
    rows = chat(("system", SYSTEM), ("user", "Andika #."), ("assistant", "Habari #."))
    report = measure(
        write_rows(tmp_path / "a.jsonl", [row | {"system": "Kwa ufupi."} for row in rows])
    )
    assert "'system'" in report.places(FindingKind.UNREAD_COLUMN)[0].what


VALUES = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.integers(),
    st.lists(st.text(min_size=1, max_size=3), max_size=3),
    st.just(TURNS),
    st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2),
)
COMPANIONS = sorted(COMPANION_COLUMNS[DatasetFormat.INSTRUCTION] - {"tools"})


@given(st.dictionaries(st.sampled_from(COMPANIONS), VALUES))
def test_every_companion_with_a_value_is_in_the_example_or_unread(
    companions: dict[str, Any],
) -> None:
    columns = PlannedColumns(prompt="instruction", completion="output")
    reading = Reading(DatasetFormat.INSTRUCTION, columns)
    values = {"instruction": "Swali?", "output": "Jibu."}
    bare = build_example(Row(values, 1), reading, uri="a", most_characters=999, notes=RowNotes())
    assert isinstance(bare, Example)
    for name, value in companions.items():
        notes = RowNotes()
        row = Row(values | {name: value}, 1)
        built = build_example(row, reading, uri="a", most_characters=999, notes=notes)
        is_blank = value in (None, "", [], {}) or (isinstance(value, str) and not value.strip())
        assert isinstance(built, Example)
        assert is_blank or (built != bare) != (name in notes.unread)
