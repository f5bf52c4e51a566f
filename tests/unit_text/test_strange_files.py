"""Strange files: other encodings, halves of characters, depth, size; reported by line, never a traceback."""

import gzip
import io
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from finetune_text.errors import TextInvalid
from finetune_text.rows.data_errors import Fault
from finetune_text.rows.lines import MOST_LINE_BYTES
from finetune_text.rows.records import MOST_CSV_COLUMNS, PARQUET_BATCH_BYTES, Row, read_records
from finetune_text.survey.language_report import FindingKind, LanguageReport
from tests.unit_text.texts import File, measure

GOOD = '{"text": "habari ya asubuhi"}\n{"text": "maji ni uhai"}\n{"text": "jua linawaka"}\n'
UTF8 = "text must be UTF-8; convert the file"
ONE_OBJECT = "each line must hold one JSON object; correct the line"
ARRAY = "a .json file must hold a list of objects, or one object a line; correct the file"
HALF = "a surrogate must have its other half; correct the row"
CSV = "a .csv file must have a header and as many fields in every row; quote commas and line ends"
DEEP = "[" * 100_000 + "]" * 100_000


def measure_bytes(folder: Path, name: str, content: str | bytes) -> LanguageReport:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return measure(File(path, name))


def rows_of(report: LanguageReport) -> int:
    return report.profile.examples + report.profile.validation_examples


def chat(**more: Any) -> str:
    asked = {"role": "user", "content": "Habari?"} | more.pop("user", {})
    said = {"role": "assistant", "content": "Nzuri."} | more.pop("assistant", {})
    return json.dumps({"messages": [asked, said], **more}) + "\n"


def call(arguments: Any) -> dict[str, Any]:
    return {"tool_calls": [{"function": {"name": "tafuta", "arguments": arguments}}]}


def nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def to_parquet(table: pyarrow.Table) -> bytes:
    written = io.BytesIO()
    pyarrow.parquet.write_table(table, written)
    return written.getvalue()


BAD_TEXT = pyarrow.Array.from_buffers(
    pyarrow.string(),
    2,
    [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"a\xff")],
)
TEXTS = ["habari", "maji"]

REFUSED = {
    "UTF-16 with its mark": (
        "a.jsonl",
        GOOD.encode("utf-16"),
        f"a.jsonl is UTF-16 by its first bytes and not UTF-8; {UTF8}",
    ),
    "UTF-32 with its mark": (
        "a.csv",
        "text\nhabari\n".encode("utf-32"),
        f"a.csv is UTF-32 by its first bytes and not UTF-8; {UTF8}",
    ),
    "UTF-16 without a mark": (
        "a.json",
        GOOD.encode("utf-16-be"),
        (
            "a.json begins with a zero byte among its first four, as UTF-16 and binary files do;"
            f" {UTF8}"
        ),
    ),
    "a binary file": (
        "a.txt",
        bytes(1000),
        (
            "a.txt begins with a zero byte among its first four, as UTF-16 and binary files do;"
            f" {UTF8}"
        ),
    ),
    "another encoding in a list": (
        "a.json",
        b'[{"text": "habari"},\n {"text": "caf\xe9"}]',
        f"a.json line 2 is not UTF-8: byte 0xe9 at byte 15; {UTF8}",
    ),
    "a cut character at the end of a list": (
        "a.json",
        '[{"text": "habari é'.encode()[:-1],
        f"a.json line 1 is not UTF-8: byte 0xc3 at byte 19; {UTF8}",
    ),
    "depth": (
        "a.jsonl",
        f'{{"text": "a", "x": {DEEP}}}\n{GOOD}',
        f"a.jsonl line 1 holds lists and objects that are nested too deeply; {ONE_OBJECT}",
    ),
    "depth in a list": (
        "a.json",
        f'[{{"text": "a"}},\n{DEEP}]',
        f"a.json line 2 is not valid JSON: lists and objects that are nested too deeply; {ARRAY}",
    ),
    "a number without end": (
        "a.jsonl",
        f'{{"text": "a", "id": {"9" * 5000}}}\n{GOOD}',
        f"a.jsonl line 1 holds a number of more than 4,300 digits; {ONE_OBJECT}",
    ),
    "a second list after the first": (
        "a.json",
        '[{"text": "habari"}]\n[{"text": "maji"}]\n',
        f"a.json line 2 is not valid JSON: expected nothing after the list; {ARRAY}",
    ),
    "half a character in a name": (
        "a.jsonl",
        chat(user={"name": "\ud83d"}),
        f"a.jsonl line 1 has half a character in name of message 1 (\\ud83d at character 1); {HALF}",
    ),
    "half a character in a call": (
        "a.jsonl",
        chat(assistant=call({"mji": "\ud83d"})),
        (
            "a.jsonl line 1 has half a character in a tool call of message 2 (\\ud83d at character 75);"
            f" {HALF}"
        ),
    ),
    "half a character in the tools": (
        "a.jsonl",
        chat(tools=[{"name": "\ud83d"}]),
        f"a.jsonl line 1 has half a character in column 'tools' (\\ud83d at character 12); {HALF}",
    ),
    "depth in a call": (
        "a.jsonl",
        chat(assistant=call(nest(900))),
        (
            "a.jsonl line 1 has lists and objects in a tool call of message 2 that are more than 64 deep;"
            " no template writes them; correct the row"
        ),
    ),
    "a role that is a page": (
        "a.jsonl",
        chat(user={"role": "m" * 10_000}),
        (
            "a.jsonl line 1 has the role 'mmmmmmmmmmmm...mmmmmmmmmmmmm' in message 1; a role must be"
            " system, user, assistant or tool; correct the message"
        ),
    ),
    "a column that stands twice": (
        "a.csv",
        "text,text\nhabari,maji\n",
        (
            "a.csv line 1 has the column 'text' more than once; the columns of a .csv file must have"
            " different names; rename or drop one"
        ),
    ),
    "a quote that nothing closes": (
        "a.csv",
        'text\nhabari\n"maji\njua\nmoto\n',
        f"a.csv line 3 begins a row that is not valid CSV: unexpected end of data; {CSV}",
    ),
    "text of Parquet that is no UTF-8": (
        "a.parquet",
        to_parquet(pyarrow.table({"text": BAD_TEXT})),
        "a.parquet is not UTF-8; text must be UTF-8; write the file again",
    ),
    "a date of Parquet that no calendar has": (
        "a.parquet",
        to_parquet(
            pyarrow.table({"text": TEXTS, "at": pyarrow.array([2**30, 1], pyarrow.date32())})
        ),
        (
            "a.parquet cannot be read: days=1073741824; must have magnitude <= 999999999; a date or"
            " duration is out of range; correct or drop its column"
        ),
    ),
    "bytes in Parquet": (
        "a.parquet",
        to_parquet(pyarrow.table({"text": [b"habari"]})),
        "a.parquet line 1 has bytes in column 'text'; it must be text; correct the row",
    ),
}


