"""Where a trait comes from: declared > guide > measured > evidence > script or word order > unset."""

import pytest

from finetune_api.resource import GpuMemoryClass, TrainingStage
from finetune_resolver import LanguageMeasurement, Measurements
from finetune_resolver.traits.evidence import tokenizer_family
from finetune_resolver.traits.measurement import classify_corpus

LLAMA2, GEMMA3 = "hf://meta-llama/Llama-2-7b-hf", "hf://google/gemma-3-4b-it"
FIVE = {"chars_per_token": 5.0}
ONE = {"chars_per_token": 1.0}


@pytest.mark.parametrize(
    ("declared", "measured", "trait"),
    [
        ({"tag": "hi", "tokenDensity": "Light"}, ONE, ("Light", "Declared")),
        ({"tag": "hi"}, FIVE, ("Dense", "Guide")),
        ({"tag": "ur"}, FIVE, ("Light", "Measured")),
        ({"tag": "ur", "model": GEMMA3}, ONE, ("Dense", "Measured")),
        ({"tag": "ur", "model": GEMMA3}, {}, ("Light", "Evidence")),
        ({"tag": "ur", "model": LLAMA2}, {}, ("Dense", "Evidence")),
        ({"tag": "ur"}, {}, ("Dense", "Script")),
        ({"tag": "lv", "model": LLAMA2}, {}, ("Light", "Script")),
        ({"tag": "ru"}, {}, ("Light", "Script")),
        ({"tag": "und-Deva"}, {}, ("Dense", "Script")),
        ({"tag": "hi-Latn"}, {}, ("Light", "Script")),
        ({"tag": "und"}, FIVE, ("Light", "Measured")),
        ({"tag": "und"}, {}, None),
        ({"tag": "qaa"}, {}, None),
    ],
)
def test_token_density_is_the_first_source_that_knows(resolve_of, declared, measured, trait):
    assert source_of(resolve_of, "tokenDensity", declared, measured) == trait


@pytest.mark.parametrize(
    ("declared", "measured", "trait"),
    [
        ({"tag": "sw", "morphology": "Complex"}, {}, ("Complex", "Declared")),
        ({"tag": "hi"}, {"mattr500": 0.5, "words": 9000}, ("Complex", "Guide")),
        ({"tag": "uz"}, {"mattr500": 0.67, "words": 5000}, ("Complex", "Measured")),
        ({"tag": "uz"}, {"mattr500": 0.66, "words": 5000}, ("Simple", "Measured")),
        ({"tag": "uz"}, {"mattr500": 0.80, "words": 4999}, None),
        ({"tag": "uz"}, {}, None),
        ({"tag": "hu"}, {}, ("Complex", "Evidence")),
        ({"tag": "de"}, {}, ("Complex", "Evidence")),
        ({"tag": "am"}, {}, ("Simple", "Evidence")),
        ({"tag": "und"}, {}, None),
    ],
)
def test_morphology_is_the_first_source_that_knows(resolve_of, declared, measured, trait):
    assert source_of(resolve_of, "morphology", declared, measured) == trait


@pytest.mark.parametrize(
    ("declared", "name", "trait"),
    [
        ({"tag": "sw", "resourceLevel": "High"}, "resourceLevel", ("High", "Declared")),
        ({"tag": "sw"}, "resourceLevel", ("Low", "Guide")),
        ({"tag": "am"}, "resourceLevel", ("Low", "Evidence")),
        ({"tag": "ru"}, "resourceLevel", ("High", "Evidence")),
        ({"tag": "ur"}, "resourceLevel", None),
        ({"tag": "ay"}, "resourceLevel", None),
        ({"tag": "ar", "syntaxDistance": "Near"}, "syntaxDistance", ("Near", "Declared")),
        ({"tag": "ar"}, "syntaxDistance", ("Far", "Guide")),
        ({"tag": "cy"}, "syntaxDistance", ("Far", "Evidence")),
        ({"tag": "mg"}, "syntaxDistance", ("Far", "Evidence")),
        ({"tag": "pt"}, "syntaxDistance", ("Near", "Evidence")),
        ({"tag": "de"}, "syntaxDistance", None),
        ({"tag": "kk"}, "syntaxDistance", None),
        ({"tag": "ar", "documents": "Long"}, "documents", ("Long", "Declared")),
        ({"tag": "ar"}, "documents", None),
        ({"tag": "ar"}, "corpus", None),
        ({"tag": "ar", "codeSwitching": True}, "codeSwitching", (True, "Declared")),
        ({"tag": "ar"}, "codeSwitching", (False, "Default")),
        ({"depth": "Deep"}, "modelDepth", ("Deep", "Declared")),
        ({}, "modelDepth", ("Standard", "Default")),
        ({"gpuMemoryClass": "Constrained"}, "gpuMemory", ("Constrained", "Declared")),
        ({}, "gpuMemory", ("Ample", "Default")),
        ({"tag": "und"}, "morphologyKind", None),
    ],
)
def test_other_traits_are_the_first_source_that_knows(resolve_of, declared, name, trait):
    assert source_of(resolve_of, name, declared, {}) == trait


