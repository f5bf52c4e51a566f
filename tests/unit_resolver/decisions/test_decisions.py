"""Overrides, defaults, the plan's numbers, status entries and the remaining advice."""

import json
import time
from typing import Any

import pytest

from finetune_resolver import (
    LanguageMeasurement,
    UnsupportedSpecError,
    build_training,
    decision_statuses,
    resolve,
    warning_statuses,
)
from finetune_resolver.steps import estimate_eval_steps, number
from finetune_resolver.traits.catalogue import load_catalogue

EVERYTHING: dict[str, Any] = {
    "maxSeqLength": 1024,
    "batchSize": 4,
    "perDeviceTrainBatchSize": 2,
    "gradientAccumulationSteps": 8,
    "learningRate": 1e-3,
    "optimizer": "AdamW8bit",
    "weightDecay": 0.1,
    "warmupSteps": 10,
    "lrScheduler": "Cosine",
    "numTrainEpochs": 2.5,
    "maxGradNorm": 0.5,
    "gradientCheckpointing": False,
    "flashAttention": False,
    "evalStrategy": "Epoch",
    "saveStrategy": "Best",
    "earlyStoppingPatience": 0,
    "seed": 1,
    "packing": True,
    "completionOnlyLoss": False,
    "lora": {
        "r": 64,
        "alpha": 128,
        "dropout": 0.2,
        "targetModules": ["AllLinear"],
        "bias": "LoraOnly",
        "useRslora": True,
        "useDora": True,
    },
}


def test_an_override_names_itself_and_what_the_rule_would_say(resolve_of):
    decision = resolve_of(corpus="Small", parameters={"learningRate": 1e-3}).decision(
        "learning_rate"
    )
    assert (decision.value, decision.rule, decision.source) == (1e-3, "OVERRIDE", "Override")
    assert (decision.alternative.policy, decision.alternative.value, decision.alternative.rule) == (
        "Guide",
        2e-5,
        "LR-1",
    )
    assert decision.message == (
        "Set to 0.001 by spec.parameters.learningRate; the guide would say 2e-05 (rule LR-1)."
    )


def test_an_overridden_default_is_not_called_the_guides(resolve_of):
    assert resolve_of(parameters={"seed": 7}).decision("seed").message == (
        "Set to 7 by spec.parameters.seed; the default would say 3407 (rule D-SD)."
    )


def test_every_override_reaches_the_plan(resolve_of):
    training, lora = build_training(resolve_of(parameters=EVERYTHING))
    plan = training.model_dump(mode="json", by_alias=True)
    adapter = lora.model_dump(mode="json", by_alias=True)
    given = {k: v for k, v in EVERYTHING.items() if k not in ("lora", "batchSize")}
    shape = EVERYTHING["lora"] | {
        "targetModules": [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ]
    }
    assert {name: plan[name] for name in given} == given
    assert {name: adapter[name] for name in shape} == shape


def test_every_overridable_parameter_is_announced(resolve_of):
    resolution = resolve_of(parameters=EVERYTHING | {"evalSteps": 50, "saveSteps": 50})
    rules = {decision.parameter: decision.rule for decision in resolution.decisions}
    not_overridden = {name for name, rule in rules.items() if rule != "OVERRIDE"}
    assert not_overridden == {"max_steps", "task_type", "warmup_ratio"}


def test_an_overridden_batch_feeds_the_device_batch(resolve_of):
    resolution = resolve_of(parameters={"batchSize": 2})
    decision = resolution.decision("per_device_train_batch_size")
    assert (decision.value, decision.rule) == (2, "PDB-0")


def test_steps_leave_the_epochs_without_meaning(resolve_of):
    resolution = resolve_of(parameters={"maxSteps": 1500})
    assert resolution.decision("num_train_epochs").message == (
        "Few passes and early stopping keep the adapter from overfitting. It does not count here: "
        "max_steps ends the run after 1,500 steps."
    )


def test_warmup_steps_put_the_ratio_off(resolve_of):
    decision = resolve_of(parameters={"warmupSteps": 0}).decision("warmup_ratio")
    assert (decision.value, decision.rule, decision.message) == (
        0.0,
        "D-WN",
        "Not in the guide: parameters.warmupSteps is set and decides the warm-up.",
    )