@pytest.mark.parametrize(("name", "content", "reported"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_learned_from_is_told_with_its_place(
    name: str, content: str | bytes, reported: str, tmp_path: Path
) -> None:
    report = measure_bytes(tmp_path, name, content)
    place = report.places(FindingKind.INVALID_ROW)[0]
    assert f"{place.source} {place.what}" == reported
    assert report.profile.invalid >= 1


READ = {
    "a byte order mark": ("a.jsonl", b"\xef\xbb\xbf" + GOOD.encode(), 3),
    "a byte order mark before a list": ("a.json", b'\xef\xbb\xbf[{"text": "a"}]', 1),
    "a byte order mark before a header": ("a.csv", b"\xef\xbb\xbftext\nhabari\n", 1),
    "nothing but a byte order mark": ("a.txt", b"\xef\xbb\xbf", 0),
    "carriage returns": ("a.jsonl", GOOD.replace("\n", "\r\n"), 3),
    "blank lines": ("a.jsonl", f"\n \n{GOOD}\n\t\n", 3),
    "blank lines before a header": ("a.csv", "\n\ntext\nhabari\n", 1),
    "the separators of other line ends": ("a.jsonl", '{"text": "a\u2028b\u2029c"}\n', 1),
    "one object around a list on one line": (
        "a.json",
        '{"version": 1, "data": [{"text": "habari"}, {"text": "maji"}]}',
        2,
    ),
    "emoji": ("a.txt", "😀😀\n👩\u200d👧\n🇰🇪\n", 3),
    "right to left": ("a.txt", "שלום עולם\nمرحبا بالعالم\n\u202eabc\u202c\n", 3),
    "joiners and marks alone": ("a.txt", "\u200b\u200d\n" + "\u0301" * 50_000 + "\n", 2),
    "several archives in one": (
        "a.txt.gz",
        gzip.compress(b"habari\n") + gzip.compress(b"maji\n"),
        2,
    ),
    "dictionaries in Parquet": (
        "a.parquet",
        to_parquet(pyarrow.table({"text": pyarrow.array(TEXTS * 9).dictionary_encode()})),
        18,
    ),
    "large text in Parquet": (
        "a.parquet.gz",
        gzip.compress(
            to_parquet(pyarrow.table({"text": pyarrow.array(TEXTS, pyarrow.large_string())}))
        ),
        2,
    ),
    "Parquet without rows": (
        "a.parquet",
        to_parquet(pyarrow.table({"text": pyarrow.array([], "string")})),
        0,
    ),
}


@pytest.mark.parametrize(("name", "content", "rows"), READ.values(), ids=list(READ))
def test_what_looks_strange_and_is_well_is_read(
    name: str, content: str | bytes, rows: int, tmp_path: Path
) -> None:
    report = measure_bytes(tmp_path, name, content)
    assert (rows_of(report), report.profile.invalid) == (rows, 0)


def test_values_of_mixed_type_are_told_row_by_row(tmp_path: Path) -> None:
    values = ["habari", 1, None, ["a"], {"a": 1}, True, 1.5, 10**4000]
    report = measure_bytes(
        tmp_path, "a.jsonl", "".join(json.dumps({"text": value}) + "\n" for value in values)
    )
    assert [place.what.partition(";")[0] for place in report.places(FindingKind.INVALID_ROW)] == [
        "has int in column 'text'",
        "has no value in column 'text' (columns: text)",
        "has list in column 'text'",
        "has dict in column 'text'",
        "has bool in column 'text'",
        "has float in column 'text'",
        "has int in column 'text'",
    ]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({}, "no columns"),
        ({"\ud83d": 1}, "the columns \\ud83d"),
        ({"c" * 100: 1}, f"the columns {'c' * 40}…"),
        (
            {f"c{n:04}": n for n in range(5000)},
            f"the columns {', '.join(f'c{n:04}' for n in range(12))}, 4,988 more",
        ),
    ],
    ids=["none", "half a character", "long", "many"],
)
def test_columns_are_listed_so_that_the_remedy_stays_in_sight(
    row: dict[str, Any], found: str, tmp_path: Path
) -> None:
    with pytest.raises(TextInvalid) as refused:
        measure_bytes(tmp_path, "a.jsonl", json.dumps(row) + "\n")
    assert refused.value.message == (
        f"The dataset of sw in a.jsonl has {found}: expected messages or conversations, instruction"
        " with output, prompt with completion, or text; rename the columns or set dataset.format and"
        " dataset.columns, and apply again."
    )


