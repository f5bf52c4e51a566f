"""Measure at the edges: nothing to learn, one row, long rows, unknown tags, parts that templates drop."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_text.errors import TextInvalid
from finetune_text.measure import BATCH_CHARACTERS
from finetune_text.survey.language_report import MOST_PLACES, FindingKind, Place
from finetune_text.survey.near_duplicates import NearDuplicates, shingle
from finetune_text.survey.row_figures import RowFigures
from finetune_text.survey.row_store import RowStore, find_first
from finetune_text.tokenization.held_out import HASH_BYTES
from tests.unit_text.texts import build_tokenizer, build_word_tokenizer, measure, write_rows

WITHOUT_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REFUSES_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat(number: int, *, system: bool = False) -> dict[str, object]:
    first = [{"role": "system", "content": "Jibu vizuri."}] if system else []
    return {
        "messages": [
            *first,
            {"role": "user", "content": f"Swali {number}?"},
            {"role": "assistant", "content": f"Jibu {number}."},
        ]
    }


def test_a_file_with_nothing_to_learn_is_counted_and_not_a_fault_of_ours(tmp_path: Path) -> None:
    profile = measure(write_rows(tmp_path / "a.jsonl", [{"text": " "}] * 3)).profile
    assert (profile.examples, profile.empty, profile.tokens, profile.p99) == (0, 3, 0, 0)
    assert (profile.characters_per_token, profile.mattr500, profile.script_share) == (None,) * 3


def test_one_row_is_trained_on_and_never_held_out(tmp_path: Path) -> None:
    profile = measure(write_rows(tmp_path / "a.jsonl", [{"text": "habari"}])).profile
    assert (profile.examples, profile.validation_examples) == (1, 0)


def test_a_row_longer_than_a_batch_is_measured_whole(tmp_path: Path) -> None:
    text = "habari ya dunia " * (BATCH_CHARACTERS // 10)
    file = write_rows(tmp_path / "a.jsonl", [{"text": text}, {"text": "maji"}])
    report = measure(file, validation=(write_rows(tmp_path / "v.jsonl", [{"text": "jua"}]),))
    assert report.profile.characters == len(text) + len("maji")
    assert report.profile.words == 3 * BATCH_CHARACTERS // 10 + 1


def test_a_tag_that_tells_no_script_has_no_share_of_it(tmp_path: Path) -> None:
    profile = measure(write_rows(tmp_path / "a.jsonl", [{"text": "नमस्ते दुनिया"}]), tag="und").profile
    assert (profile.script, profile.script_share) == ("Deva", None)


def test_scripts_without_spaces_have_no_words_but_near_duplicates(tmp_path: Path) -> None:
    text = "我们" + "".join(chr(0x4E00 + 7 * place) for place in range(120))
    rows = [{"text": text}, {"text": text[:-1] + "的"}, {"text": text[::-1]}]
    held_out = write_rows(tmp_path / "v.jsonl", [{"text": "別"}])
    report = measure(write_rows(tmp_path / "a.jsonl", rows), tag="zh", validation=(held_out,))
    assert (report.profile.words, report.profile.mattr500) == (None, None)
    near = report.places(FindingKind.NEAR_DUPLICATE)
    assert [place.source for place in near] == ["s3://corpora/a.jsonl line 2"]


def test_what_a_template_leaves_out_is_told_once_with_the_first_line(tmp_path: Path) -> None:
    rows = [chat(number, system=number >= 2) for number in range(30)]
    report = measure(
        write_rows(tmp_path / "a.jsonl", rows), tokenizer=build_tokenizer(WITHOUT_SYSTEM)
    )
    places = report.places(FindingKind.TEMPLATE_LEAVES_OUT)
    assert [(place.source, place.what) for place in places] == [
        (
            "s3://corpora/a.jsonl line 3",
            "is the first of 28 rows of which the chat template leaves out the system message",
        )
    ]


def test_every_chat_that_a_template_does_not_take_is_told_and_none_stops_the_rest(
    tmp_path: Path,
) -> None:
    rows = [chat(number, system=number % 3 == 0) for number in range(60)]
    report = measure(
        write_rows(tmp_path / "a.jsonl", rows), tokenizer=build_tokenizer(REFUSES_SYSTEM)
    )
    refused = report.places(FindingKind.TEMPLATE_REFUSED)
    assert [place.source for place in refused] == [
        f"s3://corpora/a.jsonl line {number + 1}" for number in range(0, 60, 3)
    ]
    assert report.profile.invalid == 20
    assert report.profile.examples + report.profile.validation_examples == 40


def test_chats_without_a_template_are_refused_with_the_remedy(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [chat(1)])
    with pytest.raises(TextInvalid, match="has no chat template: expected a template"):
        measure(file, tokenizer=build_tokenizer(None))


def test_unknown_columns_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TextInvalid, match="has the columns a, b: expected messages"):
        measure(write_rows(tmp_path / "a.jsonl", [{"a": 1, "b": 2}]))


def test_text_of_which_no_token_is_predicted_is_told_with_its_line(tmp_path: Path) -> None:
    """One word is one token here, none ends it, and the first of a sequence is never predicted."""
    rows = [{"text": "w w"}, {"text": "w"}, {"text": "w w w"}]
    held_out = write_rows(tmp_path / "v.jsonl", [{"text": "w w"}])
    report = measure(
        write_rows(tmp_path / "a.jsonl", rows),
        tokenizer=build_word_tokenizer(),
        validation=(held_out,),
    )
    places = report.places(FindingKind.UNSUPERVISED)
    assert [(place.source, place.what) for place in places] == [
        ("s3://corpora/a.jsonl line 2", "has no token to learn")
    ]
    assert (report.profile.unsupervised, report.profile.supervised_tokens) == (1, 1 + 2)


def test_more_defects_than_a_person_reads_are_counted_and_the_first_named(tmp_path: Path) -> None:
    rows = [f"not json {number}" for number in range(MOST_PLACES + 7)]
    report = measure(write_rows(tmp_path / "a.jsonl", [*rows, {"text": "habari"}]))
    assert report.count(FindingKind.INVALID_ROW) == MOST_PLACES + 7
    assert len(report.places(FindingKind.INVALID_ROW)) == MOST_PLACES


def test_prompts_are_no_part_of_what_is_learned(tmp_path: Path) -> None:
    rows = [{"prompt": f"Swali {number}?", "completion": "ndiyo"} for number in range(4)]
    held_out = write_rows(tmp_path / "v.jsonl", [{"prompt": "a", "completion": "b"}])
    file = write_rows(tmp_path / "a.jsonl", rows)
    profile = measure(file, tokenizer=build_tokenizer(None), validation=(held_out,)).profile
    assert profile.characters == 4 * len("ndiyo")
    # The answers with the token that ends them.
    assert profile.supervised_tokens == profile.text_tokens + 4
    assert profile.duplicates == 0


def test_a_report_moves_to_files_of_other_names(tmp_path: Path) -> None:
    rows = [{"text": "habari ya asubuhi"}] * 2 + [{"text": "maji"}]
    held_out = write_rows(tmp_path / "v.jsonl", [{"text": "jua"}])
    report = measure(write_rows(tmp_path / "a.jsonl", rows), validation=(held_out,))
    moved = report.with_files(["s3://other/b.jsonl", "s3://other/v.jsonl"])
    place = moved.places(FindingKind.EXACT_DUPLICATE)[0]
    assert place.source == "s3://other/b.jsonl line 2"
    assert place.what == "repeats s3://other/b.jsonl line 1"


def test_a_new_name_that_is_another_files_old_one_is_not_renamed_twice() -> None:
    place = Place(source="s3://x/a.jsonl line 2", what="repeats s3://x/b.jsonl line 1")
    moved = place.moved({"s3://x/a.jsonl": "s3://x/b.jsonl", "s3://x/b.jsonl": "s3://x/c.jsonl"})
    assert moved == Place(source="s3://x/b.jsonl line 2", what="repeats s3://x/c.jsonl line 1")


def test_a_name_that_ends_another_is_left_alone() -> None:
    place = Place(source="more/a.jsonl line 2", what="")
    assert place.moved({"a.jsonl": "b.jsonl"}) == place


# --- Very many rows -----------------------------------------------------------------------------


def test_rows_beyond_the_most_are_counted_and_checked_and_not_measured(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": f"neno {number}"} for number in range(30)]
    rows[25] = "not json"
    rows[27] = {"text": " "}
    report = measure(write_rows(tmp_path / "a.jsonl", rows), most_rows=20)
    found = report.profile
    assert found.examples + found.validation_examples == 20
    assert (found.unmeasured, found.invalid, found.empty) == (8, 1, 1)
    assert report.notes == ("The first 20 rows of sw were measured; 8 more were counted alone.",)


def test_as_many_rows_as_may_be_measured_are_all_measured(tmp_path: Path) -> None:
    rows = [{"text": f"neno {number}"} for number in range(20)]
    report = measure(write_rows(tmp_path / "a.jsonl", rows), most_rows=20)
    assert (report.profile.unmeasured, report.profile.uncompared, report.notes) == (None, None, ())


def test_texts_that_come_when_there_is_no_room_are_counted_and_not_compared() -> None:
    near = NearDuplicates(most=2)
    words: Any = np.arange(50, dtype=np.uint64)
    for number in range(4):
        near.add(number, shingle(words, width=5))
    assert [found.text for found in near.find(np.ones(4, dtype=np.bool_))] == [1]
    assert (near.is_full, near.left_out) == (True, 2)


def test_the_first_wanted_row_of_a_key_is_found() -> None:
    keys = np.array([7, 9, 7, 3, 9], dtype=np.uint64)
    wanted = np.array([False, True, True, True, True])
    sought = np.array([7, 9, 3, 1, 2**63], dtype=np.uint64)
    assert find_first(keys, wanted, sought=sought).tolist() == [2, 1, 3, -1, -1]
    assert find_first(keys, np.zeros(5, dtype=np.bool_), sought=sought).tolist() == [-1] * 5


def test_a_row_takes_sixty_bytes_and_a_signature() -> None:
    store = RowStore()
    figures = RowFigures(9, 8, 1, np.array([[1, 9]]), 30, 31, 8)
    tracemalloc.start()
    for number in range(100_000):
        store.place(file=0, line=number, key=number, content=number.to_bytes(HASH_BYTES, "big"))
        store.add(figures, has_mojibake=False)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # Arrays grow by an eighth at a time.
    assert size / 100_000 < 57 * 1.125 + 1
