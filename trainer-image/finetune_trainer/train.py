"""The training loop: exact optimizer steps over the plan's batches, on a GPU or a CPU alike.

Between `model` and `export`. The plan's numbers decide everything that changes the mathematics:
`schedule` says when, `order` says which rows, `optimizer` does a step, `selection` says which state
is kept. The loop runs them and tells of each step; it evaluates and reports only through its hooks.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Protocol

import torch

from finetune_api.plan import TrainingParameters
from finetune_trainer.errors import Interrupted, NotFinite
from finetune_trainer.launches import TokenBudget, Tokens, count_supervised
from finetune_trainer.network import LoadedModel
from finetune_trainer.optimizer import Stepper
from finetune_trainer.order import DataOrder
from finetune_trainer.schedule import Keep, Schedule, build_schedule
from finetune_trainer.selection import EarlyStopping, Selection
from finetune_trainer.steps import StepReport

ROWS_NAMED = 5
"""Rows that a message about a bad step names."""

log = logging.getLogger(__name__)


class Row(Tokens, Protocol):
    """A training example."""

    @property
    def source(self) -> str:
        """Where the row came from, for messages: `train.jsonl:37`."""


@dataclass(frozen=True)
class TrainResult:
    """How the training went. The model holds the state that is to be published."""

    history: tuple[StepReport, ...]
    """Every step, at least one."""
    best_eval_loss: float | None
    best_step: int | None
    published_step: int
    """The step whose state the model holds."""
    keep: Keep
    stopped_early: bool
    train_seconds: float
    launch_halvings: int
    """How often GPU memory ran out and the launches were halved."""
    peak_gpu_memory_bytes: int | None

    @property
    def last(self) -> StepReport:
        """The last step done."""
        return self.history[-1]

    @property
    def tokens(self) -> int:
        """Tokens trained on, without padding, all epochs together."""
        return sum(report.tokens for report in self.history)


@dataclass(frozen=True)
class Hooks:
    """What the loop calls; it knows none of those who answer."""

    evaluate: Callable[[], float]
    """Returns the loss on the held-out part, in nats per supervised token."""
    report: Callable[[StepReport], None]
    """Hears of every step."""
    is_stopping: Callable[[], bool]
    """Whether the pod was asked to go."""


def train(
    loaded: LoadedModel,
    rows: Sequence[Row],
    *,
    training: TrainingParameters,
    held_out: int,
    budget: TokenBudget,
    hooks: Hooks,
    metrics_path: Path,
) -> TrainResult:
    """Train the adapter and leave in the model the state that is to be published.

    Raises:
        NotFinite: Loss or gradient became NaN or infinite; nothing may be published.
        OutOfGpuMemory: One sequence does not fit.
        Interrupted: The pod was asked to go.
    """
    schedule = build_schedule(training, rows=len(rows), held_out=held_out)
    order = DataOrder(
        rows=len(rows), sequences_per_step=training.sequences_per_step, seed=training.seed
    )
    stepper = Stepper(loaded, training=training, budget=budget)
    selection = Selection(keep=schedule.keep)
    stopping = EarlyStopping(patience=training.early_stopping_patience)
    history: list[StepReport] = []
    started = time.monotonic()
    loaded.network.train()
    # Line by line: what a run that ends badly did is read from here.
    with metrics_path.open("w", buffering=1, encoding="utf-8") as metrics:
        for step in range(schedule.total_steps):
            if hooks.is_stopping():
                raise _build_interruption(step, total=schedule.total_steps)
            batch = [rows[row] for row in order.rows_of(step)]
            rate = training.learning_rate * schedule.learning_rate_factor(step)
            report = _do_step(stepper, batch, step=step, schedule=schedule, learning_rate=rate)
            report = replace(report, epoch=order.epochs_after(report.step))
            if schedule.is_evaluation_due(report.step):
                eval_loss = _evaluate(hooks, step=report.step)
                stopping.observe(eval_loss)
                report = replace(report, eval_loss=eval_loss)
            selection.observe(
                step=report.step,
                eval_loss=report.eval_loss,
                is_saved=schedule.is_save_due(report.step),
                state=loaded.adapter_state,
            )
            history.append(report)
            metrics.write(report.to_line())
            hooks.report(report)
            if stopping.is_over:
                log.info("Training stopped early", extra={"step": report.step})
                break
    published = selection.restore(loaded.restore_adapter, last_step=history[-1].step)
    return TrainResult(
        history=tuple(history),
        best_eval_loss=selection.best_eval_loss,
        best_step=selection.best_step,
        published_step=published,
        keep=schedule.keep,
        stopped_early=stopping.is_over and history[-1].step < schedule.total_steps,
        train_seconds=time.monotonic() - started,
        launch_halvings=budget.halvings,
        peak_gpu_memory_bytes=_measure_peak(loaded.device),
    )


def _do_step(
    stepper: Stepper,
    batch: Sequence[Row],
    *,
    step: int,
    schedule: Schedule,
    learning_rate: float,
) -> StepReport:
    started = time.monotonic()
    # A batch without a supervised token has the loss zero, not zero divided by zero.
    supervised = max(1, sum(count_supervised(row) for row in batch))
    try:
        loss, norm, launched = stepper.do(
            batch, step=step, supervised=supervised, learning_rate=learning_rate
        )
    except NotFinite as fault:
        raise _build_not_finite(fault, batch, step=step, learning_rate=learning_rate) from fault
    return StepReport(
        step=step + 1,
        total_steps=schedule.total_steps,
        epoch=0.0,
        loss=loss,
        grad_norm=norm,
        learning_rate=learning_rate,
        sequences=len(batch),
        tokens=sum(len(row.input_ids) for row in batch),
        supervised_tokens=supervised,
        launches=launched,
        seconds=time.monotonic() - started,
    )


def _evaluate(hooks: Hooks, *, step: int) -> float:
    eval_loss = hooks.evaluate()
    if not isfinite(eval_loss):
        raise NotFinite(
            f"After step {step} the loss on the held-out part is {eval_loss}: lower"
            " parameters.learningRate or look at the held-out texts, and apply again; nothing was"
            " published.",
            reason="LossNotFinite",
        )
    return eval_loss


def _build_not_finite(
    fault: NotFinite, batch: Sequence[Row], *, step: int, learning_rate: float
) -> NotFinite:
    named = ", ".join(row.source for row in batch[:ROWS_NAMED])
    more = f" and {len(batch) - ROWS_NAMED} more" if len(batch) > ROWS_NAMED else ""
    return NotFinite(
        f"In step {step + 1} the {fault.message} at learning rate {learning_rate:g}, with the rows"
        f" {named}{more}: lower parameters.learningRate or remove these rows, and apply again;"
        " nothing was published.",
        reason="LossNotFinite",
    )


def _build_interruption(step: int, *, total: int) -> Interrupted:
    return Interrupted(
        f"The pod was asked to go after step {step} of {total}, before anything was published: the"
        " next attempt starts from the beginning."
    )


def _measure_peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
