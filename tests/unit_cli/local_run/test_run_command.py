"""`kubectl finetune run` as a person calls it: with the real trainer, a tiny model and a CSV."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from finetune_api import wire
from finetune_cli.app import app

torch = pytest.mark.torch


def write_resource(folder: Path, **changes: Any) -> Path:
    spec = {
        "model": {"uri": "hf://org/tiny"},
        "languages": [{"tag": "sw", "dataset": {"uri": "s3://corpora/sw/"}}],
        "parameters": {"maxSteps": 4, "maxSeqLength": 64, "batchSize": 4, "learningRate": 0.01},
        "output": {"uri": "s3://adapters/"},
    }
    body = {
        "apiVersion": wire.API_VERSION,
        "kind": wire.KIND,
        "metadata": {"name": "swahili", "namespace": "ml"},
        "spec": spec | changes,
    }
    path = folder / "resource.yaml"
    path.write_text(yaml.safe_dump(body), "utf-8")
    return path


def write_text(folder: Path) -> Path:
    rows = [f"Habari ya {number}?,Nzuri sana {number}." for number in range(60)]
    path = folder / "swali.csv"
    path.write_text("\n".join(["prompt,completion", *rows]) + "\n", "utf-8")
    return path


def run(*arguments: str | Path, **environ: str) -> Result:
    return CliRunner().invoke(app, ["run", *map(str, arguments)], env=environ)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--model", "nowhere"],
            (
                "--model nowhere holds no config.json; expected a folder with a copy of the base model: "
                "config.json, tokenizer.json and its safetensors."
            ),
        ),
        (["--data", "nowhere.csv"], "--data nowhere.csv does not exist; check the path."),
    ],
    ids=["model", "data"],
)
def test_what_is_not_there_is_refused_before_anything_is_made(
    tmp_path: Path, arguments: list[str], line: str
) -> None:
    resource = write_resource(tmp_path)
    result = run("-f", resource, "--output-dir", tmp_path / "out", *arguments)
    assert (result.exit_code, result.stderr) == (2, f"{line}\n")
    assert not (tmp_path / "out").exists()


def test_a_resource_that_breaks_a_rule_is_refused(tmp_path: Path) -> None:
    resource = write_resource(tmp_path, output={"uri": "file:///out"})
    result = run("-f", resource)
    assert result.exit_code == 2
    assert "spec.output.uri" in result.stderr


@torch
def test_a_csv_becomes_an_adapter_in_a_folder(tmp_path: Path) -> None:
    tiny = pytest.importorskip("tests.unit_trainer.tiny")
    model = tiny.write_model(tmp_path / "tiny")
    resource, text = write_resource(tmp_path), write_text(tmp_path)
    out, cache = tmp_path / "out", tmp_path / "cache"
    options = ("-f", resource, "--data", text, "--model", model, "--output-dir", out)
    first = run(*options, "-o", "json", XDG_CACHE_HOME=str(cache))
    log = (out / "ml/swahili/trainer.log").read_text()
    assert first.exit_code == 0, first.output + log
    status = json.loads(first.stdout)["status"]
    folder = out / "ml/swahili/runs" / f"1-{status['plan']['hash'][:8]}"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["planHash"] == status["plan"]["hash"]
    assert manifest["model"] == "hf://org/tiny"
    assert (folder / "adapter_model.safetensors").is_file()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/tiny"
    assert status["corpus"][0]["examples"] + status["corpus"][0]["validationExamples"] == 60
    again = run(*options, XDG_CACHE_HOME=str(cache))
    assert again.exit_code == 0
    assert f"Adapter   {folder}\n" in again.stdout
    assert (folder / "manifest.json").read_text() == json.dumps(manifest, indent=2) + "\n"
