"""12,000 lines with five defects of each kind: all are found, each with its line, and none is invented."""

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from finetune_text.survey.language_report import FindingKind, LanguageReport
from tests.unit_text.texts import File, build_tokenizer, measure, write_rows

LINES = 12_000
OF_EACH = 5
Row = dict[str, Any]
Make = Callable[[random.Random, Row], Row | str | bytes]


def build_words() -> list[str]:
    draw = random.Random(7)
    syllables = [c + v for c in "bdfghjklmnprstvwyz" for v in "aeiou"]
    return ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(4000)]


WORDS = build_words()


def build_row(draw: random.Random) -> Row:
    question, answer = draw.choices(WORDS, k=8), draw.choices(WORDS, k=draw.randint(45, 60))
    return {
        "messages": [
            {"role": "user", "content": " ".join(question)},
            {"role": "assistant", "content": " ".join(answer)},
        ]
    }


def answer_of(row: Row) -> str:
    return str(row["messages"][1]["content"])


def with_answer(row: Row, answer: Any) -> Row:
    return {"messages": [row["messages"][0], {"role": "assistant", "content": answer}]}


def with_roles(row: Row, *roles: str) -> Row:
    contents = [message["content"] for message in row["messages"]]
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]}


def insert(draw: random.Random, text: str, piece: str) -> str:
    words = text.split()
    words[draw.randrange(1, len(words))] = piece
    return " ".join(words)


INVALID: dict[str, Make] = {
    "broken JSON": lambda _, row: json.dumps(row)[:-3],
    "no object": lambda _, row: json.dumps([row]),
    "not UTF-8": lambda _, row: (
        json.dumps(row).encode()[:40] + b"\xe9\xff" + json.dumps(row).encode()[40:]
    ),
    "no messages": lambda _, row: {"message": row["messages"]},
    "two users in a row": lambda _, row: with_roles(row, "user", "user"),
    "assistant first": lambda _, row: with_roles(row, "assistant", "user"),
    "unknown role": lambda _, row: with_roles(row, "user", "narrator"),
    "a number as content": lambda _, row: with_answer(row, 7),
    "half a character": lambda _, row: json.dumps(with_answer(row, "x")).replace("x", "\\ud83d"),
}
OTHERS: dict[FindingKind, Make] = {
    FindingKind.EMPTY_ROW: lambda draw, row: with_answer(row, draw.choice(["", "  \n"])),
    FindingKind.MOJIBAKE: lambda draw, row: with_answer(
        row, insert(draw, answer_of(row), draw.choice(["kÃ©fu", "â€œndiyoâ€\x9d", "fa\ufffdade"]))
    ),
    FindingKind.OTHER_SCRIPT: lambda _, row: with_answer(
        row, "यह वाक्य हिन्दी में लिखा है और यहाँ नहीं होना चाहिए " * 9
    ),
}


