"""The counts equal those of transformers' own classes, built without memory."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_resolver.memory.model_shape import shape_from_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

MODELS: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[1] / "test_memory_models.yaml").read_text("utf-8")
)
TEXT_ONLY = {name: model for name, model in MODELS.items() if "text_config" not in model["config"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama with biases": {"base": "llama-3.2-1b", "attention_bias": True, "mlp_bias": True},
    "qwen3 with biases": {"base": "qwen3-0.6b", "attention_bias": True},
    "gemma2 with biases": {"base": "gemma-2-2b", "attention_bias": True},
    "gemma": {"base": "gemma-2-2b", "model_type": "gemma"},
}


def built_parameters(config: dict[str, Any]) -> int:
    loaded = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(loaded)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", TEXT_ONLY)
def test_a_public_models_weights_are_counted_as_transformers_builds_them(name: str) -> None:
    config = TEXT_ONLY[name]["config"]
    assert shape_from_config(config).parameters() == built_parameters(config)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variants_weights_are_counted_as_transformers_builds_them(name: str) -> None:
    changes = {key: value for key, value in VARIANTS[name].items() if key != "base"}
    config = {**MODELS[VARIANTS[name]["base"]]["config"], **changes}
    assert shape_from_config(config).parameters() == built_parameters(config)


def test_a_nested_gemma_3_is_counted_as_transformers_builds_its_language_part() -> None:
    config = MODELS["gemma-3-4b"]["config"]
    text = config["text_config"]
    assert shape_from_config(config).parameters() == built_parameters(text)


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen3-0.6b", "phi-3-mini", "mistral-nemo-12b"])
def test_module_names_and_widths_are_those_of_transformers(name: str) -> None:
    config = MODELS[name]["config"]
    loaded = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(loaded)
    layer = model.model.layers[0]
    built = {
        path.rsplit(".", maxsplit=1)[-1]: (module.in_features, module.out_features)
        for path, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert shape_from_config(config).linears() == built
