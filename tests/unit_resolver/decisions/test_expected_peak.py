"""The micro-batch that operator and CLI predict is the one that the trainer chooses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.micro_batch import FUSED_MODEL_TYPES, MicroBatchLimits
from finetune_api.resource import LanguageFinetuneSpec, Method, Optimizer
from finetune_resolver import LanguageMeasurement, Measurements, resolve
from finetune_resolver.decisions import expected_peak as ours
from finetune_resolver.memory.estimate import FIXED_BYTES, TrainingEngine, Workload, estimate_memory
from finetune_resolver.memory.model_shape import shape_from_config

pytest.importorskip("torch")
from finetune_trainer.engine import tuning as theirs
from finetune_trainer.fused.restrictions import MODEL_TYPES, UNMEASURED

SHAPES = {
    name: shape_from_config(model["config"])
    for name, model in yaml.safe_load(
        (Path(__file__).parents[1] / "test_memory_models.yaml").read_text("utf-8")
    ).items()
}
ALL_RANKS = 256
"""Padded columns of rank 16 on all modules."""
GB = 10**9
FUSED = Workload(method=Method.LORA, engine=TrainingEngine.FUSED, optimizer=Optimizer.ADAMW)
TEXT = LanguageMeasurement(
    examples=10_000, tokens=3_000_000, p95_tokens=800, p99_tokens=1_500, max_tokens=4_000
)


def choose(shape, *, gpu_bytes: int, step: ours.LargestStep) -> theirs.MicroBatchChoice:
    """Return the trainer's choice on a GPU that holds nothing but the loaded model."""
    loaded = estimate_memory(shape, FUSED, tokens_per_micro_batch=0)
    trainable = shape.lora_parameters(rank=16, modules=FUSED.modules)
    used = loaded.weights_bytes + 4 * trainable
    widths = theirs.Widths(
        layers=shape.layers,
        hidden=shape.hidden_size,
        intermediate=shape.intermediate_size,
        query=shape.query_size,
        key=shape.key_size,
        heads=shape.attention_heads,
        vocabulary=shape.vocabulary_size,
    )
    return theirs.decide_micro_batch(
        theirs.estimate_fused_cost(
            widths,
            ranks=ALL_RANKS,
            trainable=trainable,
            head_norms=shape.head_norms,
            output_norms=shape.output_norms,
        ),
        MicroBatchLimits(
            free_bytes=gpu_bytes - used - round(FIXED_BYTES),
            longest=step.longest,
            step_tokens=step.tokens,
            layers=shape.layers,
            can_recompute=True,
            keeps_some_layers=True,
        ),
        used_bytes=used,
        forced=theirs.Forced(),
    )


def test_the_fused_stack_knows_every_type_that_is_expected_to_run_on_it():
    assert FUSED_MODEL_TYPES < MODEL_TYPES
    assert {"gemma3_text"} == UNMEASURED


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.2-1b", "qwen2.5-7b", "gemma-3-1b"])
@pytest.mark.parametrize("gpu_gb", [20, 24, 28, 40, 48, 80, 141])
@pytest.mark.parametrize(
    "step",
    [ours.LargestStep(400, 900), ours.LargestStep(2_048, 9_000), ours.LargestStep(8_192, 131_072)],
    ids=["small", "middle", "large"],
)
def test_both_choose_the_same_micro_batch_and_the_same_peak(name, gpu_gb, step):
    shape = SHAPES[name]
    chosen = choose(shape, gpu_bytes=gpu_gb * GB, step=step)
    expected: Any = ours.estimate_micro_batch(
        shape, FUSED, step=step, gpu_memory_bytes=gpu_gb * GB, can_recompute=True
    )
    assert (expected.tokens, expected.layers_kept) == (
        pytest.approx(chosen.tokens, abs=1),
        chosen.layers_kept,
    )
    assert expected.peak.total_bytes - FIXED_BYTES == pytest.approx(
        chosen.predicted_peak_bytes, rel=1e-3
    )


def test_the_largest_step_lies_between_the_mean_and_the_longest():
    step: Any = ours.estimate_largest_step([TEXT], sequences=16, max_seq_length=2_048)
    assert (step.longest, step.tokens) == (2_048, 8_448)
    even = replace(TEXT, p95_tokens=300, max_tokens=300)
    evenly: Any = ours.estimate_largest_step([even], sequences=16, max_seq_length=2_048)
    assert evenly.tokens == 4_800
    one: Any = ours.estimate_largest_step([TEXT], sequences=1, max_seq_length=2_048)
    assert one.tokens == one.longest == 2_048


def test_an_unmeasured_text_has_no_largest_step():
    texts = [TEXT, LanguageMeasurement(examples=10)]
    assert ours.estimate_largest_step(texts, sequences=16, max_seq_length=2_048) is None
    assert ours.estimate_largest_step([], sequences=16, max_seq_length=2_048) is None


def expect(*, model: str = "llama-3.1-8b", text=TEXT, **resources) -> Any:
    spec = LanguageFinetuneSpec.model_validate(
        {
            "model": {"uri": "hf://org/base"},
            "languages": [{"tag": "sw", "dataset": {"uri": "s3://corpora/text/"}}],
            "output": {"uri": "s3://adapters/"},
            "policy": "Evidence",
            "resources": resources,
        }
    )
    measured = Measurements(languages=(text,), shape=SHAPES[model])
    return ours.estimate_expected_micro_batch(
        spec, resolution=resolve(spec, measured=measured), measured=measured
    )


def test_room_to_spare_is_used_and_a_small_gpu_recomputes():
    roomy, small = expect(gpuMemory="80Gi"), expect(gpuMemory="24Gi")
    assert (roomy.layers_kept, roomy.tokens) == (32, 8_448)
    assert small.layers_kept < 32
    assert small.peak.total_bytes < 24 * 2**30 < roomy.peak.total_bytes


def test_a_model_of_another_kind_keeps_all_layers_or_none():
    assert expect(model="gemma-2-9b", gpuMemory="80Gi").layers_kept == 42
    assert expect(model="gemma-2-9b", gpuMemory="24Gi").layers_kept == 0


def test_gemma_3_is_expected_on_unsloths_path_until_a_gpu_has_run_the_stack_with_it():
    """Which keeps all layers or none."""
    assert expect(model="gemma-3-1b", gpuMemory="10Gi").layers_kept == 26
    assert expect(model="gemma-3-1b", gpuMemory="8Gi").layers_kept == 0
    assert expect(model="gemma-3-4b", gpuMemory="16Gi").layers_kept == 0


@pytest.mark.parametrize(
    ("text", "resources"),
    [
        (TEXT, {"gpus": 0}),
        (TEXT, {}),
        (LanguageMeasurement(), {"gpuMemory": "80Gi"}),
    ],
    ids=["CPU", "unknown GPU", "unmeasured text"],
)
def test_nothing_is_predicted_of_what_is_unknown(text, resources):
    assert expect(text=text, **resources) is None
