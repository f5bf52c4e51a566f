"""`kubectl finetune plan`: text measured here, a model's files, and what the run would be."""

import json
import math
import os

import pytest
import yaml
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.screens.plan_rendering import duration_text
from tests.unit_cli.conftest import LLAMA, build_rows, write_rows

RUNNER = CliRunner()
TWO = [{"tag": tag, "dataset": {"uri": f"s3://corpora/{tag}/"}} for tag in ("sw", "hi")]


def plan(*arguments, width=100):
    result = RUNNER.invoke(app, ["plan", *map(str, arguments)], env={"COLUMNS": str(width)})
    assert (result.exit_code, result.stderr) == (0, "")
    return "\n".join(line.rstrip() for line in result.stdout.splitlines())


def document(*arguments):
    return json.loads(plan(*arguments, "-o", "json"))


def refusal(*arguments):
    result = RUNNER.invoke(app, ["plan", *map(str, arguments)])
    assert result.exit_code == 2
    return result.stderr


def test_without_text_and_model_the_plan_says_what_is_unknown_and_what_would_tell(resource):
    text = plan("-f", resource())
    assert "optimizer steps      unknown   3 epochs, 16 sequences a step; pass --data and" in text
    assert "trained parameters   unknown   pass --model-config" in text
    assert "training time        unknown   pass --tokens-per-second of an earlier run" in text
    assert "corpus of sw   corpus of sw is Auto: how much text this job has is known only" in text


def test_text_is_measured_and_decides_what_was_auto(resource, text, spelling):
    found = document("-f", resource(), "--data", text, "--tokenizer", spelling)
    (corpus,) = found["corpus"]
    assert (corpus["tag"], corpus["examples"], corpus["validationExamples"]) == ("sw", 38, 2)
    assert (corpus["charsPerToken"], corpus["duplicates"]) == ("1.00", 0)
    assert found["toBeMeasured"] == []
    rank = next(each for each in found["parameters"] if each["name"] == "r")
    assert rank["because"][0]["source"] == "Measured"


def test_the_run_has_steps_tokens_memory_and_time(resource, text, spelling):
    arguments = ("--data", text, "--tokenizer", spelling, "--tokens-per-second", "100")
    found = document("-f", resource(), *arguments, "--gpu-memory", "80Gi")
    tokens = found["corpus"][0]["tokens"]
    assert found["run"] == {
        "effectiveBatch": 16,
        "epochs": 3,
        "totalSteps": 9,
        "stepsAreRough": False,
        "tokens": tokens * 3,
        "tokensPerSecond": 100.0,
        "seconds": round(tokens * 3 / 100),
        "trainableParameters": 3_407_872,
    }
    memory = found["gpuMemory"]
    assert memory["gpuBytes"] == 80 * 1024**3
    assert memory["predictedBytes"] == sum(memory["parts"].values())
    assert memory["lowBytes"] < memory["predictedBytes"] < memory["highBytes"]


def test_the_peak_that_the_trainer_will_choose_stands_below_the_least(resource, text, spelling):
    arguments = ("-f", resource(), "--data", text, "--tokenizer", spelling, "--gpu-memory", "80Gi")
    line = "expected peak        24.0 GB     the trainer's own choice on it: 1,945 tokens a micro-batch, all layers kept"
    assert line in plan(*arguments, width=140)
    memory = document(*arguments)["gpuMemory"]
    assert memory["expected"] == {
        "peakBytes": 24_039_231_744,
        "tokensPerMicroBatch": 1945,
        "layersKept": 32,
    }
    assert memory["expected"]["peakBytes"] > memory["predictedBytes"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data", "--tokenizer"), "pass --gpu-memory"),
        (("--tokenizer", "--gpu-memory"), "pass --data and --tokenizer"),
        ((), "pass --model-config"),
    ],
)
def test_what_would_tell_the_peak_is_told(resource, text, spelling, options, said):
    given = {"--data": text, "--tokenizer": spelling, "--gpu-memory": "80Gi"}
    shown = plan("-f", resource(), *(part for name in options for part in (name, given[name])))
    line = next(line.split() for line in shown.splitlines() if line.startswith("expected peak"))
    assert " ".join(line) == f"expected peak unknown {said}"


