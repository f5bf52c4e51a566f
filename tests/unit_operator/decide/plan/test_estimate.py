"""What a plan says that a run will take, and why it says no time."""

from pathlib import Path

import pytest
import yaml

from finetune_api.profile import LanguageProfile, Profile, TokenizerProfile
from finetune_api.resource import LanguageFinetuneSpec
from finetune_operator.decide.plan.estimate import Forecast, build_forecast
from finetune_resolver import build_measurements, resolve

H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
MODELS = Path(__file__).parents[3] / "unit_resolver" / "test_memory_models.yaml"
LLAMA_8B = yaml.safe_load(MODELS.read_text("utf-8"))["llama-3.1-8b"]["config"]


def profile(model: dict[str, object]) -> Profile:
    text = LanguageProfile(
        tag="sw",
        examples=10_000,
        unique_examples=10_000,
        tokens=3_000_000,
        unique_tokens=3_000_000,
        supervised_tokens=2_000_000,
        p50=250,
        p95=800,
        p99=1_500,
        longest=4_000,
        characters=8_000_000,
        text_tokens=2_000_000,
        text_bytes=9_000_000,
    )
    tokenizer = TokenizerProfile(sha256="0" * 64, vocabulary=128_256)
    return Profile(tokenizer=tokenizer, model=model, languages=(text,))


def forecast_of(*, model=LLAMA_8B, product=H100, sequences=10_000, **resources) -> Forecast:
    spec = LanguageFinetuneSpec.model_validate(
        {
            "model": {"uri": "hf://org/base"},
            "languages": [{"tag": "sw", "dataset": {"uri": "s3://corpora/text/"}}],
            "output": {"uri": "s3://adapters/"},
            "policy": "Evidence",
            "resources": resources,
            "scheduling": {"nodeSelector": product},
        }
    )
    found = profile(model)
    measured = build_measurements(spec, found)
    return build_forecast(
        spec,
        resolution=resolve(spec, measured=measured),
        measured=measured,
        profile=found,
        sequences=sequences,
    )


def test_a_measured_gpu_gives_memory_and_time():
    forecast = forecast_of(gpuMemory="80Gi")
    assert forecast.memory is not None
    assert (forecast.memory.least, forecast.memory.predicted) == ("16.3Gi", "41.8Gi")
    assert (forecast.seconds, forecast.seconds_unknown) == (177, "")


def test_where_the_gpus_memory_is_unknown_the_least_is_all_that_is_predicted():
    memory = forecast_of().memory
    assert memory is not None
    assert memory.predicted == memory.least == "16.3Gi"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"gpus": 0}, "no speed on CPU was measured"),
        ({"gpus": 2}, "the speed of several GPUs is not predicted, only that of one"),
        ({"model": {}}, "the model's config.json names no sizes that are known"),
        (
            {"product": {}},
            (
                "scheduling.nodeSelector names no nvidia.com/gpu.product, and a speed was measured on "
                "NVIDIA-H100-80GB-HBM3"
            ),
        ),
    ],
    ids=["CPU", "two GPUs", "no sizes", "no product"],
)
def test_an_unknown_time_is_told_with_its_reason(given, why):
    forecast = forecast_of(**given)
    assert (forecast.seconds, forecast.seconds_unknown) == (None, why)


def test_nothing_that_is_unmeasured_is_foretold():
    spec = LanguageFinetuneSpec.model_validate(
        {
            "model": {"uri": "hf://org/base"},
            "languages": [{"tag": "sw", "dataset": {"uri": "s3://corpora/text/"}}],
            "output": {"uri": "s3://adapters/"},
        }
    )
    forecast = build_forecast(
        spec, resolution=resolve(spec), measured=None, profile=None, sequences=0
    )
    assert (forecast.memory, forecast.seconds) == (None, None)
