"""A config.json becomes a shape whose counts are those the model is published with."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.profile import pick_config_facts
from finetune_resolver.errors import UnsupportedModelError
from finetune_resolver.memory.model_shape import shape_from_config

MODELS: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[1] / "test_memory_models.yaml").read_text("utf-8")
)
LLAMA_8B = MODELS["llama-3.1-8b"]["config"]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
OLMO = {**LLAMA_8B, "model_type": "olmo"}
"""A type that the catalogue of families lacks, with every field."""


@pytest.mark.parametrize("name", MODELS)
def test_the_number_of_weights_is_the_published_one(name: str) -> None:
    assert shape_from_config(MODELS[name]["config"]).parameters() == MODELS[name]["parameters"]


@pytest.mark.parametrize("name", MODELS)
def test_the_facts_that_the_measure_pod_sends_make_the_same_shape(name: str) -> None:
    config = MODELS[name]["config"]
    assert shape_from_config(pick_config_facts(config)) == shape_from_config(config)


@pytest.mark.parametrize(
    ("rank", "modules", "expected"),
    [
        (8, ("q_proj", "v_proj"), 3_407_872),
        (8, ATTENTION, 6_815_744),
        (32, ATTENTION, 27_262_976),
        (8, ("AllLinear",), 20_971_520),
        (16, ("AllLinear",), 41_943_040),
        (32, ("AllLinear",), 83_886_080),
    ],
)
def test_an_adapter_of_an_8b_has_as_many_weights_as_peft_counts(
    rank: int, modules: tuple[str, ...], expected: int
) -> None:
    assert shape_from_config(LLAMA_8B).lora_parameters(rank=rank, modules=modules) == expected


def test_all_linear_is_the_seven_modules_in_any_order() -> None:
    shape = shape_from_config(LLAMA_8B)
    named = ("down_proj", "up_proj", "gate_proj", *ATTENTION)
    every = shape.lora_parameters(rank=8, modules=["AllLinear"])
    assert shape.lora_parameters(rank=8, modules=named) == every


@pytest.mark.parametrize(
    ("rank", "modules", "megabytes"), [(8, ("q_proj", "v_proj"), 6.8), (32, ATTENTION, 54.5)]
)
def test_c31_a_published_adapter_is_smaller_than_the_guides_few_hundred_megabytes(
    rank: int, modules: tuple[str, ...], megabytes: float
) -> None:
    size = shape_from_config(LLAMA_8B).adapter_file_bytes(rank=rank, modules=modules)
    assert size / 1e6 == pytest.approx(megabytes, abs=0.05)


def test_phi_3_has_fused_modules_and_all_linear_means_those() -> None:
    shape = shape_from_config(MODELS["phi-3-mini"]["config"])
    assert shape.adapted(["AllLinear"]) == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


def test_modules_that_the_model_lacks_are_refused_with_its_own_list() -> None:
    shape = shape_from_config(MODELS["phi-3-mini"]["config"])
    with pytest.raises(UnsupportedModelError) as refused:
        shape.lora_parameters(rank=8, modules=["q_proj", "v_proj", "o_proj"])
    assert str(refused.value) == (
        'lora.targetModules names q_proj, v_proj, which a model of type "phi3" lacks, expected some of '
        "qkv_proj, o_proj, gate_up_proj, down_proj; correct the list, or write AllLinear."
    )


def test_an_adapter_without_modules_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="names nothing, which"):
        shape_from_config(LLAMA_8B).lora_parameters(rank=8, modules=[])


def test_a_head_size_that_does_not_fill_the_hidden_size_is_taken_as_given() -> None:
    shape = shape_from_config(MODELS["mistral-nemo-12b"]["config"])
    assert (shape.query_size, shape.key_size, shape.hidden_size) == (4096, 1024, 5120)


def test_a_head_size_that_is_not_given_shares_the_hidden_size() -> None:
    assert shape_from_config(LLAMA_8B).head_size == 128


def test_a_multimodal_model_is_counted_by_its_language_part_and_says_so() -> None:
    shape = shape_from_config(MODELS["gemma-3-4b"]["config"])
    assert (shape.model_type, shape.not_counted) == ("gemma3_text", ("vision tower",))


def test_biases_that_a_config_switches_on_are_counted() -> None:
    biased = shape_from_config({**LLAMA_8B, "attention_bias": True, "mlp_bias": True})
    # q, o and the MLP's output 4096 each, k and v 1024, gate and up 14336.
    a_layer = 4096 * 3 + 1024 * 2 + 14336 * 2
    assert biased.parameters() == 8_030_261_248 + 32 * a_layer


@pytest.mark.parametrize(
    ("model_type", "field", "count"),
    [
        ("mixtral", "num_local_experts", 8),
        ("qwen3_moe", "num_experts", 128),
        ("deepseek_v3", "n_routed_experts", 256),
    ],
)
def test_a_mixture_of_experts_is_refused_with_its_type_and_a_remedy(
    model_type: str, field: str, count: int
) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        shape_from_config({**LLAMA_8B, "model_type": model_type, field: count})
    assert str(refused.value) == (
        f'The base model is a mixture of experts (model_type "{model_type}", {field} {count}), which is '
        "not supported: its adapters and its memory differ from a dense model's; use a dense model of "
        "the same family."
    )


@pytest.mark.parametrize("count", [None, 0, 1])
def test_a_config_that_counts_at_most_one_expert_is_dense(count: int | None) -> None:
    assert shape_from_config({**LLAMA_8B, "num_local_experts": count}).layers == 32


def test_experts_of_a_nested_text_config_are_refused_too() -> None:
    nested = {
        "model_type": "llama4",
        "text_config": {**LLAMA_8B, "model_type": "llama4_text", "num_local_experts": 16},
    }
    with pytest.raises(
        UnsupportedModelError, match='model_type "llama4_text", num_local_experts 16'
    ):
        shape_from_config(nested)


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        shape_from_config({"model_type": "t5", "is_encoder_decoder": True})
    assert str(refused.value) == (
        'The base model is an encoder-decoder (model_type "t5"), expected a decoder-only language '
        "model; use one such as Llama, Mistral, Qwen, Gemma or Phi."
    )


def test_an_unknown_architecture_with_every_field_is_accepted_as_inexact() -> None:
    shape = shape_from_config(OLMO)
    assert (shape.exact, shape.parameters()) == (False, 8_030_261_248)


@pytest.mark.parametrize("missing", sorted(OLMO.keys() - {"model_type", "tie_word_embeddings"}))
def test_an_unknown_architecture_without_a_size_is_refused_by_its_name(missing: str) -> None:
    config = {name: value for name, value in OLMO.items() if name != missing}
    with pytest.raises(UnsupportedModelError) as refused:
        shape_from_config(config)
    assert str(refused.value) == (
        f'config.json of a model of type "olmo" has no {missing}, expected a positive integer; use a '
        "model whose config.json names it, or declare resources.gpuMemoryClass and method so that "
        "nothing has to be computed."
    )


def test_an_unknown_architecture_must_say_whether_its_embeddings_are_tied() -> None:
    config = {name: value for name, value in OLMO.items() if name != "tie_word_embeddings"}
    with pytest.raises(UnsupportedModelError, match="has no tie_word_embeddings, expected true or"):
        shape_from_config(config)


@pytest.mark.parametrize("value", ["32", 0, -1, True, 32.0])
def test_a_size_that_is_no_positive_integer_is_refused_with_its_value(value: object) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        shape_from_config({**LLAMA_8B, "num_hidden_layers": value})
    assert str(refused.value) == (
        f'config.json of a model of type "llama" has num_hidden_layers {value!r}, expected a positive '
        "integer; correct the file or use another model."
    )


def test_heads_that_do_not_divide_the_hidden_size_need_a_head_size() -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        shape_from_config({**LLAMA_8B, "num_attention_heads": 33})
    assert str(refused.value) == (
        'config.json of a model of type "llama" has hidden_size 4096, which num_attention_heads 33 does '
        "not divide, and no head_dim; correct the file or use another model."
    )


def test_an_empty_config_names_the_first_field_that_it_lacks() -> None:
    with pytest.raises(UnsupportedModelError, match='of type "unknown" has no hidden_size'):
        shape_from_config({})


@pytest.mark.parametrize(("name", "tiny"), [("smollm2-135m", True), ("smollm2-360m", False)])
def test_g_pr_2_only_models_like_distilgpt2_are_tiny(name: str, *, tiny: bool) -> None:
    assert shape_from_config(MODELS[name]["config"]).is_tiny() is tiny
