"""What the runtime chooses, and the sentence it gives for it."""

from typing import Any

import pytest

from finetune_api.micro_batch import MicroBatchLimits

pytestmark = pytest.mark.torch
pytest.importorskip("torch")

GIB = 2**30
ALL_FUSED = 256
"""Padded adapter columns of a layer's four inputs at rank 16."""


def widths(name: str) -> Any:
    from finetune_trainer.engine.tuning import Widths

    if name == "8B":
        return Widths(32, 4096, 14336, 4096, 1024, 32, 128256)
    return Widths(16, 2048, 8192, 2048, 512, 32, 128256)


def fused_cost(name: str) -> Any:
    from finetune_trainer.engine.tuning import estimate_fused_cost

    trainable = {"8B": 41_943_040, "1B": 11_272_192}[name]
    return estimate_fused_cost(
        widths(name),
        ranks=ALL_FUSED,
        trainable=trainable,
        head_norms=False,
        output_norms=False,
    )


def decide(
    free_gib: float, *, name: str = "8B", step: int = 60_000, longest: int = 2048, **changes: Any
) -> Any:
    from finetune_trainer.engine.tuning import Forced, decide_micro_batch

    limits = MicroBatchLimits(
        free_bytes=int(free_gib * GIB),
        longest=longest,
        step_tokens=step,
        layers=widths(name).layers,
        can_recompute=changes.get("can_recompute", True),
        keeps_some_layers=changes.get("partial", True),
    )
    return decide_micro_batch(
        fused_cost(name), limits, used_bytes=16 * GIB, forced=changes.get("forced", Forced())
    )


def test_an_8b_on_80_gb_keeps_all_layers_and_fills_the_gpu() -> None:
    micro_batch = decide(63.0)
    assert micro_batch.layers_kept == 32
    assert 18_000 < micro_batch.tokens < 21_000
    tokens, layers = (choice.reason for choice in micro_batch.choices)
    assert tokens == (
        f"63.0 GiB of the GPU are free, which hold {micro_batch.tokens:,} tokens; larger steps are"
        " split."
    )
    assert layers == "No layer is computed twice: 63.0 GiB of the GPU are free."


def test_a_step_that_fits_is_one_micro_batch() -> None:
    micro_batch = decide(63.0, step=15_000)
    assert micro_batch.tokens == 15_000
    assert micro_batch.choices[0].reason.startswith("Every step fits one micro-batch: 63.0 GiB")


def test_a_small_model_gets_no_larger_micro_batches_than_pay() -> None:
    micro_batch = decide(70.0, name="1B", step=100_000)
    assert (micro_batch.tokens, micro_batch.layers_kept) == (32_768, 16)
    assert micro_batch.choices[0].reason.startswith(
        "More tokens a micro-batch gain no speed: 70.0 GiB"
    )


def test_layers_are_computed_twice_only_where_too_few_tokens_fit() -> None:
    micro_batch = decide(14.0)
    assert 0 < micro_batch.layers_kept < 32
    assert micro_batch.tokens >= 4096
    recomputed = 32 - micro_batch.layers_kept
    assert micro_batch.choices[1].reason == (
        f"{recomputed} of 32 layers are computed twice, so that a micro-batch of 4,096 tokens fits:"
        " 14.0 GiB of the GPU are free."
    )


def test_the_peak_is_that_of_the_largest_micro_batch_that_may_come() -> None:
    whole, split = decide(63.0, step=20_000), decide(63.0, step=30_000)
    # Some other step may fill a micro-batch, though this one is cut into two smaller ones.
    assert split.tokens > 20_000
    assert split.predicted_peak_bytes > whole.predicted_peak_bytes


def test_an_engine_without_halves_keeps_all_or_nothing() -> None:
    assert decide(14.0, partial=False).layers_kept == 0
    assert decide(40.0, partial=False).layers_kept == 32


def test_a_plan_that_forbids_recomputing_is_obeyed() -> None:
    micro_batch = decide(14.0, can_recompute=False)
    assert micro_batch.layers_kept == 32
    assert micro_batch.tokens < 4096


