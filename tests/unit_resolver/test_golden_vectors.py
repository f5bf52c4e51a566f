"""Whole rows of values for languages beyond the guide's examples, under every known tokenizer."""

from pathlib import Path

import pytest
import yaml

GOLDEN = yaml.safe_load((Path(__file__).parent / "golden_vectors.yaml").read_text("utf-8"))
MODELS = (
    "hf://org/model",
    "hf://meta-llama/Llama-2-7b-hf",
    "hf://meta-llama/Llama-3.1-8B-Instruct",
    "hf://Qwen/Qwen3-8B",
    "hf://google/gemma-3-4b-it",
)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("vector", GOLDEN["vectors"], ids=lambda v: f"{v['tag']}-{v['corpus']}")
def test_vector_resolves_exactly_whatever_the_model(vector, model, resolve_of, view_of):
    resolution = resolve_of(tag=vector["tag"], corpus=vector["corpus"], model=model)
    assert [view_of(resolution, name) for name in GOLDEN["columns"]] == vector["values"]