@pytest.mark.parametrize(
    ("preset", "modules"),
    [
        (["AttentionQV"], ["q_proj", "v_proj"]),
        (["Attention"], ["q_proj", "k_proj", "v_proj", "o_proj"]),
        (["c_attn"], ["c_attn"]),
        (["up_proj", "q_proj"], ["up_proj", "q_proj"]),
    ],
)
def test_presets_become_module_names(resolve_of, preset, modules):
    resolution = resolve_of(parameters={"lora": {"targetModules": preset}})
    assert resolution.value("target_modules") == modules


def test_whole_epochs_are_whole_numbers(resolve_of):
    assert (
        json.dumps(resolve_of(parameters={"numTrainEpochs": 2.0}).value("num_train_epochs")) == "2"
    )
    assert json.dumps(resolve_of().value("num_train_epochs")) == "3"


def test_an_alpha_equal_to_the_trainers_supersedes_nothing(resolve_of):
    assert (
        resolve_of(tag="hi", corpus="Small", parameters={"lora": {"alpha": 16}})
        .decision("lora_alpha")
        .superseded
        == ()
    )


def test_a_decision_never_shares_the_tables_list(resolve_of):
    resolve_of().value("target_modules").append("k_proj")
    assert resolve_of().value("target_modules") == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"embeddingLearningRate": 1e-5}, "parameters.embeddingLearningRate"),
        ({"lora": {"trainEmbeddings": True}}, "parameters.lora.trainEmbeddings"),
    ],
)
def test_what_the_plan_cannot_carry_is_refused(resolve_of, parameters, path):
    with pytest.raises(UnsupportedSpecError) as refused:
        resolve_of(parameters=parameters)
    assert str(refused.value) == (
        f"spec.{path} is set, which is not supported yet: embeddings are not trained; remove the "
        "field and apply again."
    )


@pytest.mark.parametrize(
    ("stage", "packing", "completion_only"),
    [("Instruction", False, True), ("ContinuedPretraining", True, False)],
)
def test_what_the_guide_is_silent_on_has_a_default_that_says_so(
    resolve_of, stage, packing, completion_only
):
    resolution = resolve_of(stage=stage)
    silent = resolution.decisions[20:]
    assert {d.parameter: d.value for d in silent} == {
        "warmup_ratio": 0.03,
        "warmup_steps": 0,
        "lr_scheduler": "linear",
        "max_grad_norm": 1.0,
        "seed": 3407,
        "eval_steps": None,
        "save_steps": None,
        "use_rslora": False,
        "use_dora": False,
        "packing": packing,
        "completion_only_loss": completion_only,
    }
    assert {(d.source, d.guide_ids) for d in silent} == {("Default", ())}
    assert all(d.message.startswith("Not in the guide") for d in silent)


def test_because_holds_the_traits_with_their_sources(resolve_of):
    decision = resolve_of(tag="hi", corpus="Small").decision("learning_rate")
    assert [(t.name, t.value, t.source, t.detail) for t in decision.because] == [
        ("corpus", "Small", "Declared", ""),
        ("resourceLevel", "High", "Guide", "guide's row hi (G-CL-hi, G-HT-1, G-HT-5)"),
    ]


@pytest.mark.parametrize(("method", "chosen"), [("Auto", "LoRA"), ("QLoRA", "QLoRA")])
def test_method_is_lora_unless_it_is_set(resolve_of, method, chosen):
    assert resolve_of(method=method).method.value == chosen


def test_a_declared_method_says_so(resolve_of):
    assert resolve_of(method="QLoRA").method.message.startswith("Set by spec.method; ")


def test_status_writes_numbers_as_json_text(resolve_of):
    resolution = resolve_of(tag="hi", corpus="Small", codeSwitching=True, parameters={"seed": 7})
    by_name = {status.name: status for status in decision_statuses(resolution)}
    assert list(by_name) == ["method", *(d.parameter for d in resolution.decisions)]
    assert by_name["target_modules"].value == '["q_proj", "v_proj"]'
    alternative = by_name["seed"].alternative
    assert alternative is not None
    assert (alternative.value, alternative.policy) == ("3407", "Guide")
    assert [(s.value, s.rule) for s in by_name["lora_alpha"].superseded] == [("16", "TA-1")]
    assert [(t.trait, t.value) for t in by_name["lora_alpha"].because] == [
        ("codeSwitching", "true")
    ]


