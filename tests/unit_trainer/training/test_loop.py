"""The loop's guards: what is not finite, who asks to go, when memory runs out, when it stops early."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import Interrupted, NotFinite, OutOfGpuMemory
from finetune_trainer.steps.eval_loss import HeldOutLoss
from tests.unit_trainer.tiny import TinyRow, build_plan, build_rows, write_model

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def held_out_loss(loss: float) -> HeldOutLoss:
    return HeldOutLoss(nats=loss, tokens=1, bytes=1, examples=1)


class Tiny:
    """A tiny run whose hooks a test replaces."""

    def __init__(self, folder: Path, tmp_path: Path) -> None:
        from finetune_trainer.steps.micro_batches import TokenBudget

        self.folder = folder
        self.metrics = tmp_path / "metrics.jsonl"
        self.evaluations: Iterator[float] = iter([])
        self.budget = TokenBudget(10_000)
        self.reports: list[Any] = []
        self.asked_after = 1_000_000
        self.offered: list[int] = []
        self.loaded: Any = None

    def train(self, rows: list[TinyRow], *, held_out: int = 0, **changes: Any) -> Any:
        from finetune_trainer.model import load
        from finetune_trainer.training.loop import Hooks, train

        plan = build_plan(**changes)
        self.loaded = self.loaded or load.load(plan, folder=self.folder)
        return train(
            self.loaded,
            rows,
            training=plan.training,
            held_out=held_out,
            budget=self.budget,
            hooks=Hooks(
                evaluate=lambda: held_out_loss(next(self.evaluations)),
                report=self.reports.append,
                is_stopping=lambda: len(self.reports) >= self.asked_after,
                offer=lambda step, _: self.offered.append(step),
            ),
            metrics_path=self.metrics,
        )


@pytest.fixture
def tiny(folder: Path, tmp_path: Path) -> Tiny:
    return Tiny(folder, tmp_path)


def test_fewer_rows_than_a_batch_are_one_real_step(tiny: Tiny) -> None:
    result = tiny.train(build_rows(3))
    assert len(result.history) == 1
    assert result.last.sequences == 3
    assert any(
        value.any() for name, value in tiny.loaded.adapter_state().items() if "lora_B" in name
    )


def test_every_step_is_a_line_of_metrics(tiny: Tiny) -> None:
    result = tiny.train(build_rows(20), training__num_train_epochs=2.0)
    lines = [json.loads(line) for line in tiny.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["sequences"] for line in lines] == [8, 8, 4, 8, 8, 4]
    assert [line["epoch"] for line in lines] == [0.4, 0.8, 1.0, 1.4, 1.8, 2.0]
    assert lines[-1]["loss"] == result.last.loss
    assert tiny.reports == list(result.history)


def test_a_loss_that_is_not_finite_names_step_and_rows(tiny: Tiny) -> None:
    from finetune_trainer.model import load

    tiny.loaded = load.load(build_plan(), folder=tiny.folder)
    with torch.no_grad():
        tiny.loaded.trainable()[0].fill_(float("nan"))
    with pytest.raises(NotFinite) as caught:
        tiny.train(build_rows(3))
    assert caught.value.message == (
        "In step 1 the loss is nan at learning rate 0.01, with the rows rows.jsonl:2, rows.jsonl:1,"
        " rows.jsonl:3: lower parameters.learningRate or remove these rows, and apply again; nothing"
        " was published."
    )


def test_a_step_that_diverges_is_never_saved(tiny: Tiny) -> None:
    with pytest.raises(NotFinite):
        tiny.train(build_rows(40), training__learning_rate=1e30)
    assert tiny.offered == [report.step for report in tiny.reports]
    assert len(tiny.offered) < 5


def test_a_held_out_loss_that_is_not_finite_ends_the_run(tiny: Tiny) -> None:
    tiny.evaluations = iter([float("inf")])
    with pytest.raises(NotFinite) as caught:
        tiny.train(build_rows(8), held_out=1)
    assert "After step 1 the loss on the held-out part is inf" in caught.value.message


def test_the_pod_that_is_asked_to_go_finishes_its_step(tiny: Tiny) -> None:
    tiny.asked_after = 2
    with pytest.raises(Interrupted) as caught:
        tiny.train(build_rows(40))
    assert len(tiny.reports) == 2
    assert caught.value.message == (
        "The pod was asked to go after step 2 of 5, before anything was published: the next attempt"
        " starts from the beginning."
    )


def test_it_stops_early_and_puts_the_best_state_back(tiny: Tiny) -> None:
    tiny.evaluations = iter([3.0, 2.0, 2.5, 2.4, 9.0])
    states: list[Any] = []
    tiny.reports = _Keeping(tiny, states)
    result = tiny.train(
        build_rows(80),
        held_out=4,
        training__eval_steps=1,
        training__save_strategy="Best",
        training__early_stopping_patience=2,
    )
    assert result.stopped_early
    assert (result.last.step, result.best_step, result.published_step) == (4, 2, 2)
    kept = tiny.loaded.adapter_state()
    assert all(kept[name].equal(value) for name, value in states[1].items())
    assert not all(kept[name].equal(value) for name, value in states[3].items())


class _Keeping(list[Any]):
    """Keeps the adapter's state with each report."""

    def __init__(self, tiny: Tiny, states: list[Any]) -> None:
        super().__init__()
        self.tiny, self.states = tiny, states

    def append(self, report: Any) -> None:
        super().append(report)
        self.states.append(self.tiny.loaded.adapter_state())


