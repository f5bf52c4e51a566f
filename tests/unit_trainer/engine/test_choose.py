"""The engine is chosen, checked against the model's own path, and replaced where it differs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import PlanInvalid
from tests.unit_trainer.tiny import build_plan, build_rows, write_model

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def choose(folder: Path, environ: dict[str, str], **changes: Any) -> Any:
    from finetune_trainer.engine import choose as engines
    from finetune_trainer.model import load

    plan = build_plan(**changes)
    loaded = load.load(plan, folder=folder)
    return engines.choose(plan, loaded, build_rows(12), environ=environ)


def test_a_cpu_runs_the_models_own_path_in_small_padded_micro_batches(folder: Path) -> None:
    chosen = choose(folder, {})
    assert (chosen.loaded.engine.name, chosen.loaded.engine.layout) == ("unsloth", "padded")
    assert chosen.budget.tokens == 512
    assert chosen.runtime.describe() == {
        "engine": {
            "value": "unsloth",
            "reason": "Unsloth's own path runs: the fused stack is for GPUs.",
        },
        "layout": {
            "value": "padded",
            "reason": "Unsloth's CPU backend takes one sequence a row.",
        },
        "tokensPerMicroBatch": {
            "value": 512,
            "reason": "On a CPU more than 512 tokens a micro-batch need memory and gain no speed.",
        },
    }


def test_a_fused_stack_that_computes_the_same_may_train(folder: Path) -> None:
    chosen = choose(folder, {"FINETUNE_ENGINE": "fused"}, lora__dropout=0.1)
    assert chosen.loaded.engine.name == "fused"
    assert chosen.runtime.describe()["startUpCheck"]["value"] == "passed"


def test_a_fused_stack_that_computes_something_else_is_replaced_and_the_log_says_why(
    folder: Path,
) -> None:
    from finetune_trainer.engine import choose as engines
    from finetune_trainer.model import load

    loaded = load.load(build_plan(), folder=folder)
    # The stack reads other positions from the config than the model was built with.
    loaded.network.get_base_model().config.rope_parameters["rope_theta"] = 100.0
    environ = {"FINETUNE_ENGINE": "fused"}
    chosen = engines.choose(build_plan(), loaded, build_rows(12), environ=environ)
    assert chosen.loaded.engine.name == "unsloth"
    described: Any = chosen.runtime.describe()
    reason = described["engine"]["reason"]
    assert reason.startswith(
        "Unsloth's own path runs instead of the fused stack: its loss differs by "
    )
    assert all(parameter.is_contiguous() for parameter in loaded.network.parameters())


def test_the_check_leaves_the_model_as_it_was(folder: Path) -> None:
    chosen = choose(folder, {"FINETUNE_ENGINE": "fused"}, lora__dropout=0.1)
    state = chosen.loaded.adapter_state()
    assert not any(value.any() for name, value in state.items() if "lora_B" in name)
    probabilities = {
        dropout.p
        for module in chosen.loaded.network.modules()
        for dropout in getattr(module, "lora_dropout", {}).values()
    }
    assert probabilities == {0.1}
    assert all(parameter.grad is None for parameter in chosen.loaded.trainable())


def test_an_engine_that_computes_something_else_does_not_pass(folder: Path) -> None:
    from finetune_trainer.engine.gradient_check import compare
    from finetune_trainer.model import load

    loaded = load.load(build_plan(), folder=folder)

    class Wrong(type(loaded.engine)):  # type: ignore[misc]
        def sum_of_losses(self, micro_batch: Any, *, divisor: int) -> Any:
            return super().sum_of_losses(micro_batch, divisor=divisor) * 1.01

    wrong = Wrong(**vars(loaded.engine))
    comparison = compare(loaded, wrong, reference=loaded.engine, rows=build_rows(4))
    assert not comparison.passes
    assert str(comparison) == (
        "its loss differs by 1.00% and its gradient by 1.00% from the model's own path"
    )


def test_a_model_whose_forward_takes_no_packed_rows_is_compared_on_padded_ones(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from finetune_trainer.engine.choose import compare_with_model
    from finetune_trainer.model import load
    from finetune_trainer.steps.micro_batches import BatchLayout

    loaded = load.load(build_plan(), folder=folder)

    class Strict:
        """Forward of a class that names each argument it takes."""

        def __getattr__(self, name: str) -> Any:
            return getattr(loaded.network, name)

        def __call__(self, *, input_ids: Any, attention_mask: Any, labels: Any, **rest: Any) -> Any:
            return loaded.network(
                input_ids=input_ids, attention_mask=attention_mask, labels=labels, **rest
            )

    strict = replace(loaded, network=Strict())
    with caplog.at_level("INFO"):
        comparison = compare_with_model(
            strict,
            loaded.engine,
            rows=build_rows(4),
            layouts=(BatchLayout.PACKED, BatchLayout.PADDED),
        )
    assert comparison.gradient_error < 1e-6
    assert "On packed rows the model's own path fails: " in caplog.text


def test_an_engine_that_does_not_exist_cannot_be_forced(folder: Path) -> None:
    with pytest.raises(PlanInvalid) as caught:
        choose(folder, {"FINETUNE_ENGINE": "turbo"})
    assert caught.value.message == (
        "The environment forces the runtime to something that does not exist ('turbo' is not a valid"
        " EngineName): unset FINETUNE_ENGINE, FINETUNE_ATTENTION, FINETUNE_TOKENS_PER_MICRO_BATCH and"
        " FINETUNE_LAYERS_KEPT."
    )


def test_micro_batches_are_planned_for_the_largest_step_that_comes() -> None:
    from finetune_trainer.engine.choose import count_largest_step
    from finetune_trainer.steps.sampler import DataOrder

    training = build_plan(training__max_steps=3).training
    lengths = [len(row.input_ids) for row in build_rows(100)]
    order = DataOrder(rows=100, sequences_per_step=8, seed=42)
    steps = [sum(lengths[row] for row in order.rows_of(step)) for step in range(3)]
    assert count_largest_step(training, lengths) == max(steps)
    assert max(steps) < sum(sorted(lengths)[-8:])
    # Of two ranks each computes about half of it.
    assert max(steps) / 2 <= count_largest_step(training, lengths, world_size=2) < 0.6 * max(steps)


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        pytest.param({"lora__use_dora": True}, "the adapter is a DoRA", id="DoRA"),
        pytest.param({"lora__bias": "All"}, "the adapter trains biases (all)", id="biases"),
        pytest.param({"lora__r": 256}, "the adapter has rank 256, above 128", id="rank"),
    ],
)
def test_adapters_that_the_fused_stack_does_not_cover(
    folder: Path, changes: dict[str, Any], obstacle: str
) -> None:
    chosen = choose(folder, {"FINETUNE_ENGINE": "fused"}, **changes)
    assert chosen.loaded.engine.name == "unsloth"
    reason = chosen.runtime.describe()["engine"]["reason"]
    assert reason == f"Unsloth's own path runs, because {obstacle}."


@pytest.mark.parametrize(
    ("name", "value", "obstacle"),
    [
        ("model_type", "gemma2", "the model is of type gemma2"),
        ("hidden_act", "gelu", "its MLP gates with gelu"),
        ("attention_dropout", 0.1, "it drops 0.1 of its attention"),
        ("use_bidirectional_attention", True, "its attention looks ahead"),
        ("attn_logit_softcapping", 50.0, "it has attn_logit_softcapping 50"),
        ("final_logit_softcapping", 30.0, "it has final_logit_softcapping 30"),
        ("layer_types", ["full_attention", "linear"], "it has layers of type linear"),
        (
            "rope_parameters",
            {"rope_type": "dynamic", "rope_theta": 10000.0},
            "its positions are rotated by dynamic",
        ),
        ("head_dim", 24, "its attention heads have 24 columns"),
    ],
)
def test_models_that_the_fused_stack_does_not_cover(
    folder: Path, name: str, value: Any, obstacle: str
) -> None:
    from finetune_trainer.fused.restrictions import find_obstacles
    from finetune_trainer.model import load

    network = load.load(build_plan(), folder=folder).network
    setattr(network.get_base_model().config, name, value)
    assert find_obstacles(network, capability=None) == (obstacle,)


def test_a_gpu_runs_gemma_on_the_stack_only_where_somebody_asks_for_it(folder: Path) -> None:
    from finetune_trainer.fused.restrictions import find_doubts
    from finetune_trainer.model import load

    network = load.load(build_plan(), folder=folder).network
    assert find_doubts(network) == ()
    network.get_base_model().config.model_type = "gemma3_text"
    [doubt] = find_doubts(network)
    assert doubt == (
        "the fused stack was not yet measured on a GPU with a model of type gemma3_text"
        " (FINETUNE_ENGINE=fused takes it all the same)"
    )


def test_gpus_that_the_fused_stack_does_not_cover(folder: Path) -> None:
    from finetune_trainer.fused.restrictions import find_obstacles
    from finetune_trainer.model import load

    network = load.load(build_plan(), folder=folder).network
    assert find_obstacles(network, capability=(7, 5)) == (
        "the GPU has compute capability 7.5, below 8.0",
        "the model computes in torch.float32, not in bfloat16",
    )
