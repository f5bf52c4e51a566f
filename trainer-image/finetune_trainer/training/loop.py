"""The training loop: exact optimizer steps over the plan's batches, on a GPU or a CPU alike.

Between `model` and `export`. The plan's numbers decide everything that changes the mathematics:
`schedule` says when, `batches` says which rows, `optimizer` does a step, `selection` says which state
is kept. The loop runs them and tells of each step; it evaluates, reports and saves only through its
hooks, and it can go on from any snapshot that it gave.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Protocol, TextIO

import torch

from finetune_api.plan import TrainingParameters
from finetune_trainer.errors import BrokenOff, Interrupted, NotFinite, RankLost
from finetune_trainer.model.loaded_model import LoadedModel
from finetune_trainer.ranks.process_group import SINGLE, ProcessGroup
from finetune_trainer.steps.batches import Batches
from finetune_trainer.steps.eval_loss import HeldOutLoss
from finetune_trainer.steps.micro_batches import TokenBudget, Tokens
from finetune_trainer.steps.model_selection import EarlyStopping, Selection
from finetune_trainer.steps.schedule import Keep, build_schedule
from finetune_trainer.steps.snapshot import Capture, Snapshot
from finetune_trainer.steps.step_report import StepReport
from finetune_trainer.training.history import RunHistory
from finetune_trainer.training.optimizer_step import Stepper
from finetune_trainer.training.training_state import TrainingState

ROWS_NAMED = 5
"""Rows that a message about a bad step names."""

log = logging.getLogger(__name__)


class TrainingExample(Tokens, Protocol):
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
    cut_short: bool
    """Whether steps are left that will not be done."""
    train_seconds: float
    micro_batch_halvings: int
    """How often GPU memory ran out and the micro-batches were halved."""
    peak_gpu_memory_bytes: int | None
    published_evaluation: HeldOutLoss | None
    """What the held-out part showed of the state to be published; None where it was not evaluated."""
    capture: Capture
    """Takes a snapshot from which another pod goes straight on to the end."""
    resumed_from_step: int | None

    @property
    def last(self) -> StepReport:
        """The last step done."""
        return self.history[-1]

    @property
    def tokens(self) -> int:
        """Tokens trained on, without padding, all epochs together."""
        return sum(report.tokens for report in self.history)


def _do_nothing() -> None: ...


def _save_nothing(step: int, capture: Capture) -> None: ...


def _keep_nothing(step: int, capture: Capture) -> int | None: ...


@dataclass(frozen=True)
class Hooks:
    """What the loop calls; it knows none of those who answer."""

    evaluate: Callable[[], HeldOutLoss]
    """Returns what the held-out part shows; raises BrokenOff where the pod must go meanwhile."""
    report: Callable[[StepReport], None]
    """Hears of every step."""
    is_stopping: Callable[[], bool]
    """Whether the pod was asked to go."""
    check: Callable[[], None] = _do_nothing
    """Called before each micro-batch of a step; raises BrokenOff where there is no time to finish it."""
    offer: Callable[[int, Capture], None] = _save_nothing
    """Hears of every step that is over and may take a snapshot of it."""
    keep_last: Callable[[int, Capture], int | None] = _keep_nothing
    """Saves before the pod goes; returns the step at which another one goes on, None from the start."""


def train(
    loaded: LoadedModel,
    rows: Sequence[TrainingExample],
    *,
    training: TrainingParameters,
    held_out: int,
    budget: TokenBudget,
    hooks: Hooks,
    metrics_path: Path,
    group: ProcessGroup = SINGLE,
    find_snapshot: Callable[[TrainingState], Snapshot | None] = lambda _: None,
    is_past_deadline: bool = False,
) -> TrainResult:
    """Train the adapter and leave in the model the state that is to be published.

    `find_snapshot` returns what to go on from, None meaning the beginning. A training that
    `is_past_deadline` does no further step, and ends with the state that it would publish then.

    Raises:
        NotFinite: Loss or gradient became NaN or infinite; nothing may be published.
        OutOfGpuMemory: One sequence does not fit.
        Interrupted: The pod was asked to go; what was done is saved.
        RankLost: Another rank is gone; what was done is saved.
    """
    schedule = build_schedule(training, rows=len(rows), held_out=held_out)
    course = RunHistory(
        schedule,
        Selection(keep=schedule.keep),
        EarlyStopping(patience=training.early_stopping_patience),
    )
    stepper = Stepper(loaded, training=training, budget=budget, group=group, check=hooks.check)
    state = TrainingState(loaded, stepper, course, budget, rows=len(rows))
    snapshot = find_snapshot(state)
    if snapshot is not None:
        state.restore(snapshot)
        group.send_state(snapshot)
        log.info("The training goes on from a checkpoint", extra={"step": snapshot.step})
    loop = Loop(state, rows, training=training, hooks=hooks)
    loaded.network.train()
    # Line by line: what a run that ends badly did is read from here.
    with metrics_path.open("w", buffering=1, encoding="utf-8") as metrics:
        metrics.writelines(report.to_line() for report in course.history)
        try:
            loop.run(metrics, has_time=not is_past_deadline)
        except BrokenOff as asked:
            raise loop.build_interruption() from asked
        except RankLost:
            # This rank holds all that the others held, and is between two steps.
            group.close()
            loop.keep()
            raise
    return loop.conclude(resumed_from_step=None if snapshot is None else snapshot.step)


class Loop:
    """Runs steps on the state of one training."""

    def __init__(
        self,
        state: TrainingState,
        rows: Sequence[TrainingExample],
        *,
        training: TrainingParameters,
        hooks: Hooks,
    ) -> None:
        self._state = state
        self._course = state.course
        self._training = training
        self._hooks = hooks
        self._batches = Batches(
            rows,
            sequences_per_step=training.sequences_per_step,
            seed=training.seed,
            total_steps=state.course.schedule.total_steps,
        )
        self._started = time.monotonic()

    def run(self, metrics: TextIO, *, has_time: bool = True) -> None:
        """Do all steps that are left; without time only what follows a step that is done.

        Raises:
            BrokenOff: The pod must go; the state is that after the last whole step.
        """
        if self._course.pending is not None:
            self._settle(self._course.pending, metrics)
        while has_time and not self._course.is_over:
            if self._hooks.is_stopping():
                raise BrokenOff
            self._course.pending = self._do_step(self._course.steps)
            self._settle(self._course.pending, metrics)
            self._hooks.offer(self._course.steps, self.capture)
        if self._course.stopping.is_over:
            log.info("Training stopped early", extra={"step": self._course.steps})

    def capture(self, *, reuse: bool = False) -> Snapshot:
        """Return a snapshot of the training as it is now."""
        return self._state.capture(seconds=self._seconds(), reuse=reuse)

    def conclude(self, *, resumed_from_step: int | None) -> TrainResult:
        """Put the state that is published into the model and say how it went."""
        course, loaded = self._course, self._state.loaded
        last = course.history[-1].step
        seconds = self._seconds()
        published = course.selection.restore(loaded.restore_adapter, last_step=last)
        return TrainResult(
            history=tuple(course.history),
            best_eval_loss=course.selection.best_eval_loss,
            best_step=course.selection.best_step,
            published_step=published,
            keep=course.schedule.keep,
            stopped_early=course.stopping.is_over and last < course.schedule.total_steps,
            cut_short=not course.is_over,
            train_seconds=seconds,
            micro_batch_halvings=self._state.budget.halvings,
            peak_gpu_memory_bytes=_measure_peak(loaded.device),
            published_evaluation=course.evaluations.get(published),
            # NB: the weights may be those of an earlier step now. No step follows, so what is
            # published stands in the selection, or is these weights.
            capture=lambda *, reuse=False: self._state.capture(seconds=seconds, reuse=reuse),
            resumed_from_step=resumed_from_step,
        )

    def keep(self) -> int | None:
        """Save what there is; return the step at which another pod goes on, None from the beginning."""
        steps = self._course.steps
        return self._hooks.keep_last(steps, self.capture) if steps else None

    def build_interruption(self) -> Interrupted:
        """Save what there is and return the error that says so."""
        steps, total = self._course.steps, self._course.schedule.total_steps
        resumed_at = self.keep()
        what_next = (
            "starts from the beginning" if not resumed_at else f"resumes at step {resumed_at}"
        )
        return Interrupted(
            f"The pod was asked to go after step {steps} of {total}, before anything was published:"
            f" the next attempt {what_next}."
        )

    def _seconds(self) -> float:
        return self._course.seconds + time.monotonic() - self._started

    def _settle(self, report: StepReport, metrics: TextIO) -> None:
        """Do what follows a step: evaluate, choose, write, tell."""
        schedule, done = self._course.schedule, report.step
        if schedule.is_evaluation_due(done):
            found = _evaluate(self._hooks, step=done)
            self._course.evaluations[done] = found
            self._course.stopping.observe(found.loss)
            report = replace(report, eval_loss=found.loss)
        self._course.selection.observe(
            step=done,
            eval_loss=report.eval_loss,
            is_saved=schedule.is_save_due(done),
            state=self._state.loaded.adapter_state,
        )
        self._course.history.append(report)
        self._course.pending = None
        metrics.write(report.to_line())
        self._hooks.report(report)

    def _do_step(self, step: int) -> StepReport:
        """Do step `step`, which counts from 0."""
        started = time.monotonic()
        schedule = self._course.schedule
        batch = self._batches.of(step)
        rate = self._training.learning_rate * schedule.learning_rate_factor(step)
        try:
            loss, norm, micro_batches = self._state.stepper.do(
                batch.rows,
                step=step,
                supervised=batch.supervised,
                learning_rate=rate,
                following=partial(self._batches.rows_after, step),
            )
        except NotFinite as fault:
            raise _build_not_finite(fault, batch.rows, step=step, learning_rate=rate) from fault
        return StepReport(
            step=step + 1,
            total_steps=schedule.total_steps,
            epoch=self._batches.order.epochs_after(step + 1),
            loss=loss,
            grad_norm=norm,
            learning_rate=rate,
            sequences=len(batch.rows),
            tokens=sum(len(row.input_ids) for row in batch.rows),
            supervised_tokens=batch.supervised,
            micro_batches=micro_batches,
            seconds=time.monotonic() - started,
        )


def _evaluate(hooks: Hooks, *, step: int) -> HeldOutLoss:
    found = hooks.evaluate()
    if not isfinite(found.loss):
        raise NotFinite(
            f"After step {step} the loss on the held-out part is {found.loss}: lower"
            " parameters.learningRate or look at the held-out texts, and apply again; nothing was"
            " published.",
            reason="LossNotFinite",
        )
    return found


def _build_not_finite(
    fault: NotFinite, batch: Sequence[TrainingExample], *, step: int, learning_rate: float
) -> NotFinite:
    named = ", ".join(row.source for row in batch[:ROWS_NAMED])
    more = f" and {len(batch) - ROWS_NAMED} more" if len(batch) > ROWS_NAMED else ""
    return NotFinite(
        f"In step {step + 1} the {fault.message} at learning rate {learning_rate:g}, with the rows"
        f" {named}{more}: lower parameters.learningRate or remove these rows, and apply again;"
        " nothing was published.",
        reason="LossNotFinite",
    )


def _measure_peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