def test_measured_text_that_contradicts_the_guides_label_is_told(resource, text, spelling):
    warnings = document("-f", resource(), "--data", text, "--tokenizer", spelling)["warnings"]
    assert "density-measured-differs" in [warning["id"] for warning in warnings]


def test_tokens_against_english_are_estimated_from_the_catalogue(resource, text, spelling):
    corpus = document("-f", resource(), "--data", text, "--tokenizer", spelling)["corpus"][0]
    # Byte for byte the same tokens as English, and 1.05 times the bytes.
    assert corpus["tokenPremium"] == "1.05"


def test_a_language_without_a_row_has_no_estimate(resource, text, spelling):
    path = resource(languages=[{"tag": "nn", "dataset": {"uri": "s3://corpora/nn/"}}])
    corpus = document("-f", path, "--data", text, "--tokenizer", spelling)["corpus"][0]
    assert "tokenPremium" not in corpus


def test_parameters_and_warnings_have_the_shape_of_explain(resource):
    path = str(resource())
    explained = json.loads(RUNNER.invoke(app, ["explain", "-f", path, "-o", "json"]).stdout)
    planned = document("-f", path)
    assert {key: planned[key] for key in explained} == explained


def test_the_shape_alone_gives_trained_parameters_and_memory(resource, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA), "utf-8")
    text = plan("-f", resource(), "--model-config", config, width=140)
    assert "trained parameters   6,815,744   0.085 % of the model's 8,030,261,248" in text
    assert "GPU memory           17." in text
    assert "pass --gpu-memory to compare" in text


def test_a_config_that_is_here_need_not_be_measured(resource, spelling):
    arguments = ("-f", resource(), "--gpu-memory", "80Gi")
    needs = [need["name"] for need in document(*arguments)["toBeMeasured"]]
    assert needs == ["gpuMemory", "corpus"]
    needs = document(*arguments, "--model-config", spelling)["toBeMeasured"]
    assert [need["name"] for need in needs] == ["corpus"]


def test_a_gpu_that_is_too_small_is_refused_with_the_numbers_and_what_would_fit(resource, spelling):
    path = resource(method="LoRA")
    reported = refusal("-f", path, "--model-config", spelling, "--gpu-memory", "8Gi")
    assert reported.startswith(
        f"{path}: LanguageFinetune swahili: A model of 8,030,261,248 parameters does not fit: LoRA "
        "with one sequence of "
    )
    assert "or a GPU of 24 GB" in reported


def test_packed_text_gives_rough_steps(resource, text, spelling):
    path = resource(stage="ContinuedPretraining")
    rows = [{"text": row["prompt"] * 40} for row in build_rows(40)]
    write_rows(text, rows)
    found = document("-f", path, "--data", text, "--tokenizer", spelling)["run"]
    blocks = math.ceil(found["tokens"] / 3 / 4096)
    assert (found["stepsAreRough"], found["totalSteps"]) == (True, math.ceil(blocks / 16) * 3)


def test_max_steps_end_the_run_and_give_its_tokens(resource, text, spelling):
    path = resource(parameters={"maxSteps": 10})
    found = document("-f", path, "--data", text, "--tokenizer", spelling)
    mean = found["corpus"][0]["tokens"] / 38
    assert (found["run"]["epochs"], found["run"]["totalSteps"]) == (None, 10)
    assert found["run"]["tokens"] == round(10 * 16 * mean)


def test_a_speed_without_text_gives_no_time(resource):
    assert document("-f", resource(), "--tokens-per-second", 100)["run"]["seconds"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45 s"), (59.6, "1 min"), (600, "10 min"), (3599, "1 h 0 min"), (12_060, "3 h 21 min")],
)
def test_durations_are_said_as_people_do(seconds, text):
    assert duration_text(seconds) == text


# --- Defects ------------------------------------------------------------------------------------


