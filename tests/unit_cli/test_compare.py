"""`kubectl finetune compare`: the same text under several base models, side by side."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from finetune_cli.app import app
from tests.unit_cli.conftest import write_rows

RUNNER = CliRunner()


def run(*arguments, width=100):
    return RUNNER.invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": str(width)})


def compare(*arguments, width=100):
    result = run(*arguments, width=width)
    assert (result.exit_code, result.stderr) == (0, "")
    return "\n".join(line.rstrip() for line in result.stdout.splitlines())


@pytest.fixture
def arguments(resource, text, spelling, knowing):
    return ("-f", resource(), "--data", text, "--model", spelling, "--model", knowing)


def test_each_model_has_a_column_and_tokens_stand_against_the_fewest(arguments):
    lines = compare(*arguments).splitlines()
    assert next(line.split() for line in lines if "knowing" in line) == ["spelling-8b", "knowing"]
    spelt, known = next(line.split()[1:] for line in lines if line.startswith("tokens  "))
    assert int(spelt.replace(",", "")) > 2 * int(known.replace(",", ""))
    assert next(line for line in lines if line.startswith("against the fewest")).endswith("1.00 x")


def test_the_density_that_each_tokenizer_gives_stands_beside_the_one_that_decides(arguments):
    lines = compare(*arguments).splitlines()
    measured = next(line for line in lines if line.startswith("token density, measured"))
    decides = next(line for line in lines if line.startswith("token density that decides"))
    assert (measured.split()[-2:], decides.split()[-2:]) == (["Dense", "Light"], ["Light", "Light"])


def test_a_warning_says_which_models_have_it(arguments):
    lines = compare(*arguments).splitlines()
    reported = next(line.split() for line in lines if line.startswith("density-measured-differs"))
    assert reported == ["density-measured-differs", "yes"]


def test_rows_that_a_models_template_refuses_are_counted(resource, text, spelling, knowing):
    config = json.loads((knowing / "tokenizer_config.json").read_text("utf-8"))
    config["chat_template"] = "{{ raise_exception('no chats') }}"
    (knowing / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    said = [{"role": "user", "content": "habari"}, {"role": "assistant", "content": "sawa"}]
    write_rows(text, [{"messages": said}, {"messages": [*said, *said]}])
    page = compare("-f", resource(), "--data", text, "--model", spelling, "--model", knowing)
    line = next(line for line in page.splitlines() if line.startswith("rows that training refuses"))
    assert line.split()[-2:] == ["0", "2"]


def test_memory_is_known_of_the_model_that_has_a_config(arguments):
    lines = compare(*arguments, "--gpu-memory", "80Gi").splitlines()
    memory = next(line.split() for line in lines if line.startswith("GPU memory"))
    assert memory[-1] == "unknown"
    assert memory[-2] == "GB"


def test_parameters_that_follow_the_tokenizer_are_shown_and_others_are_not(
    resource, text, spelling, knowing
):
    path = resource(policy="Evidence")
    found = json.loads(
        compare("-f", path, "--data", text, "--model", spelling, "--model", knowing, "-o", "json")
    )
    differing = {each["name"]: each["values"] for each in found["differences"]}
    assert "learning_rate" in differing
    assert "optimizer" not in differing


def test_each_models_plan_is_that_of_plan(arguments, resource, text, spelling):
    found = json.loads(compare(*arguments, "-o", "json"))
    first = found["models"][0]
    alone = ["plan", "-f", str(resource()), "--data", str(text), "--tokenizer", str(spelling)]
    planned = json.loads(RUNNER.invoke(app, [*alone, "-o", "json"]).stdout)
    assert (first["name"], first["path"]) == ("spelling-8b", str(spelling))
    assert first["plan"]["corpus"] == planned["corpus"]
    assert first["densities"] == ["Dense"]


def test_a_model_that_does_not_fit_keeps_its_column_and_says_why(resource, text, spelling, knowing):
    path = resource(method="LoRA")
    models = ("--model", spelling, "--model", knowing)
    page = compare("-f", path, "--data", text, *models, "--gpu-memory", "8Gi", width=300)
    assert "spelling-8b: " in page
    assert "A model of 8,030,261,248 parameters does not fit" in page
    assert next(line.split() for line in page.splitlines() if line.startswith("method")) == [
        *("method", "–", "LoRA")
    ]


def test_where_no_model_can_be_planned_with_the_reason_is_the_error(resource, text, spelling):
    path = resource(method="LoRA")
    result = run("-f", path, "--data", text, "--model", spelling, "--gpu-memory", "8Gi")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "does not fit" in result.stderr


def test_a_path_without_a_tokenizer_is_refused(resource, text, tmp_path):
    result = run("-f", resource(), "--data", text, "--model", tmp_path / "absent")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"--model {tmp_path}/absent: {tmp_path}/absent does not exist;")


@pytest.mark.parametrize("width", [60, 100])
def test_tables_fit_the_terminal(arguments, width):
    assert max(map(len, compare(*arguments, width=width).splitlines())) <= width


def test_models_that_do_not_fit_beside_each_other_get_a_table_of_their_own(arguments):
    lines = compare(*arguments, width=50).splitlines()
    heads = [line.split() for line in lines if line.split()[:1] in (["spelling-8b"], ["knowing"])]
    assert heads == [["spelling-8b"], ["knowing"]]
    assert sum(line.startswith("against the fewest") for line in lines) == 2


def test_yaml_says_the_same_as_json(arguments):
    assert yaml.safe_load(compare(*arguments, "-o", "yaml")) == json.loads(
        compare(*arguments, "-o", "json")
    )


def test_markdown_has_a_column_for_each_model(arguments):
    page = compare(*arguments, "-o", "markdown")
    assert page.startswith("## swahili\n\n| Tokenizer | spelling-8b | knowing |\n")
    assert "| token density, measured | Dense | Light |" in page