def test_status_cuts_a_value_that_would_not_fit(resolve_of):
    names = [f"{'module' * 10}{number:02}" for number in range(32)]
    resolution = resolve_of(parameters={"lora": {"targetModules": names}})
    value = next(s.value for s in decision_statuses(resolution) if s.name == "target_modules")
    assert (len(value), value[-1]) == (2048, "…")


def test_status_lists_every_warning(resolve_of):
    resolution = resolve_of(corpus="Small")
    assert [(w.id, w.severity) for w in warning_statuses(resolution)] == [
        ("lr-below-lora-range", "warn"),
        ("attention-only-targets", "info"),
        ("best-model-not-kept", "warn"),
    ]


@pytest.mark.parametrize(
    ("parameters", "warned"),
    [
        ({}, True),
        ({"evalStrategy": "Never"}, False),
        ({"evalStrategy": "Epoch"}, False),
        ({"saveStrategy": "Steps"}, False),
        ({"saveStrategy": "Steps", "evalSteps": 50, "saveSteps": 50}, False),
        # Every state that is saved was evaluated, so the trainer keeps the best of them.
        ({"saveStrategy": "Steps", "evalSteps": 50, "saveSteps": 100}, False),
        ({"saveStrategy": "Steps", "evalSteps": 100, "saveSteps": 50}, True),
        ({"saveStrategy": "Steps", "saveSteps": 100}, True),
        ({"saveStrategy": "Never"}, True),
    ],
)
def test_best_is_kept_where_saving_and_evaluation_meet(resolve_of, parameters, warned):
    ids = [advice.id for advice in resolve_of(parameters=parameters).warnings]
    assert ("best-model-not-kept" in ids) is warned


@pytest.mark.parametrize(
    ("declared", "examples", "reason"),
    [
        # Steps of the guide's own Japanese setting on 1,000 examples.
        (
            {"tag": "ja", "corpus": "Small"},
            1000,
            (
                "the run has 96 steps and is evaluated every 100; set parameters.evalSteps to 24 or less to "
                "let it act"
            ),
        ),
        (
            {"tag": "ja", "corpus": "Small"},
            64,
            "the run has 6 steps and is evaluated every 100; set parameters.evalSteps to 1 to let it act",
        ),
        (
            {"parameters": {"maxSteps": 3}},
            None,
            "the run has 3 steps and is evaluated every 100",
        ),
        ({"parameters": {"batchSize": 4}}, 1000, None),
        (
            {"parameters": {"batchSize": 4}},
            500,
            (
                "the run has 375 steps and is evaluated every 100; set parameters.evalSteps to 93 or less to "
                "let it act"
            ),
        ),
        ({"parameters": {"batchSize": 16}}, 52_000, None),
        ({}, None, None),
        ({"stage": "ContinuedPretraining"}, 10, None),
        (
            {"parameters": {"maxSteps": 300}},
            None,
            (
                "the run has 300 steps and is evaluated every 100; set parameters.evalSteps to 75 or less to "
                "let it act"
            ),
        ),
        ({"parameters": {"maxSteps": 300, "evalSteps": 75}}, None, None),
        (
            {"parameters": {"evalStrategy": "Never"}},
            None,
            "the held-out part is never evaluated; set parameters.evalStrategy to Steps or Epoch",
        ),
        (
            {"parameters": {"evalStrategy": "Epoch"}},
            None,
            (
                "the held-out part is evaluated 3 times, by epochs, and 4 times are needed; set "
                "parameters.earlyStoppingPatience to 2 to let it act"
            ),
        ),
        (
            {"parameters": {"evalStrategy": "Epoch", "numTrainEpochs": 1}},
            None,
            (
                "the held-out part is evaluated once, by epochs, and 4 times are needed; set "
                "parameters.evalStrategy to Steps and evalSteps to less than an epoch"
            ),
        ),
        ({"parameters": {"evalStrategy": "Epoch", "numTrainEpochs": 4}}, None, None),
        ({"parameters": {"evalStrategy": "Epoch", "maxSteps": 10}}, None, None),
        ({"parameters": {"maxSteps": 10, "earlyStoppingPatience": 0}}, None, None),
    ],
)
def test_early_stopping_that_cannot_act_is_told(resolve_of, declared, examples, reason):
    resolution = resolve_of(measured=LanguageMeasurement(examples=examples), **declared)
    messages = [a.message for a in resolution.warnings if a.id == "early-stopping-inert"]
    expected = [f"Early stopping with patience 3 can never act: {reason}."] if reason else []
    assert messages == expected


