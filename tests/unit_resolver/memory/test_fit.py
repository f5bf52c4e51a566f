"""What a GPU's memory and the model's shape change in a resolution: class, method, a refusal, a warning."""

from pathlib import Path

import pytest
import yaml

from finetune_resolver import (
    InsufficientGpuMemoryError,
    LanguageMeasurement,
    Measurements,
    decision_statuses,
)
from finetune_resolver.memory.estimate import GB
from finetune_resolver.memory.model_shape import shape_from_config

MODELS = yaml.safe_load(
    (Path(__file__).parents[1] / "test_memory_models.yaml").read_text(encoding="utf-8")
)
LLAMA_8B = shape_from_config(MODELS["llama-3.1-8b"]["config"])
EIGHT_B = Measurements(shape=LLAMA_8B)
HINDI = {"tag": "hi", "corpus": "Small"}


def with_gpu(size, **declared):
    return HINDI | {"measurements": EIGHT_B, "resources": {"gpuMemory": size}} | declared


def trait_of(resolution, name):
    return next(trait for trait in resolution.traits if trait.name == name)


@pytest.mark.parametrize(
    ("size", "method", "rule"),
    [("80G", "LoRA", "ME-1"), ("24Gi", "LoRA", "ME-1"), ("16G", "QLoRA", "ME-1")],
)
def test_auto_takes_lora_where_it_fits_and_else_qlora(resolve_of, size, method, rule):
    resolution = resolve_of(**with_gpu(size))
    assert (resolution.method.value, resolution.method.rule) == (method, rule)


def test_the_method_names_the_numbers_and_the_guides_advice(resolve_of):
    assert resolve_of(**with_gpu("16G")).method.message == (
        "QLoRA: one sequence of 2,048 tokens needs about 7.0 GB (5.9 to 8.2) of 14.4 GB (90% of the GPU's "
        "16.0). LoRA would need about 17.4 GB (14.6 to 20.2). By the guide, a full fine-tune of a large "
        "model costs too much memory (G-PR-1)."
    )


def test_status_shows_the_method_as_a_parameter_with_its_reason(resolve_of):
    method = decision_statuses(resolve_of(**with_gpu("16G")))[0]
    assert (method.name, method.value, method.rule, method.source, method.guide_ids) == (
        "method",
        '"QLoRA"',
        "ME-1",
        "Measured",
        ["G-PR-1"],
    )


def test_what_fits_nowhere_is_refused_with_the_nearest_that_would(resolve_of):
    with pytest.raises(InsufficientGpuMemoryError) as refused:
        resolve_of(**with_gpu("16G", method="LoRA"))
    assert str(refused.value) == (
        "A model of 8,030,261,248 parameters does not fit: LoRA with one sequence of 2,048 tokens needs "
        "about 17.4 GB (14.6 to 20.2), expected at most 14.4 GB (90% of the GPU's 16.0); use method "
        "QLoRA, or a GPU of 24 GB."
    )
    assert refused.value.nearest == ("method QLoRA", "a GPU of 24 GB")


@pytest.mark.parametrize(
    ("size", "memory", "rules"),
    [
        ("80G", "Ample", ("PDB-0", "GA-1")),
        ("8G", "Constrained", ("PDB-1", "GA-1")),
    ],
)
def test_the_nominal_batch_decides_the_guides_memory_class(resolve_of, size, memory, rules):
    resolution = resolve_of(**with_gpu(size, method="QLoRA"))
    trait = trait_of(resolution, "gpuMemory")
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    assert (trait.value, trait.source) == (memory, "Measured")
    assert tuple(resolution.decision(name).rule for name in names) == rules


def test_the_reason_of_the_class_has_the_numbers(resolve_of):
    trait = trait_of(resolve_of(**with_gpu("8G", method="QLoRA")), "gpuMemory")
    assert trait.detail == (
        "Constrained: the largest micro-batch with QLoRA is 1 x 2,048 tokens in 7.2 GB (90% of the GPU's 8.0), "
        "the guide's batch 8."
    )


def test_a_declared_class_is_never_computed(resolve_of):
    resolution = resolve_of(**with_gpu("8G", method="QLoRA", gpuMemoryClass="Ample"))
    trait = trait_of(resolution, "gpuMemory")
    assert (trait.value, trait.source) == ("Ample", "Declared")


def test_memory_that_holds_the_estimate_and_not_its_band_is_warned(resolve_of):
    resolution = resolve_of(**with_gpu("20G", method="LoRA"))
    advice = next(a for a in resolution.warnings if a.id == "insufficient-gpu-memory")
    assert advice.message == (
        "One sequence of 2,048 tokens needs about 17.4 GB and, the estimate being within 16%, up to 20.2 GB of the GPU's "
        "20.0: the run may end out of memory. Lower parameters.maxSeqLength, set method to QLoRA, or "
        "take a larger GPU."
    )
    roomy = resolve_of(**with_gpu("24G", method="LoRA"))
    assert "insufficient-gpu-memory" not in [advice.id for advice in roomy.warnings]


def test_the_node_tells_the_memory_where_the_resource_does_not(resolve_of):
    known = Measurements(shape=LLAMA_8B, gpu_memory_bytes=16 * GB)
    assert resolve_of(**HINDI, measurements=known).method.value == "QLoRA"
    declared = {"gpuMemory": "80G"}
    resolution = resolve_of(**HINDI, measurements=known, resources=declared)
    assert resolution.method.value == "LoRA"


def test_without_a_size_of_the_gpu_nothing_is_refused_and_the_need_is_told(resolve_of):
    resolution = resolve_of(**HINDI, measurements=EIGHT_B)
    assert (resolution.method.value, resolution.method.rule) == ("LoRA", "ME-0")
    assert round(resolution.predicted_memory.total_bytes / GB, 1) == 17.4
    assert resolution.method.message == (
        "LoRA: the GPU's memory is unknown, so nothing was compared; one sequence of 2,048 tokens needs "
        "about 17.4 GB (14.6 to 20.2). Set resources.gpuMemory to have it checked. By the guide, a full "
        "fine-tune of a large model costs too much memory (G-PR-1)."
    )


@pytest.mark.parametrize(
    ("measurements", "resources"),
    [(Measurements(), {}), (EIGHT_B, {"gpus": 0})],
    ids=["unknown model", "on CPU"],
)
def test_memory_is_predicted_only_for_a_gpu_and_a_known_model(resolve_of, measurements, resources):
    resolution = resolve_of(**HINDI, measurements=measurements, resources=resources)
    assert resolution.predicted_memory is None


def test_steps_are_counted_where_the_examples_are(resolve_of):
    counted = Measurements(languages=(LanguageMeasurement(examples=1000, held_out=50),))
    assert resolve_of(**HINDI, measurements=counted).total_steps == 90
    assert resolve_of(**HINDI).total_steps is None


@pytest.mark.parametrize(
    ("declared", "advice", "guide_id"),
    [
        ({"stage": "ContinuedPretraining"}, "Required", "G-PR-4"),
        ({"formats": ["Adapter", "Merged16Bit"]}, "Either", "G-PR-5"),
        ({"mode": "Plan"}, "Recommended", "G-PR-3"),
        ({"model": "hf://distilbert/distilgpt2-82M"}, "Optional", "G-PR-2"),
        ({}, "Preferred", "G-PR-1"),
    ],
)
def test_the_guides_advice_on_adapters_is_a_row_of_its_table(
    resolve_of, declared, advice, guide_id
):
    method = resolve_of(**declared).method
    assert (method.advice, method.guide_ids) == (advice, (guide_id,))
    assert method.message.endswith(f"({guide_id}).")
