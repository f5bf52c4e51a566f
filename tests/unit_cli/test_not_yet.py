"""What comes later: explained beforehand, refused where it would have to run."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from finetune_cli.app import app

RUNNER = CliRunner()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    spec = {
        "model": {"uri": "hf://org/base"},
        "languages": [{"tag": "hi", "dataset": {"uri": "s3://corpora/hi/"}}],
        "output": {"uri": "s3://adapters/", "formats": ["GGUF"]},
    }
    body = {
        "apiVersion": "langops.dev/v1alpha1",
        "kind": "LanguageFinetune",
        "metadata": {"name": "hindi"},
        "spec": spec,
    }
    path = tmp_path / "hindi.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


def test_explain_shows_the_parameters_and_warns_of_what_would_be_refused(file: Path) -> None:
    result = RUNNER.invoke(app, ["explain", "-f", str(file), "-o", "json"])
    explained = json.loads(result.stdout)
    assert (result.exit_code, len(explained["parameters"])) == (0, 31)
    first = explained["warnings"][0]
    assert (first["id"], first["parameter"], first["severity"]) == (
        "not-supported-yet",
        "output.formats",
        "warn",
    )
    assert first["message"].startswith(
        "The API server refuses spec.output.formats: not supported yet: formats other than Adapter; "
    )


def test_validate_refuses_it_as_the_api_server_does(file: Path) -> None:
    result = RUNNER.invoke(app, ["validate", "-f", str(file)])
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"{file}: LanguageFinetune hindi: spec.output.formats: not supported yet"
    )
