"""C1 to C33: where the guide contradicts itself or the libraries, one resolution each (docs/guide-claims.md).

Policy Guide; `test_contradictions_evidence.py` has the same thirty-three under policy Evidence.
"""

import re
from pathlib import Path

import pytest
import yaml

from finetune_api.resource import Method
from finetune_resolver import LanguageMeasurement, build_training
from finetune_resolver.memory.estimate import GB, Workload, estimate_memory
from finetune_resolver.memory.model_shape import shape_from_config

HINDI = {"tag": "hi", "corpus": "Small", "depth": "Deep", "gpuMemoryClass": "Constrained"}
ARABIC = {"tag": "ar", "corpus": "Large"}
ALL_LINEAR = {"lora": {"targetModules": ["AllLinear"]}}
MODELS = yaml.safe_load(
    (Path(__file__).parents[1] / "test_memory_models.yaml").read_text(encoding="utf-8")
)
LLAMA_8B = shape_from_config(MODELS["llama-3.1-8b"]["config"])
CLAIMS = Path(__file__).parents[3] / "docs" / "guide-claims.md"


def warning_ids(resolution):
    return [advice.id for advice in resolution.warnings]


def message_of(resolution, advice_id):
    return next(advice.message for advice in resolution.warnings if advice.id == advice_id)


@pytest.mark.parametrize(
    ("level", "corpus", "rate"),
    [("High", "Small", 2e-5), ("Low", "Large", 2e-5), ("High", "Large", 2e-4)],
)
def test_c1_the_lower_of_corpus_and_resource_level_sets_the_rate(resolve_of, level, corpus, rate):
    assert resolve_of(resourceLevel=level, corpus=corpus).value("learning_rate") == rate


def test_c2_the_trainers_alpha_is_told_and_peft_alpha_is_trained(resolve_of):
    resolution = resolve_of(**HINDI)
    superseded = resolution.decision("lora_alpha").superseded
    assert [(s.value, s.rule, s.guide_ids) for s in superseded] == [
        (16, "TA-1", ("G-TL-3", "G-JA-6", "G-HT-6"))
    ]
    assert build_training(resolution)[1].alpha == 64


def test_c3_a_high_alpha_ratio_is_kept_and_warned(resolve_of):
    resolution = resolve_of(**HINDI)
    assert (resolution.value("lora_alpha"), resolution.value("r")) == (64, 8)
    assert "alpha-ratio-high" in warning_ids(resolution)
    assert "alpha-ratio-high" not in warning_ids(resolve_of(tag="ar", corpus="Large"))


def test_c4_one_by_four_is_eight_only_with_two_workers(resolve_of):
    one = resolve_of(**HINDI)
    two = resolve_of(**HINDI, resources={"gpus": 2})
    assert message_of(one, "effective-batch-mismatch") == (
        "An optimizer step is 4 sequences, while batch_size is 8: set "
        "parameters.gradientAccumulationSteps to 8 where that matters to you."
    )
    assert "effective-batch-mismatch" not in warning_ids(two)


def test_c5_the_effective_batch_of_dense_text_may_be_larger(resolve_of):
    japanese, spanish = resolve_of(tag="ja", corpus="Small"), resolve_of(tag="es", corpus="Large")
    batch = [build_training(resolution)[0].sequences_per_step for resolution in (japanese, spanish)]
    assert batch == [32, 16]


def test_c6_a_logographic_script_is_complex_in_writing_only(resolve_of):
    kinds = {
        tag: {t.name: t.value for t in resolve_of(tag=tag).traits}["morphologyKind"]
        for tag in ("zh", "zh-TW", "ja", "ko", "hi")
    }
    assert kinds == {
        "zh": "Orthographic",
        "zh-TW": "Orthographic",
        "ja": "Orthographic",
        "ko": "Inflectional",
        "hi": "Inflectional",
    }


def test_c6_without_a_language_the_hindi_values_win(resolve_of):
    tie = resolve_of(morphology="Complex", tokenDensity="Dense", corpus="Small")
    assert (tie.value("weight_decay"), tie.value("lora_alpha")) == (0.01, 64)


def test_c7_a_hundredth_is_the_default_decay(resolve_of):
    assert resolve_of(tag="es", corpus="Large").value("weight_decay") == 0.01
    assert resolve_of().decision("weight_decay").rule == "WD-0"


def test_c8_mandarin_keeps_its_label_and_the_complex_rules_do_not_fire(resolve_of):
    resolution = resolve_of(tag="zh", corpus="Small")
    assert resolution.decision("lora_alpha").rule == "PA-3"
    assert message_of(resolution, "guide-label-disputed") == (
        "morphology of zh is Complex by the guide and counts; the evidence says Simple (0 cases (WALS "
        "49A); weak evidence)."
    )


@pytest.mark.parametrize("tag", ["ko", "hi"])
def test_c9_complexe_is_complex(resolve_of, tag):
    assert resolve_of(tag=tag, corpus="Large").decision("lora_alpha").rule == "PA-2"