def test_defects_are_told_with_file_and_line(resource, text, spelling):
    rows = build_rows(40)
    write_rows(text, [*rows, rows[3]])
    found = document("-f", resource(), "--data", text, "--tokenizer", spelling)
    (finding,) = found["defects"][0]["findings"]
    assert (finding["kind"], finding["count"]) == ("ExactDuplicate", 1)
    assert finding["places"] == [{"source": f"{text} line 41", "what": f"repeats {text} line 4"}]
    assert f"ExactDuplicate      1   {text} line 41 repeats" in plan(
        "-f", resource(), "--data", text, "--tokenizer", spelling, width=200
    )


def test_a_row_that_training_refuses_is_an_error_beside_the_plan(resource, text, spelling):
    write_rows(text, [*build_rows(40), "{not json"])
    arguments = ["plan", "-f", resource(), "--data", text, "--tokenizer", spelling]
    result = RUNNER.invoke(app, [*map(str, arguments), "-o", "json"])
    assert (result.exit_code, json.loads(result.stdout)["corpus"][0]["examples"]) == (2, 38)
    first, last = result.stderr.splitlines()
    assert first.startswith(f"{text} line 41 is not valid JSON: ")
    assert last == "Training refuses the text of sw because of these rows; correct them."


@pytest.mark.parametrize(
    "row", ["", '{"prompt": "a", "completion": ""}'], ids=["blank", "no answer"]
)
def test_a_text_with_nothing_to_learn_is_an_error(row, resource, text, spelling):
    write_rows(text, [row])
    arguments = ["plan", "-f", resource(), "--data", text, "--tokenizer", spelling]
    result = RUNNER.invoke(app, [*map(str, arguments)])
    assert (result.exit_code, result.stderr) == (
        2,
        (
            f"The text of sw in {text} has no example to learn from; expected rows with an answer or a "
            "text; add some.\n"
        ),
    )


def test_of_many_rows_at_fault_the_first_are_named_and_the_rest_counted(resource, text, spelling):
    write_rows(text, [*build_rows(40), *["{"] * 250])
    arguments = ["plan", "-f", resource(), "--data", text, "--tokenizer", spelling]
    lines = RUNNER.invoke(app, [*map(str, arguments)]).stderr.splitlines()
    assert (len(lines), lines[-2]) == (202, "50 more rows like these.")


def test_columns_that_nothing_can_be_learned_from_are_refused(resource, text, spelling):
    write_rows(text, [{"a": 1, "b": 2}])
    reported = refusal("-f", resource(), "--data", text, "--tokenizer", spelling)
    assert reported.startswith(f"The dataset of sw in {text} has the columns a, b: expected ")


# --- Several languages --------------------------------------------------------------------------


def test_each_language_has_its_text_by_its_tag(resource, text, tmp_path, spelling):
    hindi = write_rows(tmp_path / "hi.jsonl", build_rows(20))
    path = resource(languages=TWO)
    found = document(
        "-f", path, "--data", f"hi={hindi}", "--data", f"sw={text}", "--tokenizer", spelling
    )
    assert [(each["tag"], each["examples"]) for each in found["corpus"]] == [("sw", 38), ("hi", 19)]


@pytest.mark.parametrize(
    ("data", "reported"),
    [
        (["sw={text}"], "--data names no text of hi; add --data hi=PATH.\n"),
        (
            ["{text}"],
            "--data {text} does not say whose text it is; write --data TAG=PATH with one of sw, hi.\n",
        ),
        (
            ["sw={text}", "sw={text}"],
            "--data names the text of sw twice; put its files into one folder.\n",
        ),
    ],
    ids=["one missing", "no tag", "twice"],
)
def test_text_that_belongs_to_no_language_is_refused(data, reported, resource, text, spelling):
    options = [part for each in data for part in ("--data", each.format(text=text))]
    found = refusal("-f", resource(languages=TWO), *options, "--tokenizer", spelling)
    assert found == reported.format(text=text)


def test_text_of_a_language_that_the_resource_lacks_is_refused_by_its_tag(resource, text, spelling):
    assert refusal("-f", resource(), "--data", f"hi={text}", "--tokenizer", spelling) == (
        f"--data hi={text} names hi, expected a language of the resource: sw; correct the tag.\n"
    )


