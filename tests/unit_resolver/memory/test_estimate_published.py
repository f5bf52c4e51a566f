"""The memory model against every published and measured peak that its documentation names.

Sources: Unsloth's context tables (docs "Unsloth Benchmarks", blog "Llama 3.3"), LLaMA-Factory's wiki
"Performance comparison" of April 2024, and this project's runs on one H100 (docs/memory.md).
"""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from finetune_api.resource import Method, Optimizer
from finetune_resolver.memory.estimate import (
    GB,
    TrainingEngine,
    Workload,
    estimate_largest_batch,
    estimate_memory,
)
from finetune_resolver.memory.model_shape import shape_from_config

GIB = 1 << 30
SHAPES = {
    name: shape_from_config(model["config"])
    for name, model in yaml.safe_load(
        (Path(__file__).parents[1] / "test_memory_models.yaml").read_text("utf-8")
    ).items()
}
QLORA32 = Workload(method=Method.QLORA, rank=32)
QLORA32_HF = replace(QLORA32, engine=TrainingEngine.HUGGING_FACE)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

FITTED = [
    (QLORA32, 8, 2972),
    (QLORA32, 12, 21848),
    (QLORA32, 16, 40724),
    (QLORA32, 24, 78475),
    (QLORA32, 40, 153977),
    (QLORA32, 48, 191728),
    (QLORA32, 80, 342733),
    (QLORA32_HF, 12, 932),
    (QLORA32_HF, 16, 2551),
    (QLORA32_HF, 24, 5789),
    (QLORA32_HF, 40, 12264),
    (QLORA32_HF, 48, 15502),
    (QLORA32_HF, 80, 28454),
]
"""Llama-3.1-8B: GPU's GB, and the longest sequence that trained on it."""

LLAMA3_70B = [
    (QLORA32, 48, 12106, 3.0),
    (QLORA32, 80, 89389, 1.6),
    (QLORA32_HF, 80, 6916, -7.0),
]
"""Llama-3.3-70B: GPU's GB, longest sequence, error in percent."""

LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 100_000)
LLAMA2_FLASH_ATTENTION_GB = (6, 7, 9, 12, 19, 32)
LLAMA2_UNSLOTH_2024_GB = (5, 6, 7, 8, 10, 16, 25, 37)
"""Llama-2-7B, QLoRA r 8 on all modules, one sequence of each length."""

LLAMA2_BATCH_OF_4 = [
    (Method.LORA, TrainingEngine.HUGGING_FACE, 17, 8.5),
    (Method.LORA, TrainingEngine.UNSLOTH, 16, -0.9),
    (Method.QLORA, TrainingEngine.HUGGING_FACE, 9, 4.1),
    (Method.QLORA, TrainingEngine.UNSLOTH, 7, -10.8),
]
"""Llama-2-7B, r 8 on all modules, 4 sequences of 1,024 tokens: GB, error in percent."""


def error_percent(model: str, workload: Workload, *, tokens: int, published_gb: float) -> float:
    estimate = estimate_memory(SHAPES[model], workload, tokens_per_micro_batch=tokens)
    return 100 * (estimate.total_bytes / GB / published_gb - 1)


def llama2_error(
    method: Method, engine: TrainingEngine, *, tokens: int, published_gb: float
) -> float:
    workload = Workload(method=method, rank=8, engine=engine)
    estimate = estimate_memory(SHAPES["llama-2-7b"], workload, tokens_per_micro_batch=tokens)
    # Unsloth fused its loss after April 2024: logits were held once, in fp32.
    logits = 4 * 32_000 * tokens if engine is TrainingEngine.UNSLOTH else 0
    return 100 * ((estimate.total_bytes + logits) / GB / published_gb - 1)


def fitted_errors() -> list[float]:
    return [
        error_percent("llama-3.1-8b", workload, tokens=tokens, published_gb=gb)
        for workload, gb, tokens in FITTED
    ]


def held_out_errors() -> list[float]:
    errors = [
        error_percent("llama-3.3-70b", workload, tokens=tokens, published_gb=gb)
        for workload, gb, tokens, _ in LLAMA3_70B
    ]
    for engine, column in (
        (TrainingEngine.HUGGING_FACE, LLAMA2_FLASH_ATTENTION_GB),
        (TrainingEngine.UNSLOTH, LLAMA2_UNSLOTH_2024_GB),
    ):
        errors += [
            llama2_error(Method.QLORA, engine, tokens=tokens, published_gb=gb)
            for tokens, gb in zip(LENGTHS, column, strict=False)
        ]
    return errors + [
        llama2_error(method, engine, tokens=4096, published_gb=gb)
        for method, engine, gb, _ in LLAMA2_BATCH_OF_4
    ]


