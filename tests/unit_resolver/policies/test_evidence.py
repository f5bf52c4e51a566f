"""Policy Evidence: its formulas' vectors, what it falls back to, and how the two policies stand together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.alias_generators import to_snake

from finetune_api.resource import LanguageFinetuneSpec
from finetune_resolver import (
    InsufficientGpuMemoryError,
    LanguageMeasurement,
    Measurements,
    UnsupportedModelError,
    build_training,
    decision_statuses,
    resolve,
)
from finetune_resolver.memory.estimate import GB
from finetune_resolver.memory.model_shape import shape_from_config
from finetune_resolver.policies import guide as rules_guide
from finetune_resolver.policies.evidence import BORROWED, GROUPS, RULES
from finetune_resolver.policies.facts import read_size_from_name
from finetune_resolver.policies.rule import always_for_evidence
from finetune_resolver.traits.trait import AXIS_NAMES

MODELS = yaml.safe_load(
    (Path(__file__).parents[1] / "test_memory_models.yaml").read_text(encoding="utf-8")
)
LLAMA_8B = shape_from_config(MODELS["llama-3.1-8b"]["config"])
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="session")
def evidence_of(resolve_of):
    """Resolve by policy Evidence: keywords of a measurement, `shape`, `gpu_gb`, and a declaration."""

    def evidence(*, shape=None, gpu_gb=None, text=None, **declared):
        measured = Measurements(
            languages=(LanguageMeasurement(**(text or {})),),
            shape=shape,
            gpu_memory_bytes=gpu_gb * GB if gpu_gb else None,
        )
        return resolve_of(policy="Evidence", measurements=measured, **declared)

    return evidence


def decided(resolution, name):
    decision = resolution.decision(name)
    return decision.value, decision.rule


def warning_ids(resolution):
    return [advice.id for advice in resolution.warnings]


# --- Vectors of the formulas ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p99", "length"),
    [(1, 512), (400, 512), (512, 512), (513, 768), (1312, 1536), (1500, 1536), (131_072, 131_072)],
)
def test_the_length_is_the_99th_percentile_in_steps_of_256(evidence_of, p99, length):
    resolution = evidence_of(shape=LLAMA_8B, text={"p99_tokens": p99})
    assert decided(resolution, "max_seq_length") == (length, "E-MSL-2")


def test_texts_that_outgrow_the_model_take_its_whole_context_and_say_that_they_are_cut(evidence_of):
    resolution = evidence_of(shape=LLAMA_8B, text={"p99_tokens": 200_000})
    assert decided(resolution, "max_seq_length") == (131_072, "E-MSL-3")
    assert resolution.decision("max_seq_length").message == (
        "The 99th percentile of the texts is 200,000 tokens and the model reads 131,072: its whole"
        " context, and what is longer is cut."
    )


def test_unmeasured_lengths_take_the_usual_one_within_the_models_context(evidence_of):
    short = replace(LLAMA_8B, max_positions=1024)
    assert decided(evidence_of(), "max_seq_length") == (2048, "E-MSL-0")
    assert decided(evidence_of(shape=short), "max_seq_length") == (1024, "E-MSL-0")


@pytest.mark.parametrize(
    ("tokens", "rank"),
    [
        (3_000_000, 8),
        (20_000_000, 8),
        (21_000_000, 16),
        (42_000_000, 32),
        (100_000_000, 64),
        (1_000_000_000, 256),
    ],
)
def test_the_rank_has_as_many_weights_as_there_are_tokens(evidence_of, tokens, rank):
    resolution = evidence_of(shape=LLAMA_8B, text={"supervised_tokens": tokens})
    assert decided(resolution, "r") == (rank, "E-R-1")


def test_a_rank_that_reaches_its_cap_says_so(evidence_of):
    resolution = evidence_of(shape=LLAMA_8B, text={"supervised_tokens": 1_000_000_000})
    advice = next(a for a in resolution.warnings if a.id == "rank-capacity-exceeded")
    assert advice.message == (
        "The text has 1,000,000,000 tokens to learn from and an adapter of rank 256, the largest that "
        "policy Evidence takes, 671,088,640 weights: it may not hold all of it."
    )


def test_without_counts_of_both_the_rank_is_the_usual_one(evidence_of):
    assert decided(evidence_of(text={"tokens": 10**9}), "r") == (16, "E-R-0")
    assert decided(evidence_of(shape=LLAMA_8B), "r") == (16, "E-R-0")


def test_the_rank_counts_the_modules_that_the_user_chose(evidence_of):
    resolution = evidence_of(
        shape=LLAMA_8B,
        text={"supervised_tokens": 20_000_000},
        parameters={"lora": {"targetModules": ["AttentionQV"]}},
    )
    assert resolution.value("r") == 64


@pytest.mark.parametrize(("rank", "alpha"), [(8, 16), (32, 64), (64, 64), (256, 256)])
def test_alpha_is_twice_the_rank_up_to_32(evidence_of, rank, alpha):
    resolution = evidence_of(parameters={"lora": {"r": rank}})
    assert decided(resolution, "lora_alpha") == (alpha, "E-LA-1")


@pytest.mark.parametrize(("rank", "alpha"), [(1, 2), (16, 8), (64, 16), (128, 23), (256, 32)])
def test_rslora_takes_an_alpha_for_the_root_of_the_rank(evidence_of, rank, alpha):
    resolution = evidence_of(parameters={"lora": {"r": rank, "useRslora": True}})
    assert decided(resolution, "lora_alpha") == (alpha, "E-LA-2")
    assert "alpha-ratio-high" not in warning_ids(resolution)


@pytest.mark.parametrize(
    ("model", "rate", "rule"),
    [
        ("hf://meta-llama/Meta-Llama-3.1-8B-Instruct", 3e-4, "E-LR-2"),
        ("hf://meta-llama/Llama-3.2-1B", 1e-3, "E-LR-2"),
        ("hf://meta-llama/Llama-3.3-70B-Instruct", 3e-4, "E-LR-2"),
        ("hf://Qwen/Qwen3-8B", 1e-3, "E-LR-2"),
        ("hf://deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", 3e-4, "E-LR-4"),
        ("hf://Qwen/Qwen3-32B", 3e-4, "E-LR-2"),
        ("s3://models/gpt-oss-20b/", 1e-4, "E-LR-2"),
        ("hf://HuggingFaceTB/SmolLM2-135M-Instruct", 1e-3, "E-LR-3"),
        ("hf://google/gemma-3-4b-it", 1e-3, "E-LR-3"),
        ("hf://mistralai/Mistral-7B-v0.3", 3e-4, "E-LR-4"),
        ("hf://google/gemma-2-27b", 2e-4, "E-LR-5"),
        ("hf://meta-llama/Llama-2-70b-hf", 1e-4, "E-LR-6"),
        ("hf://org/model", 2e-4, "E-LR-0"),
    ],
)
def test_the_rate_follows_the_model_and_no_language(evidence_of, model, rate, rule):
    assert decided(evidence_of(tag="sw", model=model), "learning_rate") == (rate, rule)
    assert decided(evidence_of(tag="ja", model=model), "learning_rate") == (rate, rule)


def test_counted_weights_decide_where_the_name_is_silent(evidence_of):
    resolution = evidence_of(shape=LLAMA_8B, model="pvc://models/base")
    assert decided(resolution, "learning_rate") == (3e-4, "E-LR-4")


@pytest.mark.parametrize(
    ("config", "name", "rule"),
    [
        ("qwen3-4b", "hf://Qwen/Qwen3-4B", "E-LR-3"),
        ("llama-2-13b", "hf://meta-llama/Llama-2-13b-hf", "E-LR-4"),
    ],
)
def test_a_model_keeps_its_class_once_its_weights_are_counted(evidence_of, config, name, rule):
    """Qwen3-4B holds 4.02 billion weights and Llama-2-13b 13.02."""
    shape = shape_from_config(MODELS[config]["config"])
    for known in ({"model": name}, {"model": "pvc://models/base", "shape": shape}):
        resolution = evidence_of(**known, text={"examples": 999})
        assert decided(resolution, "learning_rate")[1] == rule
        assert decided(resolution, "lora_dropout") == (0.05, "E-DO-1")


def test_full_fine_tuning_takes_a_tenth_of_the_rate(evidence_of):
    resolution = evidence_of(model="hf://org/base-1b", method="Full")
    assert resolution.value("learning_rate") == 1e-4
    assert "lr-below-lora-range" not in warning_ids(
        evidence_of(model="hf://a/b-70b", method="Full")
    )


def test_plain_text_takes_a_low_rate(evidence_of):
    resolution = evidence_of(stage="ContinuedPretraining", model="hf://org/base-1b")
    assert decided(resolution, "learning_rate") == (5e-5, "E-LR-1")


@pytest.mark.parametrize(
    ("examples", "epochs", "rule"),
    [
        (10, 10, "E-EP-3"),
        (20, 5, "E-EP-3"),
        (33, 3, "E-EP-3"),
        (34, 3, "E-EP-0"),
        (8333, 3, "E-EP-0"),
        (8334, 2, "E-EP-4"),
        (25_000, 1, "E-EP-4"),
        (1_000_000, 1, "E-EP-4"),
        (3, 25, "E-EP-3"),
        (0, 25, "E-EP-3"),
    ],
)
def test_epochs_see_between_a_hundred_and_25000_examples(evidence_of, examples, epochs, rule):
    resolution = evidence_of(text={"examples": examples})
    assert decided(resolution, "num_train_epochs") == (epochs, rule)


@pytest.mark.parametrize(
    ("tokens", "epochs", "rule"),
    [(10_000_000, 3, "E-EP-2"), (1_000_000_000, 1, "E-EP-1"), (None, 3, "E-EP-2")],
)
def test_plain_text_is_read_three_times_unless_it_is_huge(evidence_of, tokens, epochs, rule):
    resolution = evidence_of(stage="ContinuedPretraining", text={"unique_tokens": tokens})
    assert decided(resolution, "num_train_epochs") == (epochs, rule)


def test_plain_text_counts_by_what_it_is_worth_in_english(evidence_of, resolve_of):
    text: dict[str, Any] = {"unique_tokens": 5_000_000_000}
    declared = {"stage": "ContinuedPretraining", "tag": "am", "model": "hf://a/Llama-3.1-8B"}
    resolution = evidence_of(**declared, text=text)
    guide = resolve_of(**declared, measured=LanguageMeasurement(**text))
    traits = [next(t for t in one.traits if t.name == "corpus") for one in (resolution, guide)]
    assert [(t.value, t.detail) for t in traits] == [
        ("Medium", "648,508,431 unique tokens by English's measure"),
        ("Large", "5,000,000,000 unique tokens"),
    ]
    assert decided(resolution, "num_train_epochs") == (3, "E-EP-2")


def test_without_the_tokenizers_family_raw_tokens_count(evidence_of):
    text = {"unique_tokens": 1_500_000_000}
    llama = "hf://meta-llama/Llama-3.1-8B"
    stage = {"stage": "ContinuedPretraining", "text": text}
    assert evidence_of(tag="am", model=llama, **stage).value("num_train_epochs") == 3
    assert evidence_of(tag="am", **stage).value("num_train_epochs") == 1


@pytest.mark.parametrize(
    ("examples", "batch", "steps"),
    [(49, 4, 39), (80, 4, 60), (160, 8, 60), (313, 16, 60), (5_000, 16, 939)],
)
def test_the_batch_leaves_sixty_steps_where_it_can(evidence_of, examples, batch, steps):
    resolution = evidence_of(text={"examples": examples})
    assert decided(resolution, "batch_size") == (batch, "E-BS-1")
    assert resolution.total_steps == steps


def test_held_out_examples_make_no_steps(evidence_of):
    resolution = evidence_of(text={"examples": 57, "held_out": 8})
    assert resolution.total_steps == 39


def test_given_steps_leave_the_batch_at_its_target(evidence_of):
    resolution = evidence_of(text={"examples": 49}, parameters={"maxSteps": 1000})
    assert decided(resolution, "batch_size") == (16, "E-BS-0")


@pytest.mark.parametrize(("gpu_gb", "split"), [(24, (16, 1)), (12, (8, 2)), (10, (4, 4))])
def test_a_device_takes_what_fits_and_accumulation_makes_up_for_it(evidence_of, gpu_gb, split):
    resolution = evidence_of(
        shape=LLAMA_8B,
        gpu_gb=gpu_gb,
        method="QLoRA",
        text={"examples": 9_000, "p99_tokens": 2048},
    )
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    assert tuple(resolution.value(name) for name in names) == split
    assert resolution.decision("per_device_train_batch_size").rule == "E-PDB-1"


@pytest.mark.parametrize(
    ("resources", "split"),
    [({"gpus": 8}, (2, 1)), ({"gpus": 3}, (4, 2)), ({"gpus": 16, "nodes": 2}, (1, 1))],
)
def test_the_batch_is_shared_by_all_workers(evidence_of, resources, split):
    resolution = evidence_of(resources=resources)
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    assert tuple(resolution.value(name) for name in names) == split


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"resources": {"gpus": 8}}, None),
        (
            {"resources": {"gpus": 3}},
            (
                "An optimizer step is 24 sequences, while batch_size is 16: no number of micro-steps of 12 "
                "makes it; set parameters.batchSize to 24 if that is what you want."
            ),
        ),
        ({"resources": {"gpus": 3}, "parameters": {"batchSize": 24}}, None),
        (
            {"resources": {"gpus": 16, "nodes": 2}},
            (
                "An optimizer step is 32 sequences, while batch_size is 16: no number of micro-steps of 32 "
                "makes it; set parameters.batchSize to 32 if that is what you want."
            ),
        ),
        (
            {"parameters": {"gradientAccumulationSteps": 4}},
            (
                "An optimizer step is 64 sequences, while batch_size is 16: set "
                "parameters.gradientAccumulationSteps to 1 where that matters to you."
            ),
        ),
    ],
)
def test_a_step_that_is_not_the_batch_is_told_with_what_makes_it_so(evidence_of, declared, said):
    messages = [
        a.message for a in evidence_of(**declared).warnings if a.id == "effective-batch-mismatch"
    ]
    assert messages == ([said] if said else [])


@pytest.mark.parametrize(
    ("examples", "model", "dropout"),
    [
        (999, "hf://org/base-13b", 0.05),
        (1000, "hf://org/base-13b", 0.0),
        (999, "hf://org/base-14b", 0.0),
        (999, "hf://org/base", 0.0),
        (None, "hf://org/base-1b", 0.0),
    ],
)
def test_dropout_is_for_few_examples_and_models_that_overfit(evidence_of, examples, model, dropout):
    resolution = evidence_of(text={"examples": examples}, model=model)
    assert resolution.value("lora_dropout") == dropout


@pytest.mark.parametrize(
    ("examples", "strategy"), [(49, "epoch"), (1_583, "epoch"), (1_600, "steps"), (None, "steps")]
)
def test_evaluation_and_saving_share_the_cadence_that_is_more_often(
    evidence_of, examples, strategy
):
    resolution = evidence_of(text={"examples": examples})
    assert resolution.value("evaluation_strategy") == strategy
    assert resolution.value("save_strategy") == strategy
    assert "best-model-not-kept" not in warning_ids(resolution)


def test_every_linear_module_of_the_model_is_adapted(evidence_of):
    phi = shape_from_config(MODELS["phi-3-mini"]["config"])
    assert decided(evidence_of(), "target_modules") == (ALL_LINEAR, "E-TM-1")
    fused = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    assert evidence_of(shape=phi).value("target_modules") == fused


@pytest.mark.parametrize("resources", [{"gpus": 0}, {"gpuMemory": "16G"}], ids=["CPU", "GPU"])
def test_the_guides_modules_on_a_model_that_fuses_them_are_refused_with_what_to_write(
    resolve_of, resources
):
    phi = shape_from_config(MODELS["phi-3-mini"]["config"])
    with pytest.raises(UnsupportedModelError) as refused:
        resolve_of(tag="sw", measurements=Measurements(shape=phi), resources=resources)
    assert str(refused.value) == (
        'policy Guide adapts q_proj, v_proj, and a model of type "phi3" lacks some of them, expected some '
        "of qkv_proj, o_proj, gate_up_proj, down_proj; set parameters.lora.targetModules to [AttentionQV], "
        "which means qkv_proj here, or policy to Evidence."
    )
    with pytest.raises(
        UnsupportedModelError, match=r"to \[Attention\], which means qkv_proj, o_proj here"
    ):
        resolve_of(tag="hi", measurements=Measurements(shape=phi), resources=resources)


@pytest.mark.parametrize(
    ("word", "modules"),
    [
        ("AllLinear", ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
        ("Attention", ["qkv_proj", "o_proj"]),
        ("AttentionQV", ["qkv_proj"]),
    ],
)
def test_a_word_for_modules_means_those_of_the_model(resolve_of, word, modules):
    phi = shape_from_config(MODELS["phi-3-mini"]["config"])
    resolution = resolve_of(
        measurements=Measurements(shape=phi), parameters={"lora": {"targetModules": [word]}}
    )
    assert resolution.value("target_modules") == modules


# --- The table ----------------------------------------------------------------------------------


def test_every_rule_has_its_own_id_and_a_reference():
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert [rule.id for rule in RULES if not rule.reference or not rule.message] == []


def test_only_the_last_rule_of_a_parameter_matches_always():
    last = {name: rules[-1].when is always_for_evidence for name, rules in GROUPS.items()}
    others = [
        r.id for rules in GROUPS.values() for r in rules[:-1] if r.when is always_for_evidence
    ]
    assert (set(last.values()), others) == ({True}, [])


def test_a_computed_rule_says_in_words_what_it_computes():
    assert [rule.id for rule in RULES if bool(rule.compute) is not bool(rule.computes)] == []


def test_where_the_literature_is_silent_the_guide_decides(evidence_of):
    resolution = evidence_of()
    assert {name: resolution.decision(name).rule for name in BORROWED} == {
        "use_flash_attention": "FA-1",
        "max_steps": "EP-2",
        "early_stopping_patience": "EV-3",
        "bias": "BI-1",
        "task_type": "TT-1",
    }


def test_both_policies_show_the_same_parameters_in_the_same_order(evidence_of, resolve_of):
    names = [[d.parameter for d in r.decisions] for r in (evidence_of(), resolve_of())]
    assert names[0] == names[1]


def test_the_plan_takes_the_evidence(evidence_of):
    training, lora = build_training(
        evidence_of(tag="sw", shape=LLAMA_8B, text={"examples": 49, "p99_tokens": 300})
    )
    assert (training.learning_rate, training.sequences_per_step, lora.alpha) == (3e-4, 4, 32)
    assert lora.target_modules == tuple(ALL_LINEAR)


# --- Two policies beside each other -------------------------------------------------------------


def test_a_decision_has_the_other_policys_value_with_its_reference(resolve_of, evidence_of):
    guide = resolve_of(tag="sw", corpus="Small", model="hf://org/base-1b").decision("learning_rate")
    evidence = evidence_of(tag="sw", corpus="Small", model="hf://org/base-1b")
    assert (guide.alternative.policy, guide.alternative.value, guide.alternative.rule) == (
        "Evidence",
        1e-3,
        "E-LR-3",
    )
    assert guide.alternative.reference.startswith("Tinker cookbook")
    alternative = evidence.decision("learning_rate").alternative
    assert (alternative.policy, alternative.value, alternative.rule, alternative.reference) == (
        "Guide",
        2e-5,
        "LR-1",
        "G-LR-1, G-LR-3, G-LR-4, G-JA-4, G-HT-3",
    )


def test_equal_values_have_no_alternative_and_module_lists_are_sets(resolve_of):
    assert resolve_of().decision("weight_decay").alternative is None
    modules = [*reversed(ALL_LINEAR)]
    overridden = resolve_of(parameters={"lora": {"targetModules": modules}})
    assert overridden.decision("target_modules").alternative.policy == "Guide"


def test_an_override_beats_the_evidence_and_names_it(evidence_of):
    decision = evidence_of(parameters={"learningRate": 1e-5}, model="hf://a/b-1b").decision(
        "learning_rate"
    )
    assert decision.message == (
        "Set to 1e-05 by spec.parameters.learningRate; the evidence would say 0.001 (rule E-LR-3)."
    )
    assert (decision.alternative.policy, decision.alternative.value) == ("Evidence", 1e-3)


def test_status_shows_the_facts_behind_a_value_and_the_reference_of_the_other(evidence_of):
    resolution = evidence_of(tag="sw", shape=LLAMA_8B, text={"examples": 5000, "p99_tokens": 811})
    by_name = {status.name: status for status in decision_statuses(resolution)}
    assert by_name["num_train_epochs"].reference == "OpenAI cookbook; Unsloth's guide, 1 to 3"
    length = by_name["max_seq_length"]
    assert length.alternative is not None
    assert (length.value, length.source, length.alternative.reference) == (
        "1024",
        "Measured",
        "G-MSL-4, G-MSL-5",
    )
    assert [(t.trait, t.value, t.source) for t in length.because] == [
        ("p99Tokens", "811", "Measured"),
        ("modelContext", "131072", "Measured"),
    ]


def test_policy_evidence_asks_the_text_and_not_the_guides_label(evidence_of):
    resolution = evidence_of(
        tag="hi", text={"chars_per_token": 3.68, "mattr500": 0.5, "words": 9000}
    )
    traits = {t.name: (t.value, t.source) for t in resolution.traits}
    assert (traits["tokenDensity"], traits["morphology"]) == (
        ("Light", "Measured"),
        ("Simple", "Measured"),
    )
    messages = {a.parameter: a.message for a in resolution.warnings}
    assert messages["tokenDensity"] == (
        "tokenDensity of hi is Light (3.68 characters a token) and counts; the guide's label is Dense."
    )
    assert messages["morphology"] == (
        "morphology of hi is Simple by the evidence (type-token ratio 0.50 over 9,000 words; weak "
        "evidence) and counts; the guide's label is Complex."
    )


texts = st.builds(
    LanguageMeasurement,
    examples=st.none() | st.integers(0, 10**6),
    tokens=st.none() | st.integers(0, 10**10),
    supervised_tokens=st.none() | st.integers(0, 10**10),
    unique_tokens=st.none() | st.integers(0, 10**10),
    chars_per_token=st.none() | st.floats(0.1, 8),
    words=st.none() | st.integers(0, 10**7),
    mattr500=st.none() | st.floats(0.01, 0.99),
    code_mixing_index=st.none() | st.floats(0, 100),
    script_share=st.none() | st.floats(0, 1),
    p99_tokens=st.none() | st.integers(1, 10**6),
)
EVERY_TRAIT = {
    "morphology": "Complex",
    "tokenDensity": "Dense",
    "corpus": "Small",
    "resourceLevel": "Low",
    "documents": "Short",
    "syntaxDistance": "Far",
    "codeSwitching": False,
}


def declare(**fields) -> LanguageFinetuneSpec:
    return LanguageFinetuneSpec.model_validate(
        {
            "model": {"uri": "hf://org/base", "depth": "Standard"},
            "output": {"uri": "s3://adapters/"},
            "resources": {"gpuMemoryClass": "Ample"},
            **fields,
        }
    )


@settings(max_examples=200, deadline=None)
@given(
    text=texts, shape=st.sampled_from([None, LLAMA_8B]), tag=st.sampled_from(["hi", "sw", "und"])
)
def test_the_guides_decisions_never_depend_on_measurements_where_all_is_declared(text, shape, tag):
    dataset = {"uri": "s3://corpora/text/"}
    spec = declare(languages=[{"tag": tag, "traits": EVERY_TRAIT, "dataset": dataset}])
    measured = resolve(spec, measured=Measurements(languages=(text,), shape=shape))
    unmeasured = resolve(spec)
    shown = [
        [(d.parameter, d.value, d.rule, d.because, d.message) for d in resolution.decisions]
        for resolution in (measured, unmeasured)
    ]
    assert shown[0] == shown[1]


@settings(max_examples=300, deadline=None)
@given(
    text=texts,
    shape=st.sampled_from([None, LLAMA_8B]),
    gpu_gb=st.sampled_from([None, 24, 80]),
    tag=st.sampled_from(["hi", "sw", "uz", "ja", "lv", "und"]),
    declared=st.sets(st.sampled_from(sorted(EVERY_TRAIT))),
    stage=st.sampled_from(["Instruction", "ContinuedPretraining"]),
)
def test_a_measurement_moves_the_guides_values_only_through_its_own_traits(
    text, shape, gpu_gb, tag, declared, stage
):
    traits = {name: EVERY_TRAIT[name] for name in declared}
    language = {"tag": tag, "traits": traits, "dataset": {"uri": "s3://corpora/text/"}}
    spec = declare(languages=[language], resources={}, model={"uri": "hf://org/base"}, stage=stage)
    measured = Measurements(
        languages=(text,), shape=shape, gpu_memory_bytes=gpu_gb * GB if gpu_gb else None
    )
    before = resolve(spec)
    try:
        after = resolve(spec, measured=measured)
    except InsufficientGpuMemoryError:
        return
    moved = {d.parameter for d in after.decisions if d.value != before.value(d.parameter)}
    axes = {name for name in AXIS_NAMES if getattr(before.axes, name) != getattr(after.axes, name)}
    followers = {
        parameter
        for parameter, rules in rules_guide.GROUPS.items()
        if axes.intersection(axis for rule in rules for axis in rule.axes)
    }
    # A device takes batch_size where memory is ample.
    followers |= {"per_device_train_batch_size"} if "batch_size" in followers else set()
    assert moved <= followers
    assert not axes.intersection(to_snake(name) for name in declared)


@settings(max_examples=200, deadline=None)
@given(
    text=texts,
    shape=st.sampled_from([None, LLAMA_8B]),
    gpus=st.integers(0, 16),
    stage=st.sampled_from(["Instruction", "ContinuedPretraining"]),
)
def test_the_evidence_makes_a_plan_of_whatever_was_measured(text, shape, gpus, stage):
    spec = declare(
        languages=[{"tag": "sw", "dataset": {"uri": "s3://corpora/text/"}}],
        policy="Evidence",
        stage=stage,
        resources={"gpus": gpus},
    )
    measured = Measurements(languages=(text,), shape=shape)
    resolution = resolve(spec, measured=measured)
    training, _ = build_training(resolution)
    batch = training.sequences_per_step * max(1, gpus)
    assert batch >= resolution.value("batch_size")
    assert all(decision.message for decision in resolution.decisions)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("smollm2-135m-instruct", 135_000_000),
        ("qwen2.5-0.5b", 500_000_000),
        ("meta-llama-3.1-8b-bnb-4bit", 8_000_000_000),
        ("mixtral-8x7b-v0.1", None),
        ("phi-3-mini-4k-instruct", None),
        ("base", None),
    ],
)
def test_a_models_name_tells_its_size(name, weights):
    assert read_size_from_name(name) == weights
