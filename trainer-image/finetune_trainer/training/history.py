"""What a run has behind it beside its weights: steps, evaluations, and what is decided from them.

Kept by `train`, taken into a checkpoint by `snapshot`. A step whose evaluation is still to come is
`pending`: a pod that goes in the middle of an evaluation leaves it to the next one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune_trainer.steps.eval_loss import HeldOutLoss
from finetune_trainer.steps.model_selection import EarlyStopping, Selection, State
from finetune_trainer.steps.schedule import Schedule
from finetune_trainer.steps.step_report import StepReport


@dataclass
class RunHistory:
    """The course of one run so far, of all its pods together."""

    schedule: Schedule
    selection: Selection
    stopping: EarlyStopping
    history: list[StepReport] = field(default_factory=list)
    """Steps done, evaluated where that was due, and reported."""
    pending: StepReport | None = None
    """A step that is done and not in `history` yet."""
    evaluations: dict[int, HeldOutLoss] = field(default_factory=dict)
    """What was found of the held-out part, by step."""
    seconds: float = 0.0
    """Training time of earlier pods, up to the checkpoint."""

    @property
    def steps(self) -> int:
        """Optimizer steps that the weights have behind them."""
        return len(self.history) + (self.pending is not None)

    @property
    def is_over(self) -> bool:
        """Whether no step is left to do."""
        return self.pending is None and (
            self.stopping.is_over or len(self.history) >= self.schedule.total_steps
        )

    def to_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside `history` and the selection's state, as JSON."""
        return {
            "totalSteps": self.schedule.total_steps,
            "pending": None if self.pending is None else self.pending.to_fields(),
            "evaluations": {str(step): asdict(one) for step, one in self.evaluations.items()},
            "selection": self.selection.to_state(),
            "earlyStopping": self.stopping.to_state(),
        }

    def load_state(
        self, state: Mapping[str, Any], *, history: Sequence[StepReport], kept: State | None
    ) -> None:
        """Go on from a checkpoint."""
        self.history = list(history)
        pending = state["pending"]
        self.pending = None if pending is None else StepReport.from_fields(pending)
        self.evaluations = {
            int(step): HeldOutLoss(**one) for step, one in state["evaluations"].items()
        }
        self.selection.load_state(state["selection"], kept=kept)
        self.stopping.load_state(state["earlyStopping"])
