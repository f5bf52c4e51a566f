"""`kubectl finetune explain`: golden outputs, forms and streams.

Golden files lie in tests/cases/resolve/<case>/. After a wanted change, write them again with
`UPDATE_GOLDEN=1 pytest tests/unit_cli/test_explain.py` and read the difference.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.inputs.checking import resolve_manifest
from finetune_cli.inputs.manifests import load_manifests
from finetune_cli.screens.rendering import render_table

CASES = sorted((Path(__file__).parents[1] / "cases" / "resolve").iterdir())
RUNNER = CliRunner()


def explain(path, output, *, width=80):
    arguments = ["explain", "-f", str(path), "-o", output]
    result = RUNNER.invoke(app, arguments, env={"COLUMNS": str(width), "NO_COLOR": "1"})
    assert (result.exit_code, result.stderr) == (0, "")
    return "\n".join(line.rstrip() for line in result.stdout.splitlines()) + "\n"


def assert_golden(path, text):
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(
    ("output", "width", "golden"),
    [
        ("json", 80, "resolution.json"),
        ("table", 80, "table-80.txt"),
        ("table", 140, "table-140.txt"),
    ],
    ids=["json", "table-80", "table-140"],
)
def test_output_is_the_golden_one(case, output, width, golden):
    assert_golden(case / golden, explain(case / "resource.yaml", output, width=width))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_table_line_is_wider_than_the_terminal(case):
    text = explain(case / "resource.yaml", "table", width=80)
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_in_a_narrow_terminal_reasons_stand_below_their_parameter(case):
    lines = explain(case / "resource.yaml", "table", width=50).splitlines()
    assert max(map(len, lines)) <= 50
    place = lines.index("bias  none")
    assert lines[place + 1] == "  Biases stay frozen: the adapter is lighter and"


def test_json_has_parameters_and_warnings_and_nothing_else():
    document = json.loads(explain(CASES[0] / "resource.yaml", "json"))
    assert list(document) == ["parameters", "warnings"]
    keys = ["name", "value", "rule", "guideIds", "source", "message"]
    assert all(list(parameter)[:6] == keys for parameter in document["parameters"])


def test_yaml_says_the_same_as_json():
    path = CASES[0] / "resource.yaml"
    assert yaml.safe_load(explain(path, "yaml")) == json.loads(explain(path, "json"))


def test_markdown_is_a_section_with_two_tables():
    text = explain(Path(CASES[0].parent / "hindi-guide-table" / "resource.yaml"), "markdown")
    assert text.startswith("## ml/hindi-assistant\n\npolicy Guide, method LoRA. ")
    assert (
        "| `r` | `8` | Evidence: 16 | R-1 | G-R-3 G-R-5 | A small corpus takes a small rank" in text
    )
    assert "| `alpha-ratio-high` | warn | lora_alpha/r is 64/8 = 8, above 4" in text


@pytest.mark.parametrize("output", ["table", "markdown"])
def test_without_warnings_there_is_no_table_of_them(output, tmp_path):
    resource = yaml.safe_load((CASES[0].parent / "overrides" / "resource.yaml").read_text("utf-8"))
    resource["spec"]["parameters"]["maxSteps"] = 1500
    path = tmp_path / "quiet.yaml"
    path.write_text(yaml.safe_dump(resource), "utf-8")
    assert "Warning" not in explain(path, output)


def test_stdin_is_read_for_a_dash():
    text = (CASES[0] / "resource.yaml").read_text("utf-8")
    result = RUNNER.invoke(app, ["explain", "-f", "-", "-o", "json"], input=text)
    assert result.stdout == (CASES[0] / "resolution.json").read_text("utf-8")


def test_other_kinds_are_passed_over_and_several_resources_are_named(tmp_path):
    ours = [(case / "resource.yaml").read_text("utf-8") for case in CASES[:2]]
    both = tmp_path / "both.yaml"
    both.write_text("kind: Secret\n---\n" + "\n---\n".join(ours) + "\n---\n", "utf-8")
    document = json.loads(explain(both, "json"))
    assert [item["name"] for item in document["items"]] == ["generic", "ml/hindi-assistant"]


def test_a_list_of_resources_is_opened(tmp_path):
    item = yaml.safe_load((CASES[0] / "resource.yaml").read_text("utf-8"))
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": [item]}), "utf-8")
    assert explain(path, "json") == (CASES[0] / "resolution.json").read_text("utf-8")


def test_an_override_is_coloured_on_a_terminal():

    console = Console(width=140, force_terminal=True, record=True, file=io.StringIO())
    (manifest,) = load_manifests(str(CASES[0].parent / "overrides" / "resource.yaml"))
    render_table({"x": resolve_manifest(manifest)}, console=console)
    assert "\x1b[33m0.0002" in console.export_text(styles=True)


def test_validate_says_valid_and_counts_the_warnings():
    path = CASES[0].parent / "generic-und" / "resource.yaml"
    result = RUNNER.invoke(app, ["validate", "-f", str(path)])
    assert (result.exit_code, result.stdout) == (
        0,
        "LanguageFinetune generic is valid; 2 warnings, see explain\n",
    )


def test_without_arguments_the_help_is_shown():
    result = RUNNER.invoke(app, [])
    assert "explain" in result.output
    assert "validate" in result.output


def test_the_module_runs_as_a_command():
    command = [
        sys.executable,
        "-m",
        "finetune_cli",
        "validate",
        "-f",
        str(CASES[0] / "resource.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