def mean_absolute(errors: list[float]) -> float:
    return sum(map(abs, errors)) / len(errors)


def test_the_13_fitted_points_have_a_mean_absolute_error_below_0_9_percent() -> None:
    assert mean_absolute(fitted_errors()) <= 0.9


def test_no_fitted_point_is_off_by_more_than_2_1_percent() -> None:
    assert max(map(abs, fitted_errors())) <= 2.1


@pytest.mark.parametrize(("workload", "gb", "tokens", "stated"), LLAMA3_70B)
def test_a_70b_that_took_no_part_in_the_fit_is_met(
    workload: Workload, gb: int, tokens: int, stated: float
) -> None:
    error = error_percent("llama-3.3-70b", workload, tokens=tokens, published_gb=gb)
    assert error == pytest.approx(stated, abs=0.06)


@pytest.mark.parametrize(
    ("tokens", "gb"), list(zip(LENGTHS, LLAMA2_FLASH_ATTENTION_GB, strict=False))
)
def test_llama_2_with_flash_attention_is_over_estimated_by_4_to_16_percent(
    tokens: int, gb: int
) -> None:
    error = llama2_error(Method.QLORA, TrainingEngine.HUGGING_FACE, tokens=tokens, published_gb=gb)
    assert 3.9 <= error <= 16.25


@pytest.mark.parametrize(("tokens", "gb"), list(zip(LENGTHS, LLAMA2_UNSLOTH_2024_GB, strict=False)))
def test_llama_2_with_unsloth_of_2024_is_met_within_11_percent(tokens: int, gb: int) -> None:
    error = llama2_error(Method.QLORA, TrainingEngine.UNSLOTH, tokens=tokens, published_gb=gb)
    assert -11.0 <= error <= 8.0


@pytest.mark.parametrize(("method", "engine", "gb", "stated"), LLAMA2_BATCH_OF_4)
def test_llama_2_with_a_batch_of_4_is_met(
    method: Method, engine: TrainingEngine, gb: int, stated: float
) -> None:
    error = llama2_error(method, engine, tokens=4096, published_gb=gb)
    assert error == pytest.approx(stated, abs=0.06)


def test_the_21_held_out_rows_have_the_stated_error() -> None:
    errors = held_out_errors()
    assert len(errors) == 21
    assert mean_absolute(errors) <= 6.45
    assert min(errors) == pytest.approx(-10.8, abs=0.06)
    assert max(errors) == pytest.approx(16.2, abs=0.06)


def test_all_34_published_points_together_have_the_stated_error() -> None:
    errors = fitted_errors() + held_out_errors()
    assert len(errors) == 34
    assert mean_absolute(errors) <= 4.25
    assert sum(errors) / len(errors) == pytest.approx(1.3, abs=0.06)


@pytest.mark.parametrize(
    ("workload", "gpu_gb", "length", "batch"),
    [
        (QLORA32, 16, 2048, 16),
        (QLORA32, 24, 8192, 8),
        (QLORA32, 80, 8192, 37),
        (QLORA32_HF, 24, 2048, 2),
        (QLORA32_HF, 40, 8192, 1),
    ],
)
def test_the_largest_batch_of_an_8b_is_as_computed_by_hand(
    workload: Workload, gpu_gb: int, length: int, batch: int
) -> None:
    largest = estimate_largest_batch(
        SHAPES["llama-3.1-8b"], workload, max_seq_length=length, gpu_memory_bytes=gpu_gb * GB
    )
    assert largest == batch


@pytest.mark.parametrize(
    ("batch", "length", "unsloth_gb", "hugging_face_gb"),
    [
        pytest.param(16, 8192, 34.6, 333.3, id="Spanish"),
        pytest.param(8, 2048, 10.3, 49.4, id="Japanese, and Hindi nominal"),
        pytest.param(1, 2048, 7.2, 13.9, id="Hindi"),
    ],
)
def test_the_guides_configurations_need_what_they_need_on_an_8b(
    batch: int, length: int, unsloth_gb: float, hugging_face_gb: float
) -> None:
    workload = Workload(method=Method.QLORA, rank=32, modules=ATTENTION)
    for engine, gb in (
        (TrainingEngine.UNSLOTH, unsloth_gb),
        (TrainingEngine.HUGGING_FACE, hugging_face_gb),
    ):
        estimate = estimate_memory(
            SHAPES["llama-3.1-8b"],
            replace(workload, engine=engine),
            tokens_per_micro_batch=batch * length,
        )
        assert estimate.total_bytes / GB == pytest.approx(gb, abs=0.1)