def test_evaluation_steps_are_a_twentieth_within_the_guides_range(resolve_of):

    values = {d.parameter: d.value for d in resolve_of().decisions}
    assert [estimate_eval_steps(values, total=n) for n in (96, 9_750, 20_000)] == [100, 487, 500]


def test_a_text_in_another_script_is_told(resolve_of):
    resolution = resolve_of(tag="hi", measured=LanguageMeasurement(script_share=0.2))
    assert resolution.warnings[0].message == (
        "Only 20% of the letters of hi are in script Deva: check the tag (hi-Latn is romanised Hindi) "
        "and the dataset."
    )


def test_a_counted_share_of_cut_examples_is_told(resolve_of):
    measured = LanguageMeasurement(p99_tokens=3000, truncated_shares=((2048, 0.034), (4096, 0.001)))
    advice = next(
        a for a in resolve_of(tag="hi", measured=measured).warnings if a.id == "truncation-high"
    )
    assert advice.message == (
        "3.4% of the examples of hi exceed 2,048 tokens (the 99th percentile is 3,000): raise "
        "parameters.maxSeqLength or shorten the examples."
    )


def test_packed_plain_text_is_not_cut(resolve_of):
    measured = LanguageMeasurement(p99_tokens=9000)
    resolution = resolve_of(tag="hi", stage="ContinuedPretraining", measured=measured)
    assert "truncation-high" not in [advice.id for advice in resolution.warnings]


def test_the_catalogues_counts_dispute_a_label_too(resolve_of):
    resolution = resolve_of(tag="hi", model="hf://google/gemma-3-4b-it")
    advice = next(a for a in resolution.warnings if a.id == "density-measured-differs")
    assert advice.message == (
        "tokenDensity of hi is Dense (guide) and counts; parallel text under gemma3's tokenizer has "
        "3.68 characters a token, which is Light."
    )


def test_all_linear_is_not_attention_only(resolve_of):
    resolution = resolve_of(parameters={"lora": {"targetModules": ["AllLinear"]}})
    assert "attention-only-targets" not in [advice.id for advice in resolution.warnings]


def test_rslora_scales_by_the_root(resolve_of):
    resolution = resolve_of(corpus="Small", parameters={"lora": {"useRslora": True}})
    assert resolution.decision("lora_alpha").message.endswith(
        "PEFT scales the update by alpha/sqrt(r) = 5.66."
    )


def test_a_rule_that_is_no_number_is_a_bug_that_says_so():

    with pytest.raises(TypeError, match=r"^r is 'eight', expected a number; this is a bug"):
        number({"r": "eight"}, "r")


def test_resolving_is_pure(spec_of):
    spec = spec_of(tag="hi", corpus="Small", parameters=EVERYTHING)
    assert resolve(spec) == resolve(spec)


def test_the_catalogue_is_read_once_however_many_resolutions(spec_of):
    """10,000 resolutions take 1.1 s of CPU time: `pytest tests/unit_resolver -k read_once -s`."""
    specs = [
        spec_of(tag=tag, corpus=corpus)
        for tag in ("sw", "hi", "fi", "uz", "nn", "und")
        for corpus in ("Small", "Large")
    ]
    start = time.process_time()
    for index in range(10_000):
        resolve(specs[index % len(specs)])
    print(f"10,000 resolutions: {time.process_time() - start:.2f} s")
    assert load_catalogue.cache_info().misses == 1
