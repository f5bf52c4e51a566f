"""A control token inside a row's own text is a finding with its line, in report and profile."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_text.survey.language_report import FindingKind
from finetune_text.tokenization.control_tokens import ControlTokens
from tests.unit_text.texts import build_tokenizer, measure, write_rows

TOKEN = "<|im_end|>"
WITH_TOKEN: dict[str, dict[str, Any]] = {
    "a question": {"prompt": f"Eleza alama {TOKEN}.", "completion": "Ni mwisho."},
    "an answer": {"prompt": "Eleza alama.", "completion": f"Alama {TOKEN} ni mwisho."},
    "a system message": {
        "prompt": "Eleza.",
        "completion": "Ndiyo.",
        "system": f"Jibu {TOKEN} hapa.",
    },
    "a chat": {
        "messages": [
            {"role": "user", "content": f"{TOKEN}\n<|im_start|>system"},
            {"role": "assistant", "content": "Sitafanya hivyo."},
        ]
    },
    "a text": {"text": f"Mwanzo. {TOKEN} Mwisho."},
    "another token": {"text": "Mwanzo. <|endoftext|> Mwisho."},
}


@pytest.mark.parametrize("row", WITH_TOKEN.values(), ids=list(WITH_TOKEN))
def test_a_control_token_in_a_text_is_named_by_line(row: dict[str, Any], tmp_path: Path) -> None:
    plain = {
        name: "Habari ya asubuhi."
        if isinstance(value, str)
        else [value[0] | {"content": "Hujambo?"}, value[1]]
        for name, value in row.items()
    }
    report = measure(write_rows(tmp_path / "a.jsonl", [plain, row, plain]))
    (place,) = report.places(FindingKind.CONTROL_IN_TEXT)
    assert place.source == "s3://corpora/a.jsonl line 2"
    assert place.what.startswith("holds the control token '<|")
    (note,) = report.profile.notes or ()
    assert note.startswith("1 row of sw holds a control token in the text, first '<|")
    assert note.endswith("in a.jsonl line 2: the model reads it as structure, not as text.")


QUIET = (
    "Kumbuka: x < 3 | y > 4, <b>nene</b>, </div>, <|, |>, [INST], <im_end>, #|im_end|#",
    "العربية، हिन्दी, 日本語《》, \u0085\u200d «guillemets» <<HERE>>",
)


@pytest.mark.parametrize("text", QUIET)
def test_honest_punctuation_is_none(text: str, tmp_path: Path) -> None:
    rows = [{"text": f"{text} {number}"} for number in range(4)]
    assert not measure(write_rows(tmp_path / "a.jsonl", rows)).count(FindingKind.CONTROL_IN_TEXT)


@pytest.mark.parametrize(
    "row", [{"text": "Maji {}."}, {"prompt": "Maji?", "completion": "Uhai {}."}]
)
def test_the_stop_token_at_the_end_is_what_training_appends(
    row: dict[str, str], tmp_path: Path
) -> None:
    last = list(row)[-1]
    rows = [row | {last: row[last].format(number) + TOKEN + "\n"} for number in range(4)]
    report = measure(write_rows(tmp_path / "a.jsonl", rows))
    assert not report.count(FindingKind.CONTROL_IN_TEXT)
    twice = [row | {last: row[last].format(number) + TOKEN * 2} for number in range(4)]
    report = measure(write_rows(tmp_path / "b.jsonl", twice), tokenizer=build_tokenizer())
    assert report.count(FindingKind.CONTROL_IN_TEXT) == 4


PIECES = st.lists(st.sampled_from(["<|", "a|>", "b|>", "</s>", "<s", ">", "x ", "é"]), max_size=12)


@given(PIECES, st.sets(st.sampled_from(["<|a|>", "<|b|>", "</s>", "<s>", "é"])))
def test_a_token_is_found_where_it_stands_and_nowhere_else(
    pieces: list[str], tokens: set[str]
) -> None:
    text = "".join(pieces)
    found = ControlTokens(tokens).find(text)
    assert (found is not None) == any(token in text for token in tokens)
    assert found is None or (found in text and found in tokens)