# --- Measured on one H100 80 GB, r 16, AdamW with 32-bit moments; peaks in GiB -------------------

LORA16 = Workload(method=Method.LORA, optimizer=Optimizer.ADAMW, offloads_inputs=False)
QLORA16 = replace(LORA16, method=Method.QLORA)


@pytest.mark.parametrize(
    ("model", "tokens", "kept", "gib", "stated"),
    [
        ("llama-3.1-8b", 4096, 32, 29.43, -1.0),
        ("llama-3.1-8b", 8192, 32, 43.15, -2.8),
        ("llama-3.1-8b", 12288, 32, 56.76, -3.5),
        ("llama-3.1-8b", 16384, 32, 70.37, -4.0),
        ("llama-3.1-8b", 20480, 16, 52.69, 0.4),
        ("llama-3.1-8b", 24576, 8, 41.27, 5.9),
        ("llama-3.1-8b", 32768, 0, 28.07, 9.8),
        ("llama-3.2-1b", 8192, 16, 10.20, 4.1),
        ("llama-3.2-1b", 16384, 16, 17.56, 2.7),
        ("llama-3.2-1b", 32768, 16, 32.29, 1.7),
        ("llama-3.2-1b", 65536, 16, 61.92, 0.9),
        ("llama-3.2-1b", 32768, 8, 18.72, 11.3),
    ],
)
def test_kept_and_recomputed_layers_on_an_h100_are_met(
    model: str, tokens: int, kept: int, gib: float, stated: float
) -> None:
    estimate = estimate_memory(
        SHAPES[model], LORA16, tokens_per_micro_batch=tokens, layers_kept=kept
    )
    assert 100 * (estimate.total_bytes / GIB / gib - 1) == pytest.approx(stated, abs=0.1)


def test_a_1b_with_every_layer_recomputed_is_over_estimated_never_under() -> None:
    # The one measured point outside the band: +27 %, on the safe side.
    estimate = estimate_memory(SHAPES["llama-3.2-1b"], LORA16, tokens_per_micro_batch=32768)
    assert 1.0 < estimate.total_bytes / GIB / 6.94 < 1.28


@pytest.mark.parametrize(
    ("workload", "model", "tokens", "kept", "gib"),
    [
        pytest.param(replace(LORA16, dropout=True), "llama-3.1-8b", 12288, 32, 71.4, id="dropout"),
        pytest.param(
            replace(LORA16, dropout=True), "llama-3.1-8b", 8192, 32, 52.8, id="dropout, 8k"
        ),
        pytest.param(
            replace(LORA16, dropout=True), "llama-3.2-1b", 32768, 16, 43.2, id="dropout, 1B"
        ),
        pytest.param(
            replace(LORA16, modules=("q_proj", "v_proj")), "llama-3.1-8b", 12288, 32, 67.3, id="q,v"
        ),
        pytest.param(
            replace(LORA16, modules=ATTENTION), "llama-3.1-8b", 12288, 32, 64.4, id="attention"
        ),
        pytest.param(QLORA16, "llama-3.1-8b", 12288, 32, 47.2, id="4-bit, 12k"),
        pytest.param(QLORA16, "llama-3.1-8b", 16384, 32, 60.8, id="4-bit, 16k"),
        pytest.param(
            replace(LORA16, offloads_inputs=True), "llama-3.1-8b", 16384, 0, 18.3, id="offloaded"
        ),
    ],
)
def test_variants_measured_on_an_h100_are_met_within_7_percent(
    workload: Workload, model: str, tokens: int, kept: int, gib: float
) -> None:
    estimate = estimate_memory(
        SHAPES[model], workload, tokens_per_micro_batch=tokens, layers_kept=kept
    )
    assert estimate.total_bytes / GIB == pytest.approx(gib, rel=0.07)


def test_4_bit_weights_with_plain_checkpointing_on_an_h100_are_met_within_the_band() -> None:
    estimate = estimate_memory(SHAPES["llama-3.1-8b"], QLORA16, tokens_per_micro_batch=16384)
    assert estimate.low_bytes <= 12.3 * GIB <= estimate.high_bytes