def test_the_longest_text_always_gets_a_micro_batch() -> None:
    assert decide(5.0, longest=6000).tokens == 6000


@pytest.mark.parametrize(
    ("name", "tokens", "kept", "measured_gib"),
    [
        ("8B", 4096, 32, 27.76),
        ("8B", 8192, 32, 39.56),
        ("8B", 12288, 32, 51.27),
        ("8B", 16384, 32, 62.92),
        ("8B", 20480, 32, 74.62),
        ("8B", 16384, 0, 23.40),
        ("8B", 24576, 16, 56.73),
        ("1B", 8192, 16, 9.35),
        ("1B", 16384, 16, 15.80),
        ("1B", 32768, 16, 28.75),
        ("1B", 65536, 16, 54.80),
        ("1B", 32768, 8, 18.57),
    ],
)
def test_the_predicted_peak_is_within_ten_percent_of_an_h100s(
    name: str, tokens: int, kept: int, measured_gib: float
) -> None:
    weights_gib = {"8B": 15.15, "1B": 2.36}[name]
    needed = fused_cost(name).estimate(tokens=tokens, layers_kept=kept, layers=widths(name).layers)
    assert weights_gib + needed / GIB == pytest.approx(measured_gib, rel=0.1)


@pytest.mark.parametrize(
    ("obstacles", "on_gpu", "forced", "value", "reason"),
    [
        pytest.param(
            (),
            True,
            None,
            "fused",
            "The fused stack runs: model, adapter and GPU are of the kinds that it covers.",
            id="nothing against it",
        ),
        pytest.param(
            ("the adapter is a DoRA", "there are 2 adapters"),
            True,
            None,
            "unsloth",
            "Unsloth's own path runs, because the adapter is a DoRA and there are 2 adapters.",
            id="obstacles",
        ),
        pytest.param(
            (),
            False,
            None,
            "unsloth",
            "Unsloth's own path runs: the fused stack is for GPUs.",
            id="no GPU",
        ),
        pytest.param((), False, "fused", "fused", "FINETUNE_ENGINE asks for it.", id="forced"),
        pytest.param(
            (), True, "unsloth", "unsloth", "FINETUNE_ENGINE asks for it.", id="forced off"
        ),
        pytest.param(
            ("the model is of type phi3",),
            True,
            "fused",
            "unsloth",
            "Unsloth's own path runs, because the model is of type phi3.",
            id="forced against an obstacle",
        ),
    ],
)
def test_the_engine_and_why(
    *, obstacles: tuple[str, ...], on_gpu: bool, forced: str | None, value: str, reason: str
) -> None:
    from finetune_trainer.engine.tuning import EngineName, decide_engine

    choice = decide_engine(
        obstacles=obstacles, on_gpu=on_gpu, forced=EngineName(forced) if forced else None
    )
    assert (choice.value, choice.reason) == (value, reason)


def test_a_measurement_fixes_what_it_wants_to_vary() -> None:
    from finetune_trainer.engine.tuning import read_forced

    forced = read_forced({"FINETUNE_TOKENS_PER_MICRO_BATCH": "8192", "FINETUNE_LAYERS_KEPT": "4"})
    micro_batch = decide(63.0, forced=forced)
    assert (micro_batch.tokens, micro_batch.layers_kept) == (8192, 4)


def test_several_ranks_are_told_and_one_is_not() -> None:
    from finetune_trainer.engine.tuning import explain_world_size

    assert explain_world_size(1) == ()
    [reported] = explain_world_size(2)
    assert (reported.name, reported.value) == ("worldSize", 2)
    assert reported.reason == (
        "2 ranks train together, one a GPU: each computes a shard of every step, of like many tokens,"
        " and all do the same update with the sum of their gradients."
    )


def test_what_lies_beside_a_micro_batch_leaves_room_for_fewer_tokens() -> None:
    cost = fused_cost("8B")
    beside = cost.add_fixed(4 * 41_943_040)
    fits = [each.count_tokens(60 * GIB, layers_kept=32, layers=32) for each in (cost, beside)]
    assert fits[0] > fits[1] > 0.99 * fits[0]