@pytest.mark.parametrize(("index", "mixed"), [(14.9, False), (15.0, True)])
def test_a_measured_code_mixing_index_decides(resolve_of, index, mixed):
    measured = {"code_mixing_index": index}
    assert source_of(resolve_of, "codeSwitching", {}, measured) == (mixed, "Measured")


@pytest.mark.parametrize(("layers", "depth"), [(39, "Standard"), (40, "Deep")])
def test_measured_layers_decide_the_depth(resolve_of, layers, depth):
    resolution = resolve_of(measurements=Measurements(hidden_layers=layers))
    traits = {trait.name: trait for trait in resolution.traits}
    assert (traits["modelDepth"].value, traits["modelDepth"].source) == (depth, "Measured")


def test_the_memory_models_class_decides_where_none_is_declared(resolve_of):
    measurements = Measurements(gpu_memory_class=GpuMemoryClass.CONSTRAINED)
    resolution = resolve_of(measurements=measurements)
    assert resolution.decision("per_device_train_batch_size").rule == "PDB-1"


@pytest.mark.parametrize(
    ("stage", "size", "corpus"),
    [
        ("Instruction", 9_999, "Small"),
        ("Instruction", 10_000, "Medium"),
        ("Instruction", 99_999, "Medium"),
        ("Instruction", 100_000, "Large"),
        ("ContinuedPretraining", 49_999_999, "Small"),
        ("ContinuedPretraining", 50_000_000, "Medium"),
        ("ContinuedPretraining", 999_999_999, "Medium"),
        ("ContinuedPretraining", 1_000_000_000, "Large"),
    ],
)
def test_corpus_class_changes_at_its_bounds(stage, size, corpus):
    assert classify_corpus(size, stage=TrainingStage(stage)) == corpus


def test_corpus_counts_examples_or_tokens_by_stage(resolve_of):
    measured = LanguageMeasurement(examples=20_000, unique_tokens=60_000_000)
    details = [
        trait.detail
        for stage in ("Instruction", "ContinuedPretraining")
        for trait in resolve_of(measured=measured, stage=stage).traits
        if trait.name == "corpus"
    ]
    assert details == ["20,000 examples", "60,000,000 unique tokens"]


@pytest.mark.parametrize(
    ("uri", "family"),
    [
        ("hf://meta-llama/Llama-2-7b-hf", "llama2"),
        ("hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama2"),
        ("hf://meta-llama/Meta-Llama-3-8B", "llama31"),
        ("hf://meta-llama/Llama-3.1-8B-Instruct", "llama31"),
        ("hf://meta-llama/Llama-3.3-70B-Instruct", "llama31"),
        ("hf://Qwen/Qwen2.5-0.5B", "qwen3"),
        ("hf://Qwen/Qwen3-8B", "qwen3"),
        ("hf://Qwen/Qwen3.5-9B", ""),
        ("s3://models/gemma-3-4b-it", "gemma3"),
        ("hf://google/gemma-2-9b", ""),
        ("hf://deepseek-ai/DeepSeek-R1-Distill-Llama-8B", ""),
        ("hf://HuggingFaceTB/SmolLM2-135M-Instruct", ""),
    ],
)
def test_tokenizer_family_is_told_by_the_models_name(uri, family):
    assert tokenizer_family(uri) == family


def source_of(resolve_of, name, declared, measured):
    resolution = resolve_of(measured=LanguageMeasurement(**measured), **declared)
    found = {trait.name: (trait.value, trait.source) for trait in resolution.traits}
    return found.get(name)