class Planted:
    """The file, and which line holds which defect."""

    def __init__(self, folder: Path) -> None:
        draw = random.Random(20)
        rows: list[Row | str | bytes] = [build_row(draw) for _ in range(LINES)]
        clean = [row for row in rows if isinstance(row, dict)]
        self.lines: dict[FindingKind, set[int]] = {kind: set() for kind in FindingKind}
        self.earlier: dict[int, int] = {}
        # Every defect has a line of its own, and originals of duplicates are none.
        free = draw.sample(range(3000, LINES), 300)
        for make in INVALID.values():
            self._plant(rows, clean, free, FindingKind.INVALID_ROW, partial(make, draw))
        for kind, make in OTHERS.items():
            self._plant(rows, clean, free, kind, partial(make, draw))
        for kind, change in (
            (FindingKind.EXACT_DUPLICATE, self._shout),
            (FindingKind.NEAR_DUPLICATE, self._touch),
        ):
            for _ in range(OF_EACH):
                place, original = free.pop(), draw.randrange(3000)
                rows[place] = change(clean[original])
                self.lines[kind].add(place + 1)
                self.earlier[place + 1] = original + 1
        # A row with `message` in place of `messages` is invalid; its column is also one that is
        # never read, and is listed once, at its first line.
        self.lines[FindingKind.UNREAD_COLUMN].add(
            min(
                n
                for n, row in enumerate(rows, start=1)
                if isinstance(row, dict) and "message" in row
            )
        )
        held_out: list[Row | str | bytes] = [build_row(draw) for _ in range(200)]
        for _ in range(OF_EACH):
            place, original = draw.randrange(200), draw.randrange(3000)
            held_out[place] = clean[original]
            self.lines[FindingKind.OVERLAP].add(place + 1)
        self.file = write_rows(folder / "train.jsonl", rows)
        self.held_out = write_rows(folder / "held-out.jsonl", held_out)

    def _plant(
        self,
        rows: list[Row | str | bytes],
        clean: list[Row],
        free: list[int],
        kind: FindingKind,
        make: Callable[[Row], Row | str | bytes],
    ) -> None:
        for _ in range(OF_EACH):
            place = free.pop()
            rows[place] = make(clean[place])
            self.lines[kind].add(place + 1)

    @staticmethod
    def _shout(row: Row) -> Row:
        """Change what folding takes back: case and blanks."""
        return with_answer(row, answer_of(row).upper().replace(" ", "  "))

    @staticmethod
    def _touch(row: Row) -> Row:
        """Change the last word of about fifty: nine tenths of the shingles stay."""
        return with_answer(row, " ".join([*answer_of(row).split()[:-1], "kwaheri"]))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return Planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def report(planted: Planted) -> LanguageReport:
    return measure(planted.file, validation=(planted.held_out,), tokenizer=build_tokenizer())


def found_lines(report: LanguageReport, kind: FindingKind) -> set[int]:
    places = [
        place for finding in report.findings if finding.kind is kind for place in finding.places
    ]
    return {int(place.source.rpartition(" ")[2]) for place in places}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(FindingKind), ids=lambda kind: kind.value)
def test_all_defects_of_a_kind_are_found_at_their_lines_and_no_others(
    kind: FindingKind, report: LanguageReport, planted: Planted
) -> None:
    assert found_lines(report, kind) == planted.lines[kind]
    assert report.count(kind) == len(planted.lines[kind])


@pytest.mark.slow
def test_a_duplicate_names_the_line_that_it_repeats(
    report: LanguageReport, planted: Planted
) -> None:
    named = {
        int(place.source.rpartition(" ")[2]): int(place.what.rpartition(" ")[2])
        for finding in report.findings
        if finding.kind in (FindingKind.EXACT_DUPLICATE, FindingKind.NEAR_DUPLICATE)
        for place in finding.places
    }
    assert named == planted.earlier


@pytest.mark.slow
def test_the_profile_counts_what_the_report_lists(report: LanguageReport) -> None:
    profile = report.profile
    invalid = OF_EACH * len(INVALID)
    assert (profile.invalid, profile.empty, profile.mojibake) == (invalid, OF_EACH, OF_EACH)
    assert (profile.duplicates, profile.near_duplicates, profile.overlap) == (OF_EACH,) * 3
    assert profile.examples == LINES - invalid - OF_EACH
    assert profile.unique_examples == profile.examples - 2 * OF_EACH
    assert profile.validation_examples == 200


@pytest.mark.slow
def test_every_broken_rule_is_told_with_its_remedy(report: LanguageReport) -> None:
    invalid = next(each for each in report.findings if each.kind is FindingKind.INVALID_ROW)
    assert all("; " in place.what for place in invalid.places)
    assert len({place.what.partition(" at ")[0] for place in invalid.places}) >= len(INVALID)


def test_clean_text_has_no_findings(tmp_path: Path) -> None:
    draw = random.Random(3)
    file = write_rows(tmp_path / "a.jsonl", [build_row(draw) for _ in range(300)])
    report = measure(file)
    assert report.findings == ()
    assert report.profile.unique_examples == report.profile.examples == 285


def test_a_file_of_another_form_has_the_same_figures(tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = [build_row(draw) for _ in range(40)]
    lines = write_rows(tmp_path / "a.jsonl", rows)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    assert measure(File(path, "s3://corpora/a.json")).profile == measure(lines).profile