# --- Size ---------------------------------------------------------------------------------------


def test_a_row_of_more_characters_than_fit_is_told_and_the_rest_is_measured(tmp_path: Path) -> None:
    long = "neno " * 400_000 + "x"
    report = measure_bytes(tmp_path, "a.jsonl", f"{json.dumps({'text': long})}\n{GOOD}")
    assert [place.what for place in report.places(FindingKind.INVALID_ROW)] == [
        (
            "has 2,000,001 characters; a row may have 2,000,000 (dataset.maxRowCharacters); divide it"
            " into several"
        )
    ]
    assert rows_of(report) == 3


def test_a_line_that_never_ends_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"habari\n" + b"a" * (MOST_LINE_BYTES + (5 << 20)) + b"\nmaji\n")
    assert list(read_records(path)) == [
        Row(values={"text": "habari"}, line=1),
        Fault(
            line=2,
            problem="is longer than 64 MiB",
            rule="a line holds one row; divide it into several",
        ),
        Row(values={"text": "maji"}, line=3),
    ]


def test_a_list_on_one_line_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    row = json.dumps({"text": "é" * 99}, ensure_ascii=False)
    path.write_text(f"[{', '.join([row] * 30_000)}]", encoding="utf-8")
    records = iter(read_records(path))
    next(records)
    tracemalloc.start()
    count = 1 + sum(isinstance(record, Row) for record in records)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 30_000
    assert path.stat().st_size > 6 << 20
    assert peak < 6 << 20


def test_an_archive_that_grows_a_thousandfold_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(b"habari ya asubuhi\n" * 100_000))
    assert path.stat().st_size < 2_000
    assert sum(isinstance(record, Row) for record in read_records(path)) == 100_000


def test_large_rows_of_parquet_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [f"{number}" + "é" * 200_000 for number in range(250)]})
    # A page is decoded whole, so what is above a few rows in memory is a matter of the writer.
    pyarrow.parquet.write_table(table, path, write_batch_size=8)
    del table
    before = pyarrow.total_allocated_bytes()
    taken = [pyarrow.total_allocated_bytes() - before for _ in read_records(path)]
    assert len(taken) == 250
    assert max(taken) < 2 * PARQUET_BATCH_BYTES


@pytest.mark.parametrize("last", ["n0", "other"])
def test_a_header_of_very_many_columns_is_checked_in_linear_time(last: str, tmp_path: Path) -> None:
    header = [*(f"n{number}" for number in range(MOST_CSV_COLUMNS - 1)), last]
    path = tmp_path / "a.csv"
    path.write_text(f"{','.join(header)}\n")
    begin = time.process_time()
    found = list(read_records(path))
    # Each name against each other took 10 s with a fifth of them.
    assert time.process_time() - begin < 5
    problems = [fault.problem for fault in found if isinstance(fault, Fault)]
    assert problems == (["has the column 'n0' more than once"] if last == "n0" else [])


def test_a_header_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{',' * MOST_CSV_COLUMNS}\n")
    (fault,) = read_records(path)
    assert isinstance(fault, Fault)
    assert (fault.ends_file, fault.problem) == (True, "has a header of 100,001 columns")
