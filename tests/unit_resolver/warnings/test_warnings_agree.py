"""Warnings that stand in one status never advise opposite things."""

from pathlib import Path

import pytest
import yaml

from finetune_resolver import LanguageMeasurement, Measurements
from finetune_resolver.memory.model_shape import shape_from_config

MODELS = yaml.safe_load(
    (Path(__file__).parents[1] / "test_memory_models.yaml").read_text(encoding="utf-8")
)
LLAMA_8B = shape_from_config(MODELS["llama-3.1-8b"]["config"])


@pytest.fixture
def advised(resolve_of):
    """Resolve an 8B with texts of so many tokens; return the warnings' messages by id."""

    def advise(*, p99: int | None = None, **declared) -> dict[str, str]:
        text = LanguageMeasurement(p99_tokens=p99)
        measured = Measurements(languages=(text,), shape=LLAMA_8B)
        resolution = resolve_of(measurements=measured, **declared)
        return {advice.id: advice.message for advice in resolution.warnings}

    return advise


def test_who_is_told_that_text_is_cut_is_not_told_to_cut_more(advised):
    messages = advised(tag="hi", p99=3_000, method="LoRA", resources={"gpuMemory": "20G"})
    assert messages["truncation-high"] == (
        "More than 1% of the examples of hi exceed 2,048 tokens (the 99th percentile is 3,000): the GPU "
        "hardly holds this length, so shorten or split them, or take a larger GPU."
    )
    assert messages["insufficient-gpu-memory"].endswith(
        "the run may end out of memory. Set method to QLoRA or take a larger GPU."
    )


@pytest.mark.parametrize(
    ("p99", "remedies"),
    [
        (1_000, "Lower parameters.maxSeqLength or take a larger GPU."),
        (3_000, "Take a larger GPU."),
    ],
)
def test_the_leanest_method_is_not_told_to_become_leaner(advised, p99, remedies):
    messages = advised(tag="hi", p99=p99, method="QLoRA", resources={"gpuMemory": "8G"})
    assert messages["insufficient-gpu-memory"].endswith(f"out of memory. {remedies}")


def test_text_that_outgrows_the_model_is_not_told_to_take_a_greater_length(advised):
    messages = advised(tag="hi", p99=200_000, policy="Evidence")
    assert messages["truncation-high"] == (
        "More than 1% of the examples of hi exceed 131,072 tokens (the 99th percentile is 200,000): the "
        "model reads 131,072 and no more, so shorten or split them."
    )


def test_a_low_rate_and_a_high_scale_name_each_other(advised):
    messages = advised(tag="hi", corpus="Small")
    assert messages["lr-below-lora-range"].endswith(
        "Override parameters.learningRate if the loss does not fall, and lower parameters.lora.alpha with it."
    )
    assert messages["alpha-ratio-high"] == (
        "lora_alpha/r is 64/8 = 8, above 4: it acts like a higher learning rate. Usual are 1 to 2. Here it "
        "makes up for a part of the low learning_rate: lower it only with a higher rate."
    )


def test_a_low_rate_alone_and_a_high_scale_alone_name_nothing_else(advised):
    slow = advised(tag="sw", corpus="Small")
    assert slow["lr-below-lora-range"].endswith("if the loss does not fall.")
    steep = advised(tag="hi", corpus="Large", parameters={"lora": {"r": 8}})
    assert steep["alpha-ratio-high"].endswith("Usual are 1 to 2.")


def test_the_scale_is_what_peft_makes_of_alpha(advised):
    lora = {"r": 16, "alpha": 64, "useRslora": True}
    assert advised(tag="es", corpus="Large", parameters={"lora": lora})["alpha-ratio-high"] == (
        "lora_alpha/sqrt(r) is 64/sqrt(16) = 16, above 4: it acts like a higher learning rate. Usual are 1 to 2."
    )
    plain = lora | {"useRslora": False}
    assert "alpha-ratio-high" not in advised(tag="es", corpus="Large", parameters={"lora": plain})
