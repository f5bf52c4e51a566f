"""A run that is stopped and gone on with equals the one that was left alone, bit for bit."""

from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import Interrupted
from tests.unit_trainer.resuming import TinyTraining
from tests.unit_trainer.tiny import build_rows, write_model

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

CHANGES = {"training__max_steps": 6, "lora__dropout": 0.1, "training__warmup_steps": 2}
BEST = {
    "training__eval_steps": 1,
    "training__save_strategy": "Best",
    "training__early_stopping_patience": 3,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def build(model: Path, tmp_path: Path, **options: Any) -> TinyTraining:
    changes = CHANGES | options.pop("changes", {})
    return TinyTraining(model, tmp_path, build_rows(20), changes, **options)


def assert_equal(resumed: Any, calm: Any) -> None:
    (there, state), (here, expected) = resumed, calm
    figures = ("step", "loss", "grad_norm", "learning_rate", "epoch", "micro_batches", "eval_loss")
    for name in figures:
        assert [getattr(report, name) for report in there.history] == [
            getattr(report, name) for report in here.history
        ]
    assert state.keys() == expected.keys()
    assert all(state[name].equal(value) for name, value in expected.items())
    assert (there.best_step, there.published_step, there.stopped_early) == (
        here.best_step,
        here.published_step,
        here.stopped_early,
    )


def test_twice_three_steps_are_six_with_dropout(model: Path, tmp_path: Path) -> None:
    training = build(model, tmp_path)
    calm = training.train()
    stopped = training.train(stop_after=3)
    assert isinstance(stopped, Interrupted)
    assert stopped.message == (
        "The pod was asked to go after step 3 of 6, before anything was published: the next attempt"
        " resumes at step 3."
    )
    lines = (tmp_path / "metrics.jsonl").read_text()
    resumed = training.train(resume=True)
    assert_equal(resumed, calm)
    assert resumed[0].resumed_from_step == 3
    # The published metrics are those of all pods.
    assert (tmp_path / "metrics.jsonl").read_text().startswith(lines)


def test_a_step_that_was_prepared_by_the_pod_before_is_the_same(
    model: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    from finetune_trainer.fused.engine import FusedEngine

    def adapt(loaded: Any) -> Any:
        return replace(loaded, engine=FusedEngine(loaded.network, device=loaded.device))

    training = build(model, tmp_path, adapt=adapt, token_budget=60)
    calm = training.train()
    training.train(stop_after=3)
    assert_equal(training.train(resume=True), calm)


def test_early_stopping_and_the_best_state_outlive_a_pod(model: Path, tmp_path: Path) -> None:
    training = build(model, tmp_path, changes=BEST, losses=[3.0, 2.0, 2.5, 2.4, 2.3, 9.0])
    calm = training.train()
    assert (calm[0].last.step, calm[0].published_step) == (5, 2)
    training.train(stop_after=3)
    assert_equal(training.train(resume=True), calm)


def test_an_evaluation_that_was_broken_off_is_done_again_and_the_step_is_not(
    model: Path, tmp_path: Path
) -> None:
    training = build(model, tmp_path, changes=BEST, losses=[3.0, 2.0, 2.5, 2.4, 2.3, 9.0])
    calm = training.train()
    stopped = training.train(at_evaluation=2)
    assert "after step 2 of 6" in stopped.message
    assert_equal(training.train(resume=True), calm)


def with_memory(loaded: Any, most: int) -> Any:
    """Return the model on a GPU that runs out of memory above so many tokens."""
    from dataclasses import replace

    inner = loaded.engine

    class Small(type(inner)):  # type: ignore[misc]
        def sum_of_losses(self, micro_batch: Any, *, divisor: int) -> Any:
            if max(micro_batch.lengths) * len(micro_batch.lengths) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().sum_of_losses(micro_batch, divisor=divisor)

    return replace(loaded, engine=Small(**vars(inner)))


def test_a_halved_budget_is_remembered(model: Path, tmp_path: Path) -> None:
    training = build(
        model, tmp_path, adapt=lambda loaded: with_memory(loaded, 150), token_budget=400
    )
    calm = training.train()
    assert calm[0].micro_batch_halvings > 0
    training.train(stop_after=3)
    resumed = training.train(resume=True)
    assert_equal(resumed, calm)
    assert resumed[0].micro_batch_halvings == calm[0].micro_batch_halvings


def test_a_training_that_was_over_goes_straight_to_its_end(model: Path, tmp_path: Path) -> None:
    training = build(model, tmp_path, changes=BEST, losses=[3.0, 2.0, 2.5, 2.4, 2.3, 9.0])
    calm = training.train()
    training._keep(calm[0].last.step, calm[0].capture)
    assert_equal(training.train(resume=True), calm)


def test_a_training_past_its_deadline_does_no_step_and_ends_with_its_best_state(
    model: Path, tmp_path: Path
) -> None:
    training = build(model, tmp_path, changes=BEST, losses=[3.0, 2.0, 2.5, 2.6, 1.0, 0.5])
    until_two, best = training.train(stop_after=2), training.kept
    assert (isinstance(until_two, Interrupted), best) == (True, 2)
    _, expected = training.train(resume=True, is_past_deadline=True)
    training.train(stop_after=4)
    result, state = training.train(resume=True, is_past_deadline=True)
    assert (result.last.step, result.published_step, result.cut_short) == (4, 2, True)
    assert (result.stopped_early, result.resumed_from_step) == (False, 4)
    assert all(state[name].equal(value) for name, value in expected.items())


def test_a_training_whose_last_evaluation_was_broken_off_gets_it_past_its_deadline(
    model: Path, tmp_path: Path
) -> None:
    training = build(model, tmp_path, changes=BEST, losses=[3.0, 2.0, 2.5, 2.6, 1.0, 0.5])
    training.train(at_evaluation=2)
    result, _ = training.train(resume=True, is_past_deadline=True)
    assert (result.last.step, result.best_step, result.cut_short) == (2, 2, True)


def test_a_training_that_was_over_at_its_deadline_is_not_cut_short(
    model: Path, tmp_path: Path
) -> None:
    training = build(model, tmp_path)
    training.train(stop_after=6)
    result, _ = training.train()
    training._keep(6, result.capture)
    again, _ = training.train(resume=True, is_past_deadline=True)
    assert (again.last.step, again.cut_short) == (6, False)


def test_a_snapshot_in_the_memory_of_the_one_before_holds_the_same(
    model: Path, tmp_path: Path
) -> None:
    training = build(model, tmp_path)
    result, _ = training.train()
    fresh, first = result.capture(), result.capture(reuse=True)
    again = result.capture(reuse=True)
    for group in ("adapter", "optimizer"):
        for name, value in fresh.tensors[group].items():
            assert again.tensors[group][name].equal(value)
            assert again.tensors[group][name] is first.tensors[group][name]
            assert value is not first.tensors[group][name]


class Counting:
    """Stands for an engine whose dropout counts its draws."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.draws = inner, 0
        self.name, self.layout = inner.name, inner.layout

    def sum_of_losses(self, micro_batch: Any, *, divisor: int) -> Any:
        self.draws += 1
        return self.inner.sum_of_losses(micro_batch, divisor=divisor) * (1 + self.draws / 1000)

    def base_only(self) -> Any:
        return self.inner.base_only()

    def state(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def restore(self, state: dict[str, Any]) -> None:
        self.draws = state["draws"]


def test_an_engine_with_a_state_of_its_own_gets_it_back(model: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    training = build(
        model, tmp_path, adapt=lambda loaded: replace(loaded, engine=Counting(loaded.engine))
    )
    calm = training.train()
    training.train(stop_after=3)
    assert_equal(training.train(resume=True), calm)


def test_every_generator_draws_what_it_would_have_drawn() -> None:
    import random

    import numpy as np

    from finetune_trainer.training.rng_state import capture_random, restore_random

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    captured = capture_random()
    expected = draw()
    draw()
    restore_random(*captured)
    assert draw() == expected


def test_a_step_that_cannot_be_over_in_time_leaves_the_state_before_it(
    model: Path, tmp_path: Path
) -> None:
    from finetune_trainer.errors import BrokenOff
    from finetune_trainer.model import load as loading
    from finetune_trainer.steps.micro_batches import TokenBudget
    from finetune_trainer.training.optimizer_step import Stepper
    from tests.unit_trainer.tiny import build_plan

    plan = build_plan(**CHANGES)
    loaded = loading.load(plan, folder=model)
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) > 3:
            raise BrokenOff

    stepper = Stepper(loaded, training=plan.training, budget=TokenBudget(1), check=check)
    before = loaded.adapter_state()
    with pytest.raises(BrokenOff):
        stepper.do(build_rows(8), step=0, supervised=1, learning_rate=1.0)
    assert all(loaded.adapter_state()[name].equal(value) for name, value in before.items())
    assert stepper.to_state()[0] == {}


def test_an_update_that_does_not_fit_is_no_bug(model: Path) -> None:
    from finetune_trainer.errors import OutOfGpuMemory
    from finetune_trainer.model import load as loading
    from finetune_trainer.steps.micro_batches import TokenBudget
    from finetune_trainer.training.optimizer_step import Stepper
    from tests.unit_trainer.tiny import build_plan

    plan = build_plan()
    stepper = Stepper(
        loading.load(plan, folder=model), training=plan.training, budget=TokenBudget(10_000)
    )

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    stepper._optimizer.step = fail
    with pytest.raises(OutOfGpuMemory) as caught:
        stepper.do(build_rows(8), step=0, supervised=1, learning_rate=1.0)
    assert caught.value.message == (
        "The GPU's memory does not hold the optimizer's state beside the model: lower"
        " parameters.lora.r, choose method QLoRA or optimizer AdamW8bit, or ask for a GPU with more"
        " memory."
    )
