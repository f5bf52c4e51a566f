"""Which state of the adapter is published, and when training stops early.

`train` tells what happened at each step; nothing here knows how a loss is computed or a state is
made. A state is held in memory: an adapter is tens of megabytes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from finetune_trainer.steps.schedule import Keep

State = dict[str, Any]


class EarlyStopping:
    """Counts evaluations in a row that brought no improvement."""

    def __init__(self, *, patience: int) -> None:
        self._patience = patience
        self._best: float | None = None
        self._without_improvement = 0

    def observe(self, eval_loss: float) -> None:
        """Take note of one evaluation."""
        if self._best is None or eval_loss < self._best:
            self._best, self._without_improvement = eval_loss, 0
            return
        self._without_improvement += 1

    def to_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON."""
        return {"best": self._best, "withoutImprovement": self._without_improvement}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._best, self._without_improvement = state["best"], state["withoutImprovement"]

    @property
    def is_over(self) -> bool:
        """Whether patience has run out; patience 0 never does."""
        return 0 < self._patience <= self._without_improvement


class Selection:
    """Holds the best candidate so far, where the plan keeps another state than the last."""

    def __init__(self, *, keep: Keep) -> None:
        self._keep = keep
        self._kept: State | None = None
        self._kept_loss: float | None = None
        self._kept_step = 0
        self.best_eval_loss: float | None = None
        """Lowest loss of any evaluation, published or not."""
        self.best_step: int | None = None
        """Step of that evaluation."""

    def observe(
        self, *, step: int, eval_loss: float | None, is_saved: bool, state: Callable[[], State]
    ) -> None:
        """Take note of one step; `state` is called only where it has to be held."""
        if eval_loss is None:
            return
        if self.best_eval_loss is None or eval_loss < self.best_eval_loss:
            self.best_eval_loss, self.best_step = eval_loss, step
        is_candidate = self._keep is Keep.BEST_EVALUATED or (
            self._keep is Keep.BEST_SAVED and is_saved
        )
        if is_candidate and (self._kept_loss is None or eval_loss < self._kept_loss):
            self._kept, self._kept_loss, self._kept_step = state(), eval_loss, step

    @property
    def kept(self) -> State | None:
        """The state of the best candidate; None where the last is published."""
        return self._kept

    def to_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside `kept`, as JSON."""
        return {
            "keptLoss": self._kept_loss,
            "keptStep": self._kept_step,
            "bestEvalLoss": self.best_eval_loss,
            "bestStep": self.best_step,
        }

    def load_state(self, state: Mapping[str, Any], *, kept: State | None) -> None:
        """Go on from a checkpoint."""
        self._kept = kept
        self._kept_loss, self._kept_step = state["keptLoss"], state["keptStep"]
        self.best_eval_loss, self.best_step = state["bestEvalLoss"], state["bestStep"]

    def restore(self, put_back: Callable[[State], None], *, last_step: int) -> int:
        """Put the state that is published back into the model; return its step."""
        if self._kept is None or self._kept_step == last_step:
            return last_step
        put_back(self._kept)
        return self._kept_step
