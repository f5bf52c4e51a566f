"""Memory by component, and what is decided from it."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.resource import GpuMemoryClass, Method, Optimizer
from finetune_resolver.errors import UnsupportedModelError
from finetune_resolver.memory.estimate import (
    GB,
    MEMORY_CEILING,
    TrainingEngine,
    Workload,
    estimate_largest_batch,
    estimate_memory,
    estimate_offloaded_bytes,
)
from finetune_resolver.memory.fit import (
    GpuMemoryDecision,
    MethodDecision,
    decide_gpu_memory_class,
    decide_method_by_memory,
)
from finetune_resolver.memory.model_shape import shape_from_config

SHAPES = {
    name: shape_from_config(model["config"])
    for name, model in yaml.safe_load(
        (Path(__file__).parents[1] / "test_memory_models.yaml").read_text("utf-8")
    ).items()
}
LLAMA_8B, LLAMA_70B = SHAPES["llama-3.1-8b"], SHAPES["llama-3.3-70b"]
AUTO = Workload(method=Method.AUTO, rank=32)
LORA = replace(AUTO, method=Method.LORA)
QLORA = replace(AUTO, method=Method.QLORA)
FULL = replace(AUTO, method=Method.FULL)

workloads = st.builds(
    Workload,
    method=st.sampled_from([Method.LORA, Method.QLORA]),
    rank=st.sampled_from([8, 16, 32, 64]),
    modules=st.sampled_from([("AllLinear",), ("q_proj", "v_proj")]),
    engine=st.sampled_from(TrainingEngine),
    optimizer=st.sampled_from(Optimizer),
    dropout=st.booleans(),
    offloads_inputs=st.booleans(),
)
lengths = st.sampled_from([512, 2048, 4096, 8192])
gpu_memories = st.integers(1 * GB, 180 * GB)


def choose(workload: Workload, *, gpu_gb: int | None, length: int = 8192) -> MethodDecision:
    return decide_method_by_memory(
        LLAMA_8B,
        workload,
        max_seq_length=length,
        gpu_memory_bytes=None if gpu_gb is None else gpu_gb * GB,
    )


def classify(workload: Workload, *, batch: int, length: int, gpu_gb: int) -> GpuMemoryDecision:
    return decide_gpu_memory_class(
        LLAMA_8B,
        workload,
        batch_size=batch,
        max_seq_length=length,
        gpu_memory_bytes=gpu_gb * GB,
    )


# --- Components ---------------------------------------------------------------------------------


def test_the_components_add_up_to_the_total() -> None:
    estimate = estimate_memory(
        LLAMA_8B, replace(QLORA, engine=TrainingEngine.HUGGING_FACE), tokens_per_micro_batch=2048
    )
    assert estimate.total_bytes == (
        estimate.weights_bytes
        + estimate.adapter_bytes
        + estimate.activations_bytes
        + estimate.logits_bytes
        + estimate.fixed_bytes
    )


def test_16_bit_weights_are_two_bytes_each() -> None:
    assert (
        estimate_memory(LLAMA_8B, LORA, tokens_per_micro_batch=1).weights_bytes == 2 * 8_030_261_248
    )


@pytest.mark.parametrize(
    ("engine", "gb"), [(TrainingEngine.UNSLOTH, 5.70), (TrainingEngine.HUGGING_FACE, 7.81)], ids=str
)
def test_4_bit_weights_leave_embeddings_in_16_bits_or_with_plain_peft_in_32(
    engine: TrainingEngine, gb: float
) -> None:
    estimate = estimate_memory(LLAMA_8B, replace(QLORA, engine=engine), tokens_per_micro_batch=1)
    assert estimate.weights_bytes / GB == pytest.approx(gb, abs=0.01)


def test_c30_a_rank_of_32_on_all_linear_layers_of_an_8b_costs_0_84_gb() -> None:
    estimate = estimate_memory(LLAMA_8B, QLORA, tokens_per_micro_batch=1)
    assert estimate.adapter_bytes == 10 * 83_886_080


def test_32_bit_moments_cost_6_bytes_more_for_each_trained_weight() -> None:
    wide = estimate_memory(
        LLAMA_8B, replace(QLORA, optimizer=Optimizer.ADAMW), tokens_per_micro_batch=1
    )
    assert wide.adapter_bytes == 16 * 83_886_080


def test_all_linear_instead_of_q_and_v_costs_0_18_gb_at_rank_8() -> None:
    every = estimate_memory(LLAMA_8B, replace(QLORA, rank=8), tokens_per_micro_batch=1)
    narrow = estimate_memory(
        LLAMA_8B, replace(QLORA, rank=8, modules=("q_proj", "v_proj")), tokens_per_micro_batch=1
    )
    assert (every.adapter_bytes - narrow.adapter_bytes) / GB == pytest.approx(0.18, abs=0.005)


def test_full_fine_tuning_trains_every_weight() -> None:
    estimate = estimate_memory(LLAMA_8B, FULL, tokens_per_micro_batch=1)
    assert estimate.adapter_bytes == 10 * 8_030_261_248


def test_only_an_engine_without_fused_loss_holds_logits() -> None:
    assert estimate_memory(LLAMA_8B, LORA, tokens_per_micro_batch=2048).logits_bytes == 0


def test_dropout_costs_nothing_while_layers_are_recomputed() -> None:
    plain = estimate_memory(LLAMA_8B, LORA, tokens_per_micro_batch=2048)
    assert (
        estimate_memory(LLAMA_8B, replace(LORA, dropout=True), tokens_per_micro_batch=2048) == plain
    )


def test_full_fine_tuning_has_no_lora_dropout_and_no_unadapted_blocks() -> None:
    plain = estimate_memory(LLAMA_8B, FULL, tokens_per_micro_batch=2048, layers_kept=32)
    odd = replace(FULL, dropout=True, modules=("q_proj",))
    assert estimate_memory(LLAMA_8B, odd, tokens_per_micro_batch=2048, layers_kept=32) == plain


def test_an_adapter_on_modules_that_the_model_lacks_has_no_estimate() -> None:
    workload = replace(LORA, modules=("c_attn",))
    with pytest.raises(UnsupportedModelError, match="names c_attn, which a model of type"):
        estimate_memory(LLAMA_8B, workload, tokens_per_micro_batch=2048)


@pytest.mark.parametrize(("batch", "length", "gib"), [(16, 8192, 32), (8, 2048, 4), (1, 2048, 0.5)])
def test_offloaded_inputs_take_host_memory(batch: int, length: int, gib: float) -> None:
    assert estimate_offloaded_bytes(LLAMA_8B, tokens_per_micro_batch=batch * length) == gib * (
        1 << 30
    )


def test_layers_that_are_kept_offload_nothing() -> None:
    assert estimate_offloaded_bytes(LLAMA_8B, tokens_per_micro_batch=2048, layers_kept=32) == 0


# --- Batch and the guide's gpuMemory axis -------------------------------------------------------


@given(workload=workloads, length=lengths, memory=gpu_memories)
def test_the_largest_batch_fits_and_one_more_does_not(
    workload: Workload, length: int, memory: int
) -> None:
    batch = estimate_largest_batch(
        LLAMA_8B, workload, max_seq_length=length, gpu_memory_bytes=memory
    )
    more = estimate_memory(LLAMA_8B, workload, tokens_per_micro_batch=(batch + 1) * length)
    # One byte a component is rounding.
    assert more.total_bytes + 5 > MEMORY_CEILING * memory
    if batch:
        fitting = estimate_memory(LLAMA_8B, workload, tokens_per_micro_batch=batch * length)
        assert fitting.total_bytes - 5 <= MEMORY_CEILING * memory


@given(workload=workloads, length=lengths, memory=gpu_memories)
def test_a_larger_gpu_never_holds_fewer_sequences(
    workload: Workload, length: int, memory: int
) -> None:
    smaller, larger = (
        estimate_largest_batch(LLAMA_8B, workload, max_seq_length=length, gpu_memory_bytes=size)
        for size in (memory, memory + GB)
    )
    assert smaller <= larger


def test_a_nominal_batch_that_fits_is_ample() -> None:
    decision = classify(QLORA, batch=8, length=2048, gpu_gb=16)
    assert (decision.value, decision.largest_batch) == (GpuMemoryClass.AMPLE, 16)
    assert decision.message == (
        "Ample: the largest micro-batch with QLoRA is 16 x 2,048 tokens in 14.4 GB (90% of the GPU's 16.0), "
        "the guide's batch 8."
    )


def test_a_nominal_batch_that_does_not_fit_is_constrained() -> None:
    decision = classify(
        replace(QLORA, engine=TrainingEngine.HUGGING_FACE), batch=8, length=8192, gpu_gb=40
    )
    assert (decision.value, decision.largest_batch) == (GpuMemoryClass.CONSTRAINED, 1)
    assert decision.message == (
        "Constrained: the largest micro-batch with QLoRA is 1 x 8,192 tokens in 36.0 GB (90% of the GPU's "
        "40.0), the guide's batch 8."
    )


@pytest.mark.parametrize(("batch", "value"), [(16, "Ample"), (17, "Constrained")])
def test_constrained_begins_where_the_nominal_batch_exceeds_the_largest(
    batch: int, value: str
) -> None:
    assert classify(QLORA, batch=batch, length=2048, gpu_gb=16).value == value


def test_the_guides_hindi_micro_batch_of_1_is_for_plain_peft_and_needless_with_unsloth() -> None:
    hindi = Workload(method=Method.QLORA, rank=8, modules=("q_proj", "k_proj", "v_proj", "o_proj"))
    plain = classify(
        replace(hindi, engine=TrainingEngine.HUGGING_FACE), batch=8, length=2048, gpu_gb=24
    )
    unsloth = classify(hindi, batch=8, length=2048, gpu_gb=16)
    assert (plain.value, unsloth.value) == (GpuMemoryClass.CONSTRAINED, GpuMemoryClass.AMPLE)


# --- Method -------------------------------------------------------------------------------------


def test_auto_is_lora_where_16_bit_weights_fit() -> None:
    decision = choose(AUTO, gpu_gb=24)
    assert (decision.method, decision.fits) == (Method.LORA, True)
    assert decision.message == (
        "LoRA: one sequence of 8,192 tokens needs about 19.4 GB (16.3 to 22.5) of 21.6 GB (90% of the "
        "GPU's 24.0)."
    )


def test_auto_is_qlora_where_only_4_bit_weights_fit() -> None:
    decision = choose(AUTO, gpu_gb=16)
    assert (decision.method, decision.fits) == (Method.QLORA, True)
    assert decision.message == (
        "QLoRA: one sequence of 8,192 tokens needs about 9.1 GB (7.6 to 10.5) of 14.4 GB (90% of the "
        "GPU's 16.0). LoRA would need about 19.4 GB (16.3 to 22.5)."
    )


def test_auto_is_refused_with_the_numbers_and_the_nearest_gpu_where_nothing_fits() -> None:
    decision = choose(AUTO, gpu_gb=8)
    assert (decision.method, decision.fits) == (Method.QLORA, False)
    assert decision.nearest == ("a GPU of 12 GB",)
    assert decision.message == (
        "A model of 8,030,261,248 parameters does not fit: QLoRA with one sequence of 8,192 tokens "
        "needs about 9.1 GB (7.6 to 10.5), expected at most 7.2 GB (90% of the GPU's 8.0); use a GPU of "
        "12 GB."
    )


def test_a_length_that_does_not_fit_is_refused_with_the_longest_that_does() -> None:
    decision = choose(LORA, gpu_gb=20)
    assert decision.nearest == ("parameters.maxSeqLength 1280", "method QLoRA", "a GPU of 24 GB")
    assert choose(LORA, gpu_gb=20, length=1280).fits
    assert not choose(LORA, gpu_gb=20, length=1280 + 256).fits


def test_full_fine_tuning_that_does_not_fit_is_refused_with_lora_as_the_nearest() -> None:
    decision = choose(FULL, gpu_gb=80)
    assert (decision.method, decision.fits) == (Method.FULL, False)
    assert decision.nearest == ("method LoRA", "a GPU of 141 GB")


def test_qlora_with_a_shorter_length_is_named_where_it_needs_both() -> None:
    decision = choose(LORA, gpu_gb=9)
    assert decision.nearest == ("method QLoRA with parameters.maxSeqLength 3328", "a GPU of 24 GB")
    assert choose(QLORA, gpu_gb=9, length=3328).fits
    assert not choose(QLORA, gpu_gb=9, length=3328 + 256).fits


def test_a_gpu_for_qlora_is_named_where_no_method_fits_this_one() -> None:
    decision = decide_method_by_memory(
        LLAMA_70B, LORA, max_seq_length=8192, gpu_memory_bytes=40 * GB
    )
    assert decision.nearest == ("a GPU of 180 GB", "method QLoRA with a GPU of 80 GB")


def test_a_model_too_large_for_any_gpu_is_refused_with_a_smaller_model() -> None:
    enormous = replace(LLAMA_70B, layers=800)
    decision = decide_method_by_memory(
        enormous, QLORA, max_seq_length=8192, gpu_memory_bytes=180 * GB
    )
    assert decision.nearest == ("a smaller base model",)


@pytest.mark.parametrize(
    ("asked", "method"),
    [(Method.AUTO, Method.LORA), (Method.QLORA, Method.QLORA), (Method.FULL, Method.FULL)],
)
def test_an_unknown_gpu_refuses_nothing(asked: Method, method: Method) -> None:
    decision = choose(replace(AUTO, method=asked), gpu_gb=None)
    assert (decision.method, decision.fits) == (method, True)


def test_an_unknown_gpu_is_told_with_what_the_run_needs() -> None:
    assert choose(AUTO, gpu_gb=None).message == (
        "LoRA: the GPU's memory is unknown, so nothing was compared; one sequence of 8,192 tokens needs "
        "about 19.4 GB (16.3 to 22.5). Set resources.gpuMemory to have it checked."
    )


@given(
    method=st.sampled_from([Method.AUTO, Method.LORA, Method.QLORA, Method.FULL]),
    length=lengths,
    memory=gpu_memories,
)
def test_every_decision_is_true_to_its_estimate(method: Method, length: int, memory: int) -> None:
    decision = decide_method_by_memory(
        LLAMA_8B, replace(AUTO, method=method), max_seq_length=length, gpu_memory_bytes=memory
    )
    assert decision.fits is decision.estimate.fits(memory)
    assert bool(decision.nearest) is not decision.fits


def test_what_was_not_counted_is_said() -> None:
    decision = decide_method_by_memory(
        SHAPES["gemma-3-4b"], LORA, max_seq_length=512, gpu_memory_bytes=80 * GB
    )
    assert decision.message.endswith(" The model's vision tower comes on top.")


def test_an_unknown_model_type_is_said_to_be_counted_as_a_llama() -> None:
    unknown = replace(LLAMA_8B, model_type="olmo", exact=False)
    decision = decide_method_by_memory(unknown, LORA, max_seq_length=512, gpu_memory_bytes=80 * GB)
    assert decision.message.endswith(
        ' A model of type "olmo" is unknown and was counted as a Llama.'
    )