@pytest.mark.parametrize(
    ("declared", "length"),
    [
        ({"tag": "en", "documents": "Short", "corpus": "Large"}, 4096),
        ({"tag": "es", "corpus": "Large"}, 8192),
        ({"tag": "en", "documents": "Long", "corpus": "Small"}, 8192),
        ({"tag": "es", "corpus": "Medium"}, 4096),
    ],
)
def test_c10_documents_pick_the_end_of_the_range(resolve_of, declared, length):
    assert resolve_of(**declared).value("max_seq_length") == length


def test_c11_truncation_is_told_and_the_short_length_kept(resolve_of):
    cut = resolve_of(tag="hi", measured=LanguageMeasurement(p99_tokens=2049))
    whole = resolve_of(tag="hi", measured=LanguageMeasurement(p99_tokens=2048))
    assert cut.value("max_seq_length") == 2048
    assert message_of(cut, "truncation-high") == (
        "More than 1% of the examples of hi exceed 2,048 tokens (the 99th percentile is 2,049): raise "
        "parameters.maxSeqLength or shorten the examples."
    )
    assert "truncation-high" not in warning_ids(whole)


def test_c12_density_follows_characters_a_token_and_not_the_premium(resolve_of):
    measured = LanguageMeasurement(chars_per_token=3.7)
    french = resolve_of(tag="fr", measured=measured, model="hf://meta-llama/Llama-3.1-8B")
    assert french.value("batch_size") == 16
    assert "density-measured-differs" not in warning_ids(french)


def test_c13_hindi_stays_dense_and_the_measured_value_is_told(resolve_of):
    resolution = resolve_of(tag="hi", measured=LanguageMeasurement(chars_per_token=3.68))
    assert resolution.value("max_seq_length") == 2048
    assert message_of(resolution, "density-measured-differs") == (
        "tokenDensity of hi is Dense (guide) and counts; your text has 3.68 characters a token, which "
        "is Light."
    )


def test_c14_the_tokens_of_a_micro_step_stand_beside_the_guides_reason(resolve_of):
    spanish = resolve_of(tag="es", corpus="Large").decision("batch_size").message
    hindi = resolve_of(tag="hi", corpus="Small").decision("batch_size").message
    assert spanish.endswith("A full micro-step is 16 x 8192 = 131,072 tokens.")
    assert hindi == (
        "Token-dense text takes a small micro-batch, because its samples are held to be bigger "
        "(G-BS-1). A full micro-step is 8 x 2048 = 16,384 tokens."
    )


def test_c15_the_low_rate_is_kept_and_warned_with_figures(resolve_of):
    resolution = resolve_of(corpus="Small")
    assert resolution.value("learning_rate") == 2e-5
    assert "from 3.447 to 3.445 bits per byte" in message_of(resolution, "lr-below-lora-range")
    assert "lr-below-lora-range" not in warning_ids(resolve_of(corpus="Medium"))


def test_c16_the_generic_configuration_is_that_of_an_undeclared_corpus(resolve_of):
    assert [resolve_of().decision(name).rule for name in ("r", "lora_dropout")] == ["R-0", "DO-2"]


def test_c17_small_rank_is_8_and_16_is_an_override(resolve_of):
    assert resolve_of(corpus="Small").value("r") == 8
    assert resolve_of(corpus="Small", parameters={"lora": {"r": 16}}).value("r") == 16


def test_c18_huge_dropout_is_a_twentieth_and_a_hundredth_is_an_override(resolve_of):
    assert resolve_of(corpus="Large").value("lora_dropout") == 0.05
    overridden = resolve_of(corpus="Large", parameters={"lora": {"dropout": 0.01}})
    assert overridden.value("lora_dropout") == 0.01


def test_c19_different_cadences_are_warned_and_best_is_offered(resolve_of):
    assert message_of(resolve_of(), "best-model-not-kept") == (
        "The held-out part is evaluated by steps and adapters are saved by epoch, so the last adapter "
        "is published and not the best. Set parameters.saveStrategy to Best to keep the best."
    )
    best = resolve_of(parameters={"saveStrategy": "Best"})
    assert "best-model-not-kept" not in warning_ids(best)


@pytest.mark.parametrize(
    ("steps", "unusual"), [(999, True), (1000, False), (5000, False), (5001, True)]
)
def test_c20_steps_outside_the_guides_range_are_told(resolve_of, steps, unusual):
    resolution = resolve_of(parameters={"maxSteps": steps})
    assert ("max-steps-unusual" in warning_ids(resolution)) is unusual
    assert resolve_of().value("max_steps") == -1


def test_c21_patience_is_3_and_2_is_accepted(resolve_of):
    assert resolve_of().value("early_stopping_patience") == 3
    two = resolve_of(parameters={"earlyStoppingPatience": 2})
    assert build_training(two)[0].early_stopping_patience == 2


@pytest.mark.parametrize("parameters", [None, {"lora": {"bias": None}}, {"lora": {"bias": "None"}}])
def test_c22_bias_none_is_the_word(resolve_of, parameters):
    assert resolve_of(parameters=parameters).value("bias") == "none"


