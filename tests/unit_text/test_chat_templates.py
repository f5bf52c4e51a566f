"""What a template does not render is never learned: content as parts, turns that are left out, calls."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_text.rows.examples import Example, Message
from finetune_text.survey.language_report import FindingKind
from finetune_text.tokenization.chat_rendering import reads_parts, render_chat
from tests.unit_text.texts import CHATML, build_tokenizer, measure, write_rows

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INDEXED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content[0].text }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EITHER = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SILENT = CHATML.replace("{{ m['content'] }}", "")
LAST_ONLY = CHATML.replace(
    "{{ m['content'] }}", "{% if m['role'] == 'user' or loop.last %}{{ m['content'] }}{% endif %}"
)
ROWS = 12


def rows(*, as_parts: bool = False) -> list[dict[str, Any]]:
    def said(text: str) -> Any:
        return [{"type": "text", "text": text}] if as_parts else text

    return [
        {
            "messages": [
                {"role": "user", "content": said(f"Bei ya mchele namba {n}?")},
                {"role": "assistant", "content": said(f"Bei leo ni shilingi {n}.")},
            ]
        }
        for n in range(10, 10 + ROWS)
    ]


@pytest.mark.parametrize("template", [PARTS, INDEXED, EITHER], ids=["parts", "indexed", "either"])
@pytest.mark.parametrize("as_parts", [False, True])
def test_content_has_the_form_that_the_template_reads(
    template: str, as_parts: bool, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "a.jsonl", rows(as_parts=as_parts))
    plain = measure(file, tokenizer=build_tokenizer(CHATML)).profile
    found = measure(file, tokenizer=build_tokenizer(template)).profile
    assert (found.tokens, found.supervised_tokens) == (plain.tokens, plain.supervised_tokens)


def test_only_a_template_that_shows_nothing_of_a_string_reads_parts() -> None:
    found = [
        reads_parts(build_tokenizer(each)) for each in (PARTS, INDEXED, EITHER, CHATML, SILENT)
    ]
    assert found == [True, True, False, False, False]


def test_answers_that_no_form_shows_are_not_learned(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", rows())
    report = measure(file, tokenizer=build_tokenizer(SILENT))
    assert report.profile.supervised_tokens == 0
    assert report.count(FindingKind.UNSUPERVISED) == ROWS
    assert (
        f"The chat template leaves out an answer in {ROWS} rows of sw, first in a.jsonl line 1."
        in (report.profile.notes or ())
    )


CALL = {"function": {"name": "saa", "arguments": {"mji": "Dodoma"}}}


def with_call() -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"Saa ngapi {n}?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "saa kumi"},
                {"role": "assistant", "content": f"Ni saa kumi {n}."},
            ]
        }
        for n in range(10, 10 + ROWS)
    ]


def test_a_turn_whose_call_is_left_out_carries_no_loss_and_every_row_is_counted(
    tmp_path: Path,
) -> None:
    report = measure(write_rows(tmp_path / "a.jsonl", with_call()))
    without = [{"messages": [row["messages"][0], row["messages"][3]]} for row in with_call()]
    plain = measure(write_rows(tmp_path / "b.jsonl", without))
    assert report.profile.supervised_tokens == plain.profile.supervised_tokens
    assert report.count(FindingKind.TEMPLATE_LEAVES_OUT) == ROWS
    assert report.profile.notes == (
        f"The chat template leaves out a tool call in {ROWS} rows of sw, first in a.jsonl line 1.",
    )
    assert report.profile.first_places == ("TemplateLeavesOut a.jsonl line 1",)


WORDS = st.text(alphabet="ab <|>\n.é", max_size=6)


@given(
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4),
    st.sampled_from([CHATML, LAST_ONLY, PARTS, SILENT]),
)
def test_what_is_learned_says_an_answer_of_the_chat(
    turns: list[tuple[str, str]], template: str
) -> None:
    tokenizer = build_tokenizer(template)
    messages = tuple(
        Message(role, said)
        for turn in turns
        for role, said in zip(("user", "assistant"), turn, strict=True)
    )
    rendered = render_chat(
        tokenizer, Example(source="", messages=messages), has_parts=reads_parts(tokenizer)
    )
    answers = {message.content.strip() for message in messages if message.role == "assistant"}
    said = [rendered.text[span.start : span.end].strip() for span in rendered.said]
    assert set(said) <= answers - {""}
    if template in (CHATML, PARTS):
        assert said == [answer.strip() for _, answer in turns if answer.strip()]
    if template == LAST_ONLY:
        assert len(said) <= 1
    if template == SILENT:
        assert not said