def test_a_file_may_have_an_equals_sign_in_its_name(resource, text, tmp_path, spelling):
    odd = tmp_path / "hi=text.jsonl"
    odd.write_bytes(text.read_bytes())
    assert document("-f", resource(), "--data", odd, "--tokenizer", spelling)["corpus"]


def test_an_empty_path_is_no_path_of_this_folder(resource, spelling):
    assert refusal("-f", resource(), "--data", "", "--tokenizer", spelling) == (
        "--data is empty and does not say whose text it is; write --data TAG=PATH with one of sw.\n"
    )


def test_what_is_neither_a_file_nor_a_folder_is_refused(resource, tmp_path, spelling):
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    assert refusal("-f", resource(), "--data", pipe, "--tokenizer", spelling) == (
        f"--data {pipe} is neither a file nor a folder; check the path.\n"
    )


def test_a_file_whose_bytes_do_not_come_is_no_fault_of_the_output(resource, tmp_path, spelling):
    memory = tmp_path / "memory.jsonl"
    memory.symlink_to("/proc/self/mem")  # reading from its start fails, for root too
    assert refusal("-f", resource(), "--data", memory, "--tokenizer", spelling) == (
        "The text cannot be read: input/output error; check the file.\n"
    )


def test_a_folder_gives_all_its_data_files_and_nothing_else(resource, tmp_path, spelling):
    folder = tmp_path / "corpus"
    (folder / "more").mkdir(parents=True)
    write_rows(folder / "a.jsonl", build_rows(40)[:20])
    write_rows(folder / "more" / "b.jsonl", build_rows(40)[20:])
    for name in ("README.md", ".hidden.jsonl", "_SUCCESS", "empty.jsonl"):
        (folder / name).write_text("" if name == "empty.jsonl" else "text", "utf-8")
    found = document("-f", resource(), "--data", folder, "--tokenizer", spelling)
    assert found["corpus"][0]["examples"] == 38


def test_a_held_out_text_of_its_own_is_counted(resource, text, tmp_path, spelling):
    dataset = {"uri": "s3://corpora/sw/", "validation": {"uri": "s3://corpora/held-out/"}}
    path = resource(languages=[{"tag": "sw", "dataset": dataset}])
    held = write_rows(tmp_path / "held.jsonl", build_rows(50)[40:])
    arguments = ("--data", text, "--validation", held, "--tokenizer", spelling)
    corpus = document("-f", path, *arguments)["corpus"][0]
    assert (corpus["examples"], corpus["validationExamples"]) == (40, 10)


def test_a_held_out_text_that_is_not_here_is_asked_for(resource, text, spelling):
    dataset = {"uri": "s3://corpora/sw/", "validation": {"uri": "s3://corpora/held-out/"}}
    path = resource(languages=[{"tag": "sw", "dataset": dataset}])
    assert refusal("-f", path, "--data", text, "--tokenizer", spelling) == (
        "The held-out text of sw is s3://corpora/held-out/, and --validation names none; add "
        "--validation sw=PATH with a copy of it.\n"
    )


# --- Files that cannot be used ------------------------------------------------------------------


def test_text_without_a_tokenizer_is_refused(resource, text):
    assert refusal("-f", resource(), "--data", text) == (
        "--data needs the model's tokenizer to count with; add --tokenizer FOLDER, with "
        "tokenizer.json in it.\n"
    )


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("absent", "--data {path} does not exist; check the path.\n"),
        (
            "folder",
            "--data {path} holds no data file; expected .parquet, .jsonl, .ndjson, .json, .csv, .tsv, .txt, also with .gz, .zst, .bz2 or .xz.\n",
        ),
        (
            "text.pdf",
            "--data {path} is no data file; expected .parquet, .jsonl, .ndjson, .json, .csv, .tsv, .txt, also with .gz, .zst, .bz2 or .xz.\n",
        ),
    ],
)
def test_a_path_without_data_is_refused(name, reported, resource, tmp_path, spelling):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name != "absent":
        path.write_text("x", "utf-8")
    found = refusal("-f", resource(), "--data", path, "--tokenizer", spelling)
    assert found == reported.format(path=path)


