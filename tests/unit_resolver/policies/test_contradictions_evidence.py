"""C1 to C33 under policy Evidence: what measurements and literature make of the guide's contradictions."""

import re
from pathlib import Path

import pytest
import yaml

from finetune_api.resource import Method, Optimizer
from finetune_resolver import LanguageMeasurement, Measurements, build_training
from finetune_resolver.memory.estimate import GB, Workload, estimate_memory
from finetune_resolver.memory.model_shape import shape_from_config

MODELS = yaml.safe_load(
    (Path(__file__).parents[1] / "test_memory_models.yaml").read_text(encoding="utf-8")
)
LLAMA_8B = shape_from_config(MODELS["llama-3.1-8b"]["config"])
HINDI = {"tag": "hi", "corpus": "Small", "depth": "Deep"}
QLORA_ON_10_GB = {"method": "QLoRA", "resources": {"gpuMemory": "10G"}}


@pytest.fixture(scope="session")
def evidence_of(resolve_of):
    """Resolve by policy Evidence: `text` measures the one language, `shape` the model."""

    def evidence(*, text=None, shape=None, **declared):
        measured = Measurements(languages=(LanguageMeasurement(**(text or {})),), shape=shape)
        return resolve_of(policy="Evidence", measurements=measured, **declared)

    return evidence


def warning_ids(resolution):
    return [advice.id for advice in resolution.warnings]


def message_of(resolution, advice_id, parameter):
    found = (a for a in resolution.warnings if (a.id, a.parameter) == (advice_id, parameter))
    return next(advice.message for advice in found)


def trait_of(resolution, name):
    found = (trait for trait in resolution.traits if trait.name == name)
    return next(((str(trait.value), trait.source) for trait in found), None)


@pytest.mark.parametrize(("level", "corpus"), [("High", "Small"), ("Low", "Large")])
def test_c1_neither_corpus_nor_resource_level_sets_the_rate(evidence_of, level, corpus):
    resolution = evidence_of(resourceLevel=level, corpus=corpus, model="hf://org/base-8b")
    assert resolution.value("learning_rate") == 3e-4


def test_c2_there_is_one_alpha(evidence_of):
    assert evidence_of(**HINDI).decision("lora_alpha").superseded == ()


@pytest.mark.parametrize("tokens", [10**6, 10**8, 10**10])
def test_c3_alpha_is_one_or_two_times_the_rank(evidence_of, tokens):
    resolution = evidence_of(shape=LLAMA_8B, text={"supervised_tokens": tokens})
    assert resolution.value("lora_alpha") / resolution.value("r") in (1, 2)
    assert "alpha-ratio-high" not in warning_ids(resolution)


def test_c4_accumulation_restores_the_batch_that_does_not_fit(evidence_of):
    resolution = evidence_of(**HINDI, **QLORA_ON_10_GB, shape=LLAMA_8B, text={"p99_tokens": 2048})
    training, _ = build_training(resolution)
    assert training.per_device_train_batch_size < resolution.value("batch_size")
    assert training.sequences_per_step == resolution.value("batch_size") == 16
    assert "effective-batch-mismatch" not in warning_ids(resolution)


def test_c5_dense_and_light_text_take_the_same_steps(evidence_of):
    training = [build_training(evidence_of(tag=tag))[0] for tag in ("ja", "es")]
    assert [one.sequences_per_step for one in training] == [16, 16]


def test_c6_the_kind_of_morphology_decides_no_decay(evidence_of):
    japanese, hindi = evidence_of(tag="ja", corpus="Small"), evidence_of(**HINDI)
    assert trait_of(japanese, "morphologyKind") == ("Orthographic", "Derived")
    assert japanese.value("weight_decay") == hindi.value("weight_decay")


def test_c7_a_hundredth_is_the_decay_of_all(evidence_of):
    spanish = evidence_of(tag="es", corpus="Large")
    tie = evidence_of(tokenDensity="Dense", corpus="Small")
    assert [one.value("weight_decay") for one in (spanish, tie)] == [0.01, 0.01]


def test_c8_mandarin_is_simple_by_its_cases_and_the_label_is_told(evidence_of):
    resolution = evidence_of(tag="zh")
    assert trait_of(resolution, "morphology") == ("Simple", "Evidence")
    assert message_of(resolution, "guide-label-disputed", "morphology") == (
        "morphology of zh is Simple by the evidence (0 cases (WALS 49A); weak evidence) and counts; the "
        "guide's label is Complex."
    )


