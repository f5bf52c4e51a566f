"""How fast a training is where that was measured, and nothing where it was not."""

from typing import Any

import pytest

from finetune_resolver.memory.model_shape import ModelShape, shape_from_config
from finetune_resolver.memory.throughput import estimate_tokens_per_second, why_unknown

H100 = "NVIDIA-H100-80GB-HBM3"
LARGE = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
SMALL = LARGE | {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "intermediate_size": 8192,
    "tie_word_embeddings": True,
}
MIDDLE = LARGE | {
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "intermediate_size": 8192,
}


def shape(config: dict[str, Any], **changes: Any) -> ModelShape:
    return shape_from_config(config | changes)


@pytest.mark.parametrize(
    ("config", "measured"), [(SMALL, 85_222), (LARGE, 16_928)], ids=["1B", "8B"]
)
def test_what_was_measured_comes_out(config: dict[str, Any], measured: int) -> None:
    speed = estimate_tokens_per_second(shape(config), product=H100)
    assert speed == pytest.approx(measured, rel=0.01)
    assert why_unknown(shape(config), product=H100) == ""


def test_a_size_between_lies_between() -> None:
    speed = estimate_tokens_per_second(shape(MIDDLE), product=H100)
    assert speed is not None
    assert 16_928 < speed < 85_222


@pytest.mark.parametrize(
    ("changes", "product", "why"),
    [
        ({}, "NVIDIA-A10", f"no speed was measured on NVIDIA-A10, only on {H100}"),
        (
            {},
            "",
            f"scheduling.nodeSelector names no nvidia.com/gpu.product, and a speed was measured on {H100}",
        ),
        (
            {"model_type": "qwen3"},
            H100,
            "no speed of a qwen3 model was measured, only of llama",
        ),
        (
            {"num_hidden_layers": 80},
            H100,
            "no speed of a model of this size was measured, only of 1B to 8B",
        ),
        (
            {"num_hidden_layers": 2},
            H100,
            "no speed of a model of this size was measured, only of 1B to 8B",
        ),
    ],
    ids=["another GPU", "no GPU named", "another family", "far larger", "far smaller"],
)
def test_what_was_not_measured_is_told_and_no_speed_is(
    changes: dict[str, Any], product: str, why: str
) -> None:
    assert estimate_tokens_per_second(shape(LARGE, **changes), product=product) is None
    assert why_unknown(shape(LARGE, **changes), product=product) == why
