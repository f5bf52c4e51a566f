"""The examples that people copy hold what they promise, without a cluster."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from finetune_api.resource import LanguageFinetune
from finetune_api.validation import check_spec
from finetune_cli.app import app

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
OVERRIDES = {
    "gpu": {"max_seq_length", "num_train_epochs", "r", "lora_alpha", "target_modules"},
    "swahili": {"max_seq_length", "num_train_epochs", "learning_rate"},
}


def load(file: Path) -> LanguageFinetune:
    return LanguageFinetune.from_object(yaml.safe_load(file.read_text()))


def test_the_examples_are_these() -> None:
    names = [file.stem for file in EXAMPLES]

    assert names == ["evidence", "gpu", "plan", "smallest", "swahili", "traits"]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_breaks_no_rule(file: Path) -> None:
    assert check_spec(load(file).spec) == []


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_says_what_it_is_for(file: Path) -> None:
    assert file.read_text().startswith("# ")


def test_the_demo_trains_on_cpu() -> None:
    assert load(ROOT / "examples/swahili.yaml").spec.resources.gpus == 0


def test_the_smallest_example_sets_nothing_optional() -> None:
    spec = load(ROOT / "examples/smallest.yaml").spec

    assert spec.model_fields_set == {"model", "languages", "output"}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_explain_shows_what_an_example_overrides_and_nothing_else(file: Path) -> None:
    shown = CliRunner().invoke(app, ["explain", "-f", str(file), "-o", "json"])

    assert shown.exit_code == 0, shown.output
    parameters = json.loads(shown.stdout)["parameters"]
    overridden = {one["name"] for one in parameters if one["source"] == "Override"}
    assert overridden == OVERRIDES.get(file.stem, set())