def test_c23_every_parameter_has_one_name(resolve_of):
    names = [decision.parameter for decision in resolve_of().decisions]
    assert len(names) == len(set(names))
    assert names[:20] == [
        "max_seq_length",
        "batch_size",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "optimizer",
        "weight_decay",
        "gradient_checkpointing",
        "use_flash_attention",
        "num_train_epochs",
        "max_steps",
        "evaluation_strategy",
        "save_strategy",
        "early_stopping_patience",
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "bias",
        "task_type",
    ]


def test_c24_both_printed_orders_come_out(resolve_of):
    assert resolve_of(depth="Deep").value("target_modules") == [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    ]
    far = resolve_of(syntaxDistance="Far")
    assert far.value("target_modules") == ["q_proj", "v_proj", "k_proj", "o_proj"]


def test_c25_swahili_is_simple_and_a_declared_complex_is_honoured_and_told(resolve_of):
    assert resolve_of(tag="sw", corpus="Small").value("lora_alpha") == 16
    declared = resolve_of(tag="sw", corpus="Small", morphology="Complex")
    assert declared.value("lora_alpha") == 64
    assert message_of(declared, "guide-label-disputed") == (
        "morphology of sw is declared Complex and counts; the guide's label is Simple."
    )


def test_c26_advice_on_adapters_changes_no_parameter(resolve_of):
    large, tiny = resolve_of(model="hf://org/Llama-70B"), resolve_of(model="hf://org/SmolLM2-135M")
    assert (large.method.advice, tiny.method.advice) == ("Preferred", "Optional")
    decided = [[(d.value, d.rule) for d in resolution.decisions] for resolution in (large, tiny)]
    assert decided[0] == decided[1]
    assert large.method.message == (
        "LoRA unless method says otherwise; a full fine-tune of a large model costs too much memory "
        "(G-PR-1)."
    )


def test_c27_of_the_snippet_only_the_numbers_count(resolve_of):
    rules = {
        d.parameter: (d.value, d.rule)
        for d in resolve_of().decisions
        if d.guide_ids == ("G-UN-11",)
    }
    assert rules == {
        "max_seq_length": (8192, "MSL-0"),
        "batch_size": (8, "BS-0"),
        "learning_rate": (2e-4, "LR-0"),
    }


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        (
            "mr",
            (
                "resourceLevel of mr is High by the guide and counts; the evidence says Low (resource "
                "class 2 of 0-5)."
            ),
        ),
        (
            "uz",
            (
                "resourceLevel of uz is Low by the guide and counts; the evidence says neither Low nor "
                "High (resource class 3 of 0-5)."
            ),
        ),
    ],
)
def test_c28_the_guides_resource_level_wins_and_is_disputed(resolve_of, tag, message):
    assert message_of(resolve_of(tag=tag), "guide-label-disputed") == message


def test_c29_the_guides_reason_for_alpha_and_then_what_it_does(resolve_of):
    assert resolve_of(**HINDI).decision("lora_alpha").message == (
        "Rich inflection takes the highest alpha, which the guide holds to smooth updates (G-PA-2). "
        "PEFT scales the update by alpha/r = 64/8 = 8."
    )


def told_in_the_documentation(number):
    row = rf"^\| C{number} \| \S"
    return len(re.findall(row, CLAIMS.read_text("utf-8"), re.MULTILINE)) == 1


def test_c30_a_big_rank_costs_little_and_not_nothing(resolve_of):
    resolution = resolve_of(tag="es", corpus="Large", parameters=ALL_LINEAR)
    workload = Workload(method=Method.LORA, rank=resolution.value("r"))
    adapter = estimate_memory(LLAMA_8B, workload, tokens_per_micro_batch=1).adapter_bytes
    assert (resolution.value("r"), round(adapter / GB, 2)) == (32, 0.84)
    assert told_in_the_documentation(30)


@pytest.mark.parametrize(
    ("declared", "megabytes"), [({"tag": "sw", "corpus": "Small"}, 6.8), (ARABIC, 54.5)]
)
def test_c31_an_adapter_is_no_few_hundred_megabytes(resolve_of, declared, megabytes):
    resolution = resolve_of(**declared)
    size = LLAMA_8B.adapter_file_bytes(
        rank=resolution.value("r"), modules=resolution.value("target_modules")
    )
    assert round(size / 1e6, 1) == megabytes
    assert told_in_the_documentation(31)


def test_c32_checkpointing_and_flash_attention_are_always_on(resolve_of):
    for declared in ({}, HINDI, {"tag": "es", "corpus": "Large"}):
        resolution = resolve_of(**declared)
        assert resolution.value("gradient_checkpointing") is True
        assert resolution.value("use_flash_attention") is True


@pytest.mark.parametrize("size", ["huge", "Huge", "massive", "High", "large"])
def test_c33_synonyms_are_no_input(spec_of, size):
    with pytest.raises(ValueError, match="Input should be 'Small', 'Medium' or 'Large'"):
        spec_of(corpus=size)


def test_every_contradiction_has_a_test_of_its_name():
    names = " ".join(re.findall(r"def (test_\w+)", Path(__file__).read_text("utf-8")))
    assert {int(n) for n in re.findall(r"_c(\d+)_", names)} == set(range(1, 34))
