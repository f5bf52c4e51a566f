"""What a length leaves of a text is what the trainer keeps of it, at every length."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.plan import PlannedDataset
from finetune_api.profile import KeptAtLength, LanguageProfile
from finetune_text.rows.examples import Example
from finetune_text.rows.reading import read_file
from finetune_text.survey.lengths import AnswerRuns, build_profiles, lengths_to_count, round_up
from finetune_text.tokenization.sequences import Sequencer, TokenizationRules
from finetune_text.tokenization.tally import Tally
from tests.unit_text.texts import File, build_tokenizer, measure, write_rows

WORDS = st.integers(min_value=1, max_value=60).map(lambda number: " ".join(["habari"] * number))
TURNS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4)


def as_chat(turns: list[tuple[str, str]]) -> dict[str, Any]:
    messages = []
    for asked, answered in turns:
        messages += [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answered},
        ]
    return {"messages": messages}


CORPORA = st.one_of(
    st.lists(TURNS.map(as_chat), min_size=1, max_size=8),
    st.lists(WORDS.map(lambda text: {"text": text}), min_size=1, max_size=8),
    st.lists(
        st.tuples(WORDS, WORDS).map(lambda pair: {"prompt": pair[0], "completion": pair[1]}),
        min_size=1,
        max_size=8,
    ),
)


def cut_as_training_does(file: File, *, limit: int) -> KeptAtLength:
    sequencer = Sequencer(
        build_tokenizer(), rules=TokenizationRules(max_seq_length=limit), generation={}
    )
    rows = read_file(PlannedDataset(tag="sw", uri="s3://corpora/"), file)
    tally = Tally()
    made = list(sequencer.read((row for row in rows if isinstance(row, Example)), tally))
    return KeptAtLength(
        length=limit,
        truncated=tally.truncated,
        unlearnable=tally.skipped,
        tokens=sum(len(one.input_ids) for one in made),
        supervised_tokens=sum(one.supervised_tokens for one in made),
    )


def profile_of(folder: Path, rows: list[dict[str, Any]], *, limit: int) -> LanguageProfile:
    held_out = write_rows(folder / "held-out.jsonl", [{"text": "maji"}])
    file = write_rows(folder / "rows.jsonl", rows)
    report = measure(file, validation=(held_out,), max_seq_length=limit)
    (profile,) = build_profiles([report], lengths=(limit,))
    return profile


@settings(max_examples=60, deadline=None)
@given(rows=CORPORA, limit=st.integers(min_value=1, max_value=400))
def test_a_profile_knows_what_training_keeps_at_the_declared_length(
    rows: list[dict[str, Any]], limit: int
) -> None:
    with TemporaryDirectory() as folder:
        profile = profile_of(Path(folder), rows, limit=limit)
        kept = profile.kept_at(limit)
        assert kept is not None
        file = File(Path(folder) / "rows.jsonl", "s3://corpora/rows.jsonl")
        expected = cut_as_training_does(file, limit=limit)
        assert kept._replace(length=limit) == expected
        assert profile.longer_than(limit) == expected.truncated


def test_plain_texts_of_a_thousand_tokens_lose_three_quarters_at_256(tmp_path: Path) -> None:
    rows = [{"text": f"{number} " + " ".join(["habari"] * 999)} for number in range(20)]
    profile = profile_of(tmp_path, rows, limit=256)
    kept = profile.kept_at(256)
    assert kept is not None
    assert (kept.truncated, kept.unlearnable, kept.tokens) == (20, 0, 20 * 256)


@pytest.mark.parametrize(
    ("longest", "p99", "declared", "expected"),
    [
        (100, 90, None, (100, 512, 1024, 2048, 4096, 8192)),
        (400, 390, 300, (128, 256, 300, 384, 400, 512, 1024, 2048, 4096, 8192)),
    ],
    ids=["short texts", "a declared length"],
)
def test_the_lengths_that_a_run_may_have_are_counted(
    longest: int, p99: int, declared: int | None, expected: tuple[int, ...]
) -> None:
    assert lengths_to_count(longest=longest, p99=p99, declared=declared) == expected


def test_the_length_of_the_99th_percentile_is_counted_however_long_it_is() -> None:
    assert 100_096 in lengths_to_count(longest=100_200, p99=100_000, declared=None)


def test_a_mixture_counts_each_text_at_the_length_of_the_longest(tmp_path: Path) -> None:
    texts = {"a": "maji " * 900, "b": "maji " * 100}
    reports = [
        measure(write_rows(tmp_path / f"{name}.jsonl", [{"text": text}] * 200))
        for name, text in texts.items()
    ]
    length = round_up(max(report.profile.p99 for report in reports))
    profiles = build_profiles(reports)
    assert [profile.kept_at(length) is not None for profile in profiles] == [True, True]


def test_answers_beyond_what_is_remembered_leave_the_supervised_tokens_unknown() -> None:
    runs = AnswerRuns(most=3)
    runs.add(0, np.array([[1, 2], [4, 6]]))
    runs.add(1, np.array([[1, 2], [4, 6]]))
    assert (list(runs.row), runs.is_full) == ([0, 0], True)
