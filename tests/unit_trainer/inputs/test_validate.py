"""Rows of every format, the rules they must keep, and the split of the held-out part."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from finetune_api.plan import PlannedDataset
from finetune_text.rows.data_errors import Fault
from finetune_text.rows.examples import Example
from finetune_text.rows.records import Row, read_records
from finetune_text.tokenization.held_out import decide_held_out
from finetune_trainer.errors import DataInvalid
from finetune_trainer.inputs.data_files import DataFile, FetchedDataset
from finetune_trainer.inputs.validate import ValidDataset, validate_dataset

CHAT = [
    {"role": "system", "content": "Uwe mfupi."},
    {"role": "user", "content": "Habari?"},
    {"role": "assistant", "content": "Nzuri."},
]


def chat(number: int) -> dict[str, Any]:
    return {"messages": [*CHAT[:2], {"role": "assistant", "content": f"Jibu {number}."}]}


def build_dataset(**fields: Any) -> PlannedDataset:
    return PlannedDataset.model_validate({"tag": "sw", "uri": "s3://corpora/sw/", **fields})


def data_file(path: Path) -> DataFile:
    return DataFile(path=path, source=f"s3://corpora/sw/{path.name}", sha256="0" * 64, size=1)


def validate(
    paths: Sequence[Path], *, held_out: Sequence[Path] = (), **fields: Any
) -> ValidDataset:
    fetched = FetchedDataset(
        train=tuple(map(data_file, paths)), validation=tuple(map(data_file, held_out))
    )
    return validate_dataset(build_dataset(**fields), fetched)


def read_all(paths: Sequence[Path], **fields: Any) -> list[Example]:
    valid = validate(paths, **fields)
    examples = [*valid.read_train(), *valid.read_validation()]
    return sorted(examples, key=lambda e: (e.source.rpartition(" ")[0], _line(e)))


def _line(example: Example) -> int:
    return int(example.source.rpartition(" ")[2])


def write(path: Path, lines: Sequence[object], *, end: str = "\n") -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes("".join(text + end for text in texts).encode())
    return path


def refusal(paths: Sequence[Path], **fields: Any) -> str:
    with pytest.raises(DataInvalid) as error:
        validate(paths, **fields)
    return error.value.message


# --- Formats


def to_jsonl(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    return write(folder / "rows.jsonl", rows)


def to_jsonl_with_bom_and_crlf(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = write(folder / "rows.jsonl", rows, end="\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return path


def to_json_list(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "rows.json"
    path.write_text(json.dumps(rows, indent=1))
    return path


def to_json_on_one_line(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    return write(folder / "rows.json", [json.dumps(list(rows))])


def to_json_inside_an_object(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "rows.json"
    path.write_text(json.dumps({"version": "1", "data": rows}, indent=1))
    return path


def to_jsonl_called_json(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    return write(folder / "rows.json", rows)


def to_gzip(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(to_jsonl(folder, rows).read_bytes()))
    return path


def to_zstandard_in_two_frames(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    raw = to_jsonl(folder, rows).read_bytes()
    path = folder / "rows.jsonl.zst"
    path.write_bytes(zstandard.compress(raw[:99]) + zstandard.compress(raw[99:]))
    return path


def to_parquet(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def to_parquet_with_json_text(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    return to_parquet(folder, [{key: json.dumps(row[key]) for key in row} for row in rows])


def to_csv_with_json_text(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    header = ",".join(rows[0])
    lines = [",".join(_quote(json.dumps(row[key])) for key in rows[0]) for row in rows]
    return write(folder / "rows.csv", [header, *lines])


def _quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


WRITERS: list[Callable[[Path, Sequence[dict[str, Any]]], Path]] = [
    to_jsonl,
    to_jsonl_with_bom_and_crlf,
    to_json_list,
    to_json_on_one_line,
    to_json_inside_an_object,
    to_jsonl_called_json,
    to_gzip,
    to_zstandard_in_two_frames,
    to_parquet,
    to_parquet_with_json_text,
    to_csv_with_json_text,
]


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_every_form_gives_the_same_chats(
    writer: Callable[[Path, Sequence[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    rows = [chat(number) for number in range(5)]
    examples = read_all([writer(tmp_path, rows)])
    answers = sorted(example.messages[-1].content for example in examples)
    assert answers == [f"Jibu {number}." for number in range(5)]
    assert [message.role for message in examples[0].messages] == ["system", "user", "assistant"]


def call(arguments: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "hali_ya_hewa", "arguments": arguments}}


def tool_chat(calls: object) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": "Hali ya hewa?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "jua"},
            {"role": "assistant", "content": "Kuna jua."},
        ]
    }


TOOL_CALLS = {
    "objects": [call({"mji": "Nairobi"})],
    "arguments as text": [call('{"mji": "Nairobi"}')],
    "all as text": json.dumps([call({"mji": "Nairobi"})]),
    "without the function wrapper": [{"name": "hali_ya_hewa", "arguments": {"mji": "Nairobi"}}],
}


@pytest.mark.parametrize("calls", TOOL_CALLS.values(), ids=list(TOOL_CALLS))
@pytest.mark.parametrize("writer", [to_jsonl, to_parquet], ids=["jsonl", "parquet"])
def test_tool_calls_are_equal_whatever_their_form(
    writer: Callable[..., Path], calls: object, tmp_path: Path
) -> None:
    plain = {"messages": CHAT}
    examples = read_all([writer(tmp_path, [tool_chat(calls), plain])])
    assert examples[0].messages[1].as_template_value() == {
        "role": "assistant",
        "content": "",
        "tool_calls": [call({"mji": "Nairobi"})],
    }
    assert "tool_calls" not in examples[1].messages[1].as_template_value()


ROWS = {
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "A?"}, {"from": "gpt", "value": "B."}]},
        ("A?", "B."),
    ),
    "content in parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "A?"}]},
                {"role": "assistant", "content": "B."},
            ]
        },
        ("A?", "B."),
    ),
    "prompt as messages": (
        {"prompt": [{"role": "user", "content": "A?"}], "completion": "B."},
        ("A?", "B."),
    ),
}


@pytest.mark.parametrize(("row", "expected"), ROWS.values(), ids=list(ROWS))
def test_chats_of_other_tools_are_understood(
    row: dict[str, Any], expected: tuple[str, str], tmp_path: Path
) -> None:
    example = read_all([to_jsonl(tmp_path, [row, chat(1)])])[0] if "messages" in row else None
    example = example or read_all([to_jsonl(tmp_path, [row, _other(row)])])[0]
    assert tuple(message.content for message in example.messages) == expected


def _other(row: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(row).replace("B.", "C."))


PAIRS = {
    "instruction with input": (
        {"instruction": "Tafsiri", "input": "maji", "output": "water"},
        ("Tafsiri\n\nmaji", "\n\n", "water"),
    ),
    "instruction alone": (
        {"instruction": "Sema", "input": "", "output": "maji"},
        ("Sema", "\n\n", "maji"),
    ),
    "prompt with completion": (
        {"prompt": "Q: maji? A:", "completion": " water"},
        ("Q: maji? A:", "", " water"),
    ),
    "question with answer": ({"question": "Q", "answer": "A"}, ("Q", "", "A")),
}


@pytest.mark.parametrize(("row", "expected"), PAIRS.values(), ids=list(PAIRS))
def test_prompts_and_answers_are_kept_unchanged(
    row: dict[str, Any], expected: tuple[str, str, str], tmp_path: Path
) -> None:
    other = {key: f"{value}2" for key, value in row.items()}
    example = read_all([to_jsonl(tmp_path, [row, other])])[0]
    assert (example.prompt, example.separator, example.completion) == expected


def test_an_answer_called_context_is_no_part_of_its_question(tmp_path: Path) -> None:
    rows = [{"instruction": f"Sema {n}", "context": f"maji {n}"} for n in range(2)]
    example = read_all([to_jsonl(tmp_path, rows)], columns={"completion": "context"})[0]
    assert (example.prompt, example.completion) == ("Sema 0", "maji 0")


def test_named_columns_beat_the_usual_ones(tmp_path: Path) -> None:
    rows = [{"text": "si hii", "swali": f"Q{n}", "jibu": f"A{n}"} for n in range(2)]
    columns = {"prompt": "swali", "completion": "jibu"}
    example = read_all([to_jsonl(tmp_path, rows)], columns=columns)[0]
    assert (example.prompt, example.completion) == ("Q0", "A0")


def test_a_declared_format_chooses_among_columns(tmp_path: Path) -> None:
    rows = [{**chat(n), "text": f"maandishi {n}"} for n in range(2)]
    path = to_jsonl(tmp_path, rows)
    assert read_all([path], format="Text")[0].text == "maandishi 0"
    assert read_all([path])[0].messages


def test_text_is_left_as_it_is(tmp_path: Path) -> None:
    # Joiners, a decomposed letter, a no-break space, spaces at both ends.
    texts = ["  क्\u200dष e\u0301\u00a0 ", "\u202bمرحبا\u202c"]
    path = write(tmp_path / "texts.txt", texts)
    assert [example.text for example in read_all([path])] == texts


def test_a_line_separator_inside_a_string_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"text": "a\u2028b"}\n{"text": "c"}\n'.encode())
    assert [example.text for example in read_all([path])] == ["a\u2028b", "c"]


def test_a_csv_field_may_hold_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", ["text,id", '"moja\nmbili",1', "tatu,2"])
    assert [(e.text, _line(e)) for e in read_all([path])] == [("moja\nmbili", 2), ("tatu", 4)]


def test_a_long_json_list_is_read_in_pieces(tmp_path: Path) -> None:
    rows = [{"text": f"{number} " + "neno " * 30_000} for number in range(20)]
    examples = read_all([to_json_list(tmp_path, rows)])
    assert [example.text for example in examples] == [row["text"] for row in rows]


# --- Faults

FAULTY = {
    "JSON": ('{"text": "a" "b"}', "is not valid JSON: expecting ',' delimiter at column 14"),
    "cut": ('{"text": "a', "is not valid JSON: unterminated string starting at column 10"),
    "list": ("[1]", "holds a list and no object"),
    "null": ("null", "holds null and no object"),
}


@pytest.mark.parametrize(("line", "problem"), FAULTY.values(), ids=list(FAULTY))
def test_a_malformed_line_is_told_with_file_line_and_rule(
    line: str, problem: str, tmp_path: Path
) -> None:
    rows: list[object] = [{"text": f"neno {n}"} for n in range(36)]
    path = write(tmp_path / "train.jsonl", [*rows, line, {"text": "mwisho"}])
    assert refusal([path]) == (
        f"s3://corpora/sw/train.jsonl line 37 {problem}; each line must hold one JSON object;"
        " correct the line and apply again."
    )


def test_several_faults_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [{"text": "a"}, "{", {"text": 5}, "{", "[]", "7", "8"])
    assert refusal([path]) == (
        "s3://corpora/sw/train.jsonl line 2 is not valid JSON: expecting property name enclosed in"
        " double quotes at column 2; each line must hold one JSON object; correct the line and apply"
        " again (and at least 4 more: line 3, line 4, line 5, line 6)."
    )


def test_a_second_file_is_named_where_its_line_is_at_fault(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [{"text": "a"}, "{]"])
    second = write(tmp_path / "b.jsonl", ["nope"])
    assert refusal([first, second]).endswith("(and 1 more: s3://corpora/sw/b.jsonl line 1).")


def test_bytes_that_are_not_utf8_are_told_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    assert refusal([path]) == (
        "s3://corpora/sw/rows.jsonl line 2 is not UTF-8: byte 0xe9 at byte 14; text must be UTF-8;"
        " convert the file and apply again."
    )


def test_half_a_surrogate_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ['{"text": "a\\ud800"}', {"text": "b"}])
    assert refusal([path]) == (
        "s3://corpora/sw/rows.jsonl line 1 has half a character in column 'text' (\\ud800 at"
        " character 2); a surrogate must have its other half; correct the row and apply again."
    )


def test_a_csv_row_with_too_many_fields_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", ["text", "moja", "mbili, tatu"])
    assert refusal([path]) == (
        "s3://corpora/sw/rows.csv line 3 has 2 fields where the header has 1; a .csv file must have"
        " a header and as many fields in every row; quote commas and line ends and apply again."
    )


def test_a_broken_json_list_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"text": "a"},\n{"text": }\n]')
    assert refusal([path]) == (
        "s3://corpora/sw/rows.json line 3 is not valid JSON: expecting value; a .json file must hold"
        " a list of objects, or one object a line; correct the file and apply again."
    )


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_archive_is_a_fault_and_not_a_shorter_file(suffix: str, tmp_path: Path) -> None:
    raw = "".join(f'{{"text": "{n * 7919 % 10_007}"}}\n' for n in range(20_000)).encode()
    packed = gzip.compress(raw) if suffix == ".gz" else zstandard.compress(raw)
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    fault = list(read_records(path))[-1]
    assert isinstance(fault, Fault)
    assert fault.rule == "a .gz or .zst file must be whole; upload it again"


def test_a_file_that_is_no_archive_is_told_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(b"not what the name says")
    assert refusal([path]) == (
        "s3://corpora/sw/rows.jsonl.gz cannot be decompressed (Not a gzipped file (b'no')); a file named"
        " .gz or .zst must be compressed so; rename the file or upload it again and apply again."
    )


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"])
def test_what_only_has_the_name_of_a_format_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"not what the name says")
    assert refusal([path]).startswith(f"s3://corpora/sw/{name} cannot be ")


def test_the_name_of_a_format_may_be_in_capitals(tmp_path: Path) -> None:
    path = to_parquet(tmp_path, [{"text": "habari"}]).rename(tmp_path / "ROWS.PARQUET")
    assert [record.values for record in read_records(path) if isinstance(record, Row)] == [
        {"text": "habari"}
    ]


def test_columns_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    path = to_jsonl(tmp_path, [{"kichwa": "a", "mwili": "b"}])
    assert refusal([path]) == (
        "The dataset of sw in s3://corpora/sw/rows.jsonl has the columns kichwa, mwili: expected"
        " messages or conversations, instruction with output, prompt with completion, or text;"
        " rename the columns or set dataset.format and dataset.columns, and apply again."
    )


def test_a_named_column_that_is_missing_is_named(tmp_path: Path) -> None:
    path = to_jsonl(tmp_path, [{"text": "a"}])
    assert refusal([path], columns={"text": "body"}) == (
        "The dataset of sw in s3://corpora/sw/rows.jsonl has the columns text: expected 'body' as"
        " text; rename the columns or set dataset.format and dataset.columns, and apply again."
    )


def test_a_row_without_the_column_is_told(tmp_path: Path) -> None:
    path = to_jsonl(tmp_path, [{"text": "a"}, {"text": None}])
    assert refusal([path]) == (
        "s3://corpora/sw/rows.jsonl line 2 has no value in column 'text' (columns: text); every row"
        " must have it; fill it or drop the row and apply again."
    )


ORDERS = {
    "system in the middle": (
        ["user", "assistant", "system", "user", "assistant"],
        "has the role 'system' in message 3 after assistant",
    ),
    "two users in a row": (
        ["user", "user", "assistant"],
        "has the role 'user' in message 2 after user",
    ),
    "assistant first": (
        ["assistant", "user"],
        "has the role 'assistant' in message 1 at the beginning",
    ),
    "two answers": (
        ["user", "assistant", "assistant"],
        "has the role 'assistant' in message 3 after assistant",
    ),
}


@pytest.mark.parametrize(("roles", "problem"), ORDERS.values(), ids=list(ORDERS))
def test_an_order_of_roles_that_no_template_takes_is_told(
    roles: Sequence[str], problem: str, tmp_path: Path
) -> None:
    row = {"messages": [{"role": role, "content": "x"} for role in roles]}
    assert refusal([to_jsonl(tmp_path, [chat(1), row])]) == (
        f"s3://corpora/sw/rows.jsonl line 2 {problem}; a chat must begin with user, or with system"
        " and then user, and alternate between user and assistant, with tool answers after a tool"
        " call; reorder the messages and apply again."
    )


def test_an_unknown_role_is_told(tmp_path: Path) -> None:
    row = {"messages": [{"role": "mwalimu", "content": "x"}]}
    assert refusal([to_jsonl(tmp_path, [row])]) == (
        "s3://corpora/sw/rows.jsonl line 1 has the role 'mwalimu' in message 1; a role must be"
        " system, user, assistant or tool; correct the message and apply again."
    )


# --- Too little to learn from


def test_empty_answers_are_told_and_not_trained(tmp_path: Path) -> None:
    empty = {"messages": [CHAT[1], {"role": "assistant", "content": " "}]}
    valid = validate([to_jsonl(tmp_path, [chat(1), empty, chat(2), empty])])
    assert (valid.train_examples + valid.validation_examples, valid.empty) == (2, 2)
    (warning,) = valid.warnings
    assert warning == (
        "2 rows of sw have nothing to learn and are not trained on; the first is"
        " s3://corpora/sw/rows.jsonl line 2."
    )


def test_only_empty_answers_are_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": ""}] * 3
    assert refusal([to_jsonl(tmp_path, rows)]) == (
        "The dataset of sw at s3://corpora/sw/ has only empty answers or texts (3 rows, the first at"
        " s3://corpora/sw/rows.jsonl line 1): expected rows with something to learn; fill them and"
        " apply again."
    )


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_a_file_of_blank_lines_has_no_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("\n\n")
    assert refusal([path]) == (
        "The dataset of sw at s3://corpora/sw/ has no rows: expected at least 2; add text and apply"
        " again."
    )


@pytest.mark.parametrize("name", ["rows.json.gz", "rows.csv.gz", "rows.jsonl.zst"])
def test_an_archive_of_nothing_has_no_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"") if name.endswith(".gz") else zstandard.compress(b""))
    assert " has no rows: " in refusal([path])


def test_one_row_cannot_be_split(tmp_path: Path) -> None:
    assert refusal([to_jsonl(tmp_path, [chat(1), chat(1)])]) == (
        "The dataset of sw at s3://corpora/sw/ has 2 rows with 1 different content: expected at"
        " least 2, one to train on and one to hold out; add rows or set dataset.validation.uri, and"
        " apply again."
    )


# --- The held-out part


def sides(valid: ValidDataset) -> tuple[set[str], set[str]]:
    train = {example.canonical() for example in valid.read_train()}
    return train, {example.canonical() for example in valid.read_validation()}


def test_the_split_depends_on_content_and_not_on_order_or_files(tmp_path: Path) -> None:
    rows = [chat(number) for number in range(60)]
    (tmp_path / "b").mkdir()
    together = validate([to_jsonl(tmp_path, rows)])
    apart = validate(
        [
            to_parquet(tmp_path / "b", rows[30:]),
            to_json_list(tmp_path / "b", rows[:30][::-1]),
        ]
    )
    assert sides(together) == sides(apart)
    assert (together.train_examples, together.validation_examples) == (57, 3)


def test_copies_stay_on_one_side_and_are_told(tmp_path: Path) -> None:
    rows = [chat(number % 20) for number in range(100)]
    valid = validate([to_jsonl(tmp_path, rows)], validation={"fraction": 0.3})
    train, held_out = sides(valid)
    assert not train & held_out
    assert (valid.train_examples, valid.validation_examples) == (70, 30)
    assert valid.warnings == ("80 of 100 rows of sw repeat an earlier row.",)


@pytest.mark.parametrize(
    ("rows", "fraction", "most", "expected"),
    [(2, 0.05, 2000, 1), (2, 0.5, 2000, 1), (100, 0.5, 10, 10), (1000, 0.05, 2000, 50)],
)
def test_at_least_one_is_held_out_and_never_all(
    rows: int, fraction: float, most: int, expected: int
) -> None:
    hashes = [bytes([number // 256, number % 256]) for number in range(rows)]
    assert len(decide_held_out(hashes, fraction=fraction, max_examples=most)) == expected


def test_a_content_that_is_alone_is_never_held_out() -> None:
    assert decide_held_out([b"a"] * 4, fraction=0.5, max_examples=10) == frozenset()


def test_a_held_out_dataset_of_its_own_is_used_whole(tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    train = to_jsonl(tmp_path, [chat(1)])
    held_out = to_jsonl(tmp_path / "held", [chat(2), chat(3)])
    valid = validate([train], held_out=[held_out])
    assert (valid.train_examples, valid.validation_examples) == (1, 2)
    assert len(list(valid.read_validation())) == 2
    assert valid.warnings == ()


def test_a_held_out_dataset_is_evaluated_up_to_the_most_examples(tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    train = to_jsonl(tmp_path, [chat(1)])
    held_out = to_jsonl(tmp_path / "held", [chat(number) for number in range(2, 9)])
    valid = validate([train], held_out=[held_out], validation={"max_examples": 3})
    assert valid.validation_examples == len(list(valid.read_validation())) == 3
    assert valid.warnings == (
        "3 of 7 held-out rows of sw are evaluated, as dataset.validation.maxExamples says.",
    )


def test_held_out_rows_that_are_trained_on_too_are_told(tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    train = to_jsonl(tmp_path, [chat(1), chat(2)])
    held_out = to_jsonl(tmp_path / "held", [chat(2), chat(3)])
    valid = validate([train], held_out=[held_out])
    assert (len(list(valid.read_train())), len(list(valid.read_validation()))) == (2, 2)
    assert valid.warnings == (
        "1 of 2 held-out rows of sw are trained on too: the held-out loss looks better than it is.",
    )