def test_c9_korean_is_complex_by_its_cases_and_decides_nothing_by_it(evidence_of):
    korean, simple = evidence_of(tag="ko"), evidence_of(tag="ko", morphology="Simple")
    assert trait_of(korean, "morphology") == ("Complex", "Evidence")
    assert [d.value for d in korean.decisions] == [d.value for d in simple.decisions]


@pytest.mark.parametrize("tag", ["en", "es"])
@pytest.mark.parametrize(("p99", "length"), [(900, 1024), (7_000, 7_168)])
def test_c10_the_texts_pick_the_length_and_not_the_language(evidence_of, tag, p99, length):
    assert evidence_of(tag=tag, text={"p99_tokens": p99}).value("max_seq_length") == length


def test_c11_dense_text_gets_the_length_that_it_needs(evidence_of):
    resolution = evidence_of(tag="hi", text={"p99_tokens": 5_000, "chars_per_token": 0.96})
    assert resolution.value("max_seq_length") == 5_120
    assert "truncation-high" not in warning_ids(resolution)


def test_c12_density_follows_characters_a_token_and_not_the_premium(evidence_of):
    llama = "hf://meta-llama/Llama-3.1-8B"
    assert trait_of(evidence_of(tag="fr", model=llama), "tokenDensity") == ("Light", "Evidence")
    measured = evidence_of(tag="zh", text={"chars_per_token": 1.5})
    assert trait_of(measured, "tokenDensity") == ("Dense", "Measured")


def test_c13_hindi_is_what_the_tokenizer_makes_of_it(evidence_of):
    resolution = evidence_of(tag="hi", text={"chars_per_token": 3.68})
    assert trait_of(resolution, "tokenDensity") == ("Light", "Measured")
    assert message_of(resolution, "density-measured-differs", "tokenDensity") == (
        "tokenDensity of hi is Light (3.68 characters a token) and counts; the guide's label is Dense."
    )


def test_c14_density_decides_no_batch(evidence_of):
    batches = [evidence_of(tokenDensity=d).value("batch_size") for d in ("Dense", "Light")]
    assert batches == [16, 16]


def test_c15_a_small_corpus_takes_the_rate_that_trains_it(evidence_of, resolve_of):
    model = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
    resolution = evidence_of(tag="sw", corpus="Small", model=model)
    assert resolution.value("learning_rate") == 1e-3
    assert "lr-below-lora-range" not in warning_ids(resolution)
    beside = resolve_of(tag="sw", corpus="Small", model=model).decision("learning_rate").alternative
    assert (beside.value, beside.rule) == (1e-3, "E-LR-3")


def test_c16_an_unknown_corpus_takes_the_usual_rank_and_no_dropout(evidence_of):
    resolution = evidence_of()
    assert (resolution.value("r"), resolution.value("lora_dropout")) == (16, 0.0)


def test_c17_the_rank_follows_the_tokens_and_16_is_an_override(evidence_of):
    small = {"supervised_tokens": 3_000_000}
    assert evidence_of(shape=LLAMA_8B, text=small).value("r") == 8
    overridden = evidence_of(shape=LLAMA_8B, text=small, parameters={"lora": {"r": 16}})
    assert overridden.value("r") == 16


def test_c18_a_huge_corpus_takes_no_dropout_and_a_hundredth_is_an_override(evidence_of):
    huge = {"examples": 1_000_000}
    assert evidence_of(text=huge).value("lora_dropout") == 0.0
    overridden = evidence_of(text=huge, parameters={"lora": {"dropout": 0.01}})
    assert overridden.value("lora_dropout") == 0.01


def test_c19_saving_and_evaluating_meet_so_that_the_best_is_kept(evidence_of):
    resolution = evidence_of()
    assert resolution.value("evaluation_strategy") == resolution.value("save_strategy") == "steps"
    assert "best-model-not-kept" not in warning_ids(resolution)


def test_c20_epochs_end_the_run_and_unusual_steps_are_told(evidence_of):
    assert evidence_of().value("max_steps") == -1
    assert "max-steps-unusual" in warning_ids(evidence_of(parameters={"maxSteps": 999}))


def test_c21_patience_is_the_guides_3_and_2_is_accepted(evidence_of):
    two = evidence_of(parameters={"earlyStoppingPatience": 2})
    values = [one.value("early_stopping_patience") for one in (evidence_of(), two)]
    assert values == [3, 2]


def test_c22_bias_none_is_the_word(evidence_of):
    assert evidence_of().value("bias") == "none"