def test_a_folder_without_a_tokenizer_is_refused(resource, tmp_path):
    assert refusal("-f", resource(), "--tokenizer", tmp_path) == (
        f"--tokenizer {tmp_path}: {tmp_path}/tokenizer.json does not exist; expected a folder with "
        "tokenizer.json or that file, such as a downloaded model.\n"
    )


def test_a_chat_template_that_is_no_text_is_refused(resource, text, spelling):
    (spelling / "chat_template.jinja").write_bytes(b"\xff\xfe")
    assert refusal("-f", resource(), "--data", text, "--tokenizer", spelling) == (
        f"The chat_template.jinja of {spelling} is not UTF-8 (byte 0): expected a text; upload it again "
        "and apply again.\n"
    )


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        ("[1]", "{path} holds no JSON object; expected the model's config.json.\n"),
        (
            "{",
            (
                "{path} is not valid JSON: Expecting property name enclosed in double quotes: line 1 "
                "column 2 (char 1); expected the model's config.json.\n"
            ),
        ),
        (None, "{path} cannot be read: no such file or directory; check the path.\n"),
    ],
    ids=["list", "cut", "absent"],
)
def test_a_config_that_cannot_be_read_is_refused(content, reported, resource, tmp_path):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content, "utf-8")
    assert refusal("-f", resource(), "--model-config", path) == reported.format(path=path)


def test_a_model_of_experts_is_refused_with_the_resource(resource, tmp_path):
    path, file = tmp_path / "config.json", resource()
    path.write_text(json.dumps({"model_type": "mixtral", "num_local_experts": 8}), "utf-8")
    assert refusal("-f", file, "--model-config", path).startswith(
        f"{file}: LanguageFinetune swahili: The base model is a mixture of experts"
    )


@pytest.mark.parametrize("memory", ["lots", "0Gi", "-3Gi"])
def test_a_gpu_memory_that_is_none_is_refused(memory, resource):
    assert refusal("-f", resource(), f"--gpu-memory={memory}") == (
        f"--gpu-memory is {memory}, expected the memory of one GPU such as 80Gi; correct it.\n"
    )


def test_a_gpu_memory_for_a_run_on_cpu_is_refused(resource):
    assert refusal("-f", resource(resources={"gpus": 0}), "--gpu-memory", "80Gi") == (
        "--gpu-memory is set and spec.resources.gpus is 0, which trains on CPU; leave one of them "
        "out.\n"
    )


def test_text_for_a_file_of_several_resources_is_refused(resource, text, spelling):
    path = resource()
    first = path.read_text("utf-8")
    path.write_text(f"{first}---\n{first.replace('name: swahili', 'name: other')}", "utf-8")
    assert refusal("-f", path, "--data", text, "--tokenizer", spelling) == (
        f"--data is for one resource, and {path} holds swahili, other; pass one.\n"
    )
    assert [item["name"] for item in document("-f", path)["items"]] == ["swahili", "other"]


# --- Forms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [50, 80, 140])
def test_tables_fit_the_terminal(width, resource, text, spelling):
    arguments = ("--data", text, "--tokenizer", spelling)
    page = plan("-f", resource(), *arguments, width=width)
    assert max(map(len, page.splitlines())) <= width


def test_nothing_is_coloured_where_it_is_piped(resource, text, spelling):
    assert "\x1b" not in plan("-f", resource(), "--data", text, "--tokenizer", spelling)


def test_yaml_says_the_same_as_json(resource, text, spelling):
    arguments = ("-f", resource(), "--data", text, "--tokenizer", spelling)
    assert yaml.safe_load(plan(*arguments, "-o", "yaml")) == document(*arguments)


def test_markdown_has_run_text_and_parameters(resource, text, spelling):
    page = plan("-f", resource(), "--data", text, "--tokenizer", spelling, "-o", "markdown")
    assert page.startswith("## swahili\n\npolicy Guide, method LoRA. ")
    assert "| optimizer steps | 9 | 3 epochs, 16 sequences a step |" in page
    assert "| examples to train on | 38 |" in page
    assert "| `r` | `8` |" in page
