"""The figures of a finished run, from the reports of the steps."""

from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.outcome import RunSummary
from finetune_trainer.checkpoints.save_costs import Costs
from finetune_trainer.publish.run_summary import build_summary
from finetune_trainer.steps.step_report import StepReport


def step(number: int, **changes: Any) -> StepReport:
    values: dict[str, Any] = {
        "step": number,
        "total_steps": 40,
        "epoch": number / 10,
        "loss": 3.0 - number / 10,
        "grad_norm": 0.5,
        "learning_rate": 1e-4,
        "sequences": 4,
        "tokens": 100,
        "supervised_tokens": 80,
        "micro_batches": 2,
        "seconds": 0.1,
    }
    return StepReport(**values | changes)


def summarise(
    *history: StepReport, max_grad_norm: float = 1.0, cut_short: bool = False
) -> RunSummary:
    result: Any = SimpleNamespace(
        history=history,
        last=history[-1],
        tokens=sum(report.tokens for report in history),
        best_eval_loss=None,
        best_step=None,
        published_step=history[-1].step,
        stopped_early=True,
        cut_short=cut_short,
        train_seconds=2.0,
        micro_batch_halvings=1,
        peak_gpu_memory_bytes=None,
        resumed_from_step=3,
    )
    loaded: Any = SimpleNamespace(trainable_parameters=1234, attention="sdpa")
    training: Any = SimpleNamespace(max_grad_norm=max_grad_norm)
    budget: Any = SimpleNamespace(tokens=512)
    return build_summary(
        result,
        loaded,
        training=training,
        budget=budget,
        costs=Costs(saved=2, waited=0.25),
        deadline_s=60,
    )


def test_a_deadline_is_told_only_of_a_run_that_it_cut_short() -> None:
    assert summarise(step(1)).deadline_seconds is None
    assert summarise(step(1), cut_short=True).deadline_seconds == 60


def test_a_trend_is_the_mean_of_the_first_and_the_last_tenth() -> None:
    summary = summarise(*(step(number) for number in range(1, 21)))
    assert summary.loss_at_start == pytest.approx((2.9 + 2.8) / 2)
    assert summary.loss_at_end == pytest.approx((1.1 + 1.0) / 2)
    assert summary.final_loss == pytest.approx(1.0)


def test_one_step_is_beginning_and_end() -> None:
    summary = summarise(step(1))
    assert (summary.loss_at_start, summary.loss_at_end) == (2.9, 2.9)
    assert (summary.evaluations, summary.eval_steps) == (0, None)


def test_averages_are_over_the_steps_that_were_done() -> None:
    summary = summarise(step(1), step(2, sequences=2, tokens=40, micro_batches=1))
    assert (summary.sequences_per_step, summary.tokens_per_step) == (3.0, 70.0)
    assert (summary.micro_batches_per_step, summary.micro_batch_tokens) == (1.5, 512)
    assert (summary.steps, summary.total_steps, summary.tokens) == (2, 40, 140)


def test_a_gradient_longer_than_the_limit_counts_as_clipped() -> None:
    history = (step(1, grad_norm=1.5), step(2), step(3), step(4, grad_norm=9.0))
    assert summarise(*history).clipped_share == 0.5
    assert summarise(*history, max_grad_norm=0).clipped_share is None


def test_evaluations_are_counted_with_the_steps_between_them() -> None:
    history = (step(5), step(10, eval_loss=2.0), step(15), step(20, eval_loss=1.9))
    summary = summarise(*history)
    assert (summary.evaluations, summary.eval_steps) == (2, 10)


def test_a_step_of_version_0_1_0_is_read_from_metrics() -> None:
    line = step(3).to_line()
    old = line.replace('"micro_batches"', '"launches"')
    assert old != line
    assert StepReport.from_line(old) == StepReport.from_line(line) == step(3)


def test_a_summary_of_a_pod_of_version_0_1_0_is_read() -> None:
    fields = summarise(step(1)).model_dump(by_alias=True)
    names = {
        "microBatchesPerStep": "launchesPerStep",
        "microBatchTokens": "launchTokens",
        "microBatchHalvings": "launchHalvings",
    }
    old = {names.get(name, name): value for name, value in fields.items()}
    assert old.keys() != fields.keys()
    assert RunSummary.model_validate(old) == summarise(step(1))