def test_c23_every_parameter_has_the_guides_one_name(evidence_of, resolve_of):
    names = [[d.parameter for d in one.decisions] for one in (evidence_of(), resolve_of())]
    assert names[0] == names[1]


def test_c24_modules_are_a_set_whatever_their_order(evidence_of):
    modules = ["v_proj", "q_proj"]
    resolution = evidence_of(parameters={"lora": {"targetModules": modules}})
    assert resolution.value("target_modules") == modules
    assert "attention-only-targets" in warning_ids(resolution)


def test_c25_swahili_is_what_its_text_is(evidence_of):
    simple = evidence_of(tag="sw", text={"mattr500": 0.61, "words": 9_000})
    complex_ = evidence_of(tag="sw", text={"mattr500": 0.70, "words": 9_000})
    assert trait_of(simple, "morphology") == ("Simple", "Measured")
    assert message_of(complex_, "guide-label-disputed", "morphology") == (
        "morphology of sw is Complex by the evidence (type-token ratio 0.70 over 9,000 words; weak "
        "evidence) and counts; the guide's label is Simple."
    )


def test_c26_the_guides_advice_on_adapters_stands_beside_both_policies(evidence_of, resolve_of):
    model = "hf://org/SmolLM2-135M"
    assert evidence_of(model=model).method == resolve_of(model=model).method


def test_c27_the_snippets_numbers_are_not_those_of_unknown_traits(evidence_of):
    resolution = evidence_of()
    names = ("max_seq_length", "batch_size", "learning_rate")
    assert [resolution.value(name) for name in names] == [2048, 16, 2e-4]
    assert [resolution.decision(name).guide_ids for name in names] == [(), (), ()]


@pytest.mark.parametrize(
    ("tag", "level", "message"),
    [
        (
            "mr",
            ("Low", "Evidence"),
            (
                "resourceLevel of mr is Low by the evidence (resource class 2 of 0-5) and counts; the "
                "guide's label is High."
            ),
        ),
        (
            "uz",
            None,
            (
                "resourceLevel of uz is neither Low nor High by the evidence (resource class 3 of 0-5) and "
                "counts; the guide's label is Low."
            ),
        ),
    ],
)
def test_c28_the_resource_class_counts_and_the_label_is_told(evidence_of, tag, level, message):
    resolution = evidence_of(tag=tag)
    assert trait_of(resolution, "resourceLevel") == level
    assert message_of(resolution, "guide-label-disputed", "resourceLevel") == message


def test_c29_alpha_says_what_it_does_and_nothing_of_smoothness(evidence_of):
    assert evidence_of().decision("lora_alpha").message == (
        "Twice the rank up to 32 and the rank above keeps the update's scale between 1 and 2. PEFT "
        "scales the update by alpha/r = 32/16 = 2."
    )


def test_c30_a_big_rank_costs_what_the_memory_model_says(evidence_of):
    rank = {"supervised_tokens": 42_000_000}
    assert evidence_of(shape=LLAMA_8B, text=rank).value("r") == 32
    eight_bit = Workload(method=Method.LORA, rank=32, optimizer=Optimizer.ADAMW_8BIT)
    adapter = estimate_memory(LLAMA_8B, eight_bit, tokens_per_micro_batch=1).adapter_bytes
    assert round(adapter / GB, 2) == 0.84


def test_c31_an_adapter_is_as_large_as_its_modules_make_it(evidence_of):
    modules = evidence_of(shape=LLAMA_8B).value("target_modules")
    sizes = [
        LLAMA_8B.adapter_file_bytes(rank=8, modules=("q_proj", "v_proj")),
        LLAMA_8B.adapter_file_bytes(rank=8, modules=modules),
    ]
    assert [round(size / 1e6, 1) for size in sizes] == [6.8, 41.9]


def test_c32_layers_are_recomputed_for_memory_and_not_for_morphology(evidence_of):
    resolution = evidence_of(tag="fi")
    assert resolution.decision("gradient_checkpointing").message == (
        "Layers may be recomputed, and are only where memory requires it: the result is the same."
    )
    assert resolution.decision("use_flash_attention").rule == "FA-1"


def test_c33_the_size_is_counted_and_needs_no_word(evidence_of):
    resolution = evidence_of(text={"examples": 100_000})
    assert trait_of(resolution, "corpus") == ("Large", "Measured")


def test_every_contradiction_has_a_test_of_its_name():
    names = " ".join(re.findall(r"def (test_\w+)", Path(__file__).read_text("utf-8")))
    assert {int(n) for n in re.findall(r"_c(\d+)_", names)} == set(range(1, 34))
