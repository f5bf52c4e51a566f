"""When things happen in a run: how many steps, which learning rate, when to evaluate and to keep.

`train` asks; everything here is computed from the plan's numbers and the count of rows. Nothing is
drawn, measured or written.
"""

from dataclasses import dataclass
from enum import Enum
from math import ceil, cos, pi

from finetune_api.plan import TrainingParameters
from finetune_api.resource import EvalStrategy, LrScheduler, SaveStrategy

LEAST_EVAL_STEPS, MOST_EVAL_STEPS = 100, 500
"""The guide's range of steps between evaluations (G-HT-14)."""
EVALUATIONS_WANTED = 20
"""Evaluations of a run where the guide's range allows: enough for a curve (assumption)."""


class Keep(Enum):
    """Which state of the adapter is published."""

    LAST = "the last"
    BEST_SAVED = "the best of those saved"
    BEST_EVALUATED = "the best of those evaluated"


@dataclass(frozen=True)
class Schedule:
    """The course of one run, in optimizer steps that count from 1 where they name a step done."""

    total_steps: int
    steps_per_epoch: int
    warmup_steps: int
    scheduler: LrScheduler
    eval_every: int | None
    """Steps between evaluations; None never evaluates while training."""
    save_every: int | None
    """Steps between candidates; None has no candidate but the last state."""
    keep: Keep

    def learning_rate_factor(self, step: int) -> float:
        """Return the share of the peak learning rate at `step`, which counts from 0."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if self.scheduler is LrScheduler.CONSTANT:
            return 1.0
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        if self.scheduler is LrScheduler.COSINE:
            return max(0.0, 0.5 * (1.0 + cos(pi * done)))
        return max(0.0, 1.0 - done)

    def is_evaluation_due(self, done: int) -> bool:
        """Whether the held-out part is evaluated after `done` steps."""
        return _is_due(done, every=self.eval_every, total=self.total_steps)

    def is_save_due(self, done: int) -> bool:
        """Whether the state after `done` steps is a candidate for the published adapter."""
        return _is_due(done, every=self.save_every, total=self.total_steps)


def build_schedule(training: TrainingParameters, *, rows: int, held_out: int) -> Schedule:
    """Return the course of a run over `rows` rows with `held_out` rows to evaluate on."""
    steps_per_epoch = max(1, ceil(rows / training.sequences_per_step))
    total = training.max_steps
    if total <= 0:
        total = max(1, ceil(training.num_train_epochs * steps_per_epoch))
    eval_every = None
    if held_out:
        eval_every = _decide_interval(
            training.eval_strategy.value,
            given=training.eval_steps,
            total=total,
            epoch=steps_per_epoch,
        )
    return Schedule(
        total_steps=total,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=_decide_warmup(training, total=total),
        scheduler=training.lr_scheduler,
        eval_every=eval_every,
        save_every=_decide_interval(
            training.save_strategy.value,
            given=_save_steps(training),
            total=total,
            epoch=steps_per_epoch,
        ),
        keep=_decide_keep(training, can_evaluate=eval_every is not None),
    )


def _is_due(done: int, *, every: int | None, total: int) -> bool:
    # The end is always due: a run shorter than the interval would otherwise leave nothing.
    return every is not None and (done % every == 0 or done == total)


def _decide_interval(strategy: str, *, given: int | None, total: int, epoch: int) -> int | None:
    if strategy == EvalStrategy.EPOCH.value:
        return epoch
    if strategy == EvalStrategy.STEPS.value:
        return given or min(MOST_EVAL_STEPS, max(LEAST_EVAL_STEPS, total // EVALUATIONS_WANTED))
    return None


def _decide_warmup(training: TrainingParameters, *, total: int) -> int:
    warmup = training.warmup_steps or ceil(total * training.warmup_ratio)
    # A run shorter than its warm-up would end before it learned anything.
    return min(warmup, total - 1)


def _decide_keep(training: TrainingParameters, *, can_evaluate: bool) -> Keep:
    """Decide by the strategies alone, never by which steps happen to coincide.

    Saving by epoch while evaluating by steps is the guide's pair (C19): candidates then have no
    loss of their own, so the last one is kept.
    """
    save, evaluation = training.save_strategy, training.eval_strategy
    if not can_evaluate:
        return Keep.LAST
    if save is SaveStrategy.BEST:
        return Keep.BEST_EVALUATED
    if save is SaveStrategy.EPOCH and evaluation is EvalStrategy.EPOCH:
        return Keep.BEST_SAVED
    if (
        save is SaveStrategy.STEPS
        and evaluation is EvalStrategy.STEPS
        and _saves_are_evaluated(training)
    ):
        return Keep.BEST_SAVED
    return Keep.LAST


def _saves_are_evaluated(training: TrainingParameters) -> bool:
    save_steps = _save_steps(training)
    if save_steps is None or training.eval_steps is None:
        return save_steps is training.eval_steps
    return save_steps % training.eval_steps == 0


def _save_steps(training: TrainingParameters) -> int | None:
    """Return the steps between candidates; where the plan names none they are those of evaluation."""
    return training.save_steps or training.eval_steps