def with_memory(loaded: Any, most: int) -> Any:
    """Return the model on a GPU that runs out of memory above so many tokens."""

    class Small(type(loaded.engine)):  # type: ignore[misc]
        def sum_of_losses(self, micro_batch: Any, *, divisor: int) -> Any:
            if len(micro_batch.lengths) * max(micro_batch.lengths) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().sum_of_losses(micro_batch, divisor=divisor)

    return replace(loaded, engine=Small(**vars(loaded.engine)))


def test_a_step_that_does_not_fit_is_done_again_in_smaller_micro_batches(
    tiny: Tiny, folder: Path
) -> None:
    from finetune_trainer.model import load

    rows = build_rows(24)
    changes: dict[str, Any] = {"lora__dropout": 0.1}
    expected = [report.loss for report in tiny.train(rows, **changes).history]
    tiny.loaded = with_memory(load.load(build_plan(**changes), folder=folder), 150)
    result = tiny.train(rows)
    assert result.micro_batch_halvings > 0
    assert tiny.budget.tokens <= 300
    # The first micro-batches had other dropout masks: the same seed over another shape.
    assert [report.loss for report in result.history] == pytest.approx(expected, abs=0.05)


def test_with_the_fused_engine_such_a_step_is_the_very_same(tiny: Tiny, folder: Path) -> None:
    from finetune_trainer.fused.engine import FusedEngine
    from finetune_trainer.model import load

    class Small(FusedEngine):
        def sum_of_losses(self, micro_batch: Any, *, divisor: int) -> Any:
            if sum(micro_batch.lengths) > 60:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().sum_of_losses(micro_batch, divisor=divisor)

    rows = build_rows(24)
    changes: dict[str, Any] = {"lora__dropout": 0.1}
    losses = []
    for engine in (FusedEngine, Small):
        loaded = load.load(build_plan(**changes), folder=folder)
        tiny.loaded = replace(loaded, engine=engine(loaded.network, device=loaded.device))
        result = tiny.train(rows, **changes)
        losses.append([report.loss for report in result.history])
    assert result.micro_batch_halvings > 0
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_one_sequence_that_does_not_fit_ends_the_run(tiny: Tiny, folder: Path) -> None:
    from finetune_trainer.model import load

    tiny.loaded = with_memory(load.load(build_plan(), folder=folder), 5)
    with pytest.raises(OutOfGpuMemory) as caught:
        tiny.train(build_rows(8))
    assert caught.value.message.startswith("The GPU's memory does not hold one sequence of ")


@pytest.fixture
def measure(tiny: Tiny) -> Callable[..., Any]:
    from finetune_trainer.model import load
    from finetune_trainer.training.evaluate import evaluate

    tiny.loaded = load.load(build_plan(), folder=tiny.folder)

    def of(rows: list[TinyRow], *, tokens: int = 10_000) -> Any:
        from finetune_trainer.steps.micro_batches import TokenBudget

        return evaluate(tiny.loaded, rows, budget=TokenBudget(tokens))

    return of


def test_the_held_out_loss_is_the_mean_over_supervised_tokens(
    tiny: Tiny, measure: Callable[..., Any]
) -> None:
    rows = build_rows(10)
    found = measure(rows)
    tiny.loaded.network.eval()
    nats, tokens = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = tiny.loaded.network(torch.tensor([row.input_ids])).logits[0]
        for place, label in enumerate(row.labels[1:]):
            if label != -100:
                nats -= logits[place].log_softmax(-1)[label].item()
                tokens += 1
    assert found.tokens == tokens
    assert found.loss == pytest.approx(nats / tokens, abs=1e-4)
    size = sum(row.supervised_bytes for row in rows)
    assert found.bits_per_byte == pytest.approx(nats / 0.6931471805599453 / size, abs=1e-4)


def test_an_evaluation_ends_between_two_micro_batches_and_leaves_the_model_training(
    tiny: Tiny, measure: Callable[..., Any]
) -> None:
    from finetune_trainer.errors import BrokenOff
    from finetune_trainer.steps.micro_batches import TokenBudget
    from finetune_trainer.training.evaluate import evaluate

    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise BrokenOff

    tiny.loaded.network.train()
    with pytest.raises(BrokenOff):
        evaluate(tiny.loaded, build_rows(6), budget=TokenBudget(1), check=check)
    assert tiny.loaded.network.training


def test_the_held_out_loss_is_the_same_in_any_micro_batches(measure: Callable[..., Any]) -> None:
    rows = build_rows(100)
    assert measure(rows, tokens=1).loss == pytest.approx(measure(rows).loss, abs=1e-5)


def test_a_row_that_only_repeats_its_padding_changes_nothing(measure: Callable[..., Any]) -> None:
    rows = build_rows(6)
    longer = replace(rows[0], input_ids=[5] * 120, labels=[-100] * 120, supervised_bytes=0)
    assert measure([*rows, longer]).nats == pytest.approx(measure(rows).nats, abs=1e-3)
