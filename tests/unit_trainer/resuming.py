"""A tiny training that is stopped and gone on with in a fresh model, through files as in a new pod."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import BrokenOff, Interrupted
from finetune_trainer.steps.eval_loss import HeldOutLoss
from tests.unit_trainer.tiny import TinyRow, build_plan

# It needs torch, without which `make check` runs too.
checkpoint_files = pytest.importorskip("finetune_trainer.checkpoints.files")

ORIGIN = checkpoint_files.Origin("ab" * 32, "ml", "tiny", "revision", ("text",))


def held_out_loss(loss: float) -> HeldOutLoss:
    return HeldOutLoss(nats=loss, tokens=1, bytes=1, examples=1)


@dataclass
class TinyTraining:
    """One way to train; each `train` loads a model of its own."""

    model: Path
    folder: Path
    rows: list[TinyRow]
    changes: dict[str, Any]
    losses: list[float] = field(default_factory=list)
    """What evaluations find, one after the other; empty where nothing is held out."""
    adapt: Callable[[Any], Any] = lambda loaded: loaded
    """Changes the model, such as one whose memory runs out."""
    token_budget: int = 10_000
    budget: Any = None
    found_before: int = 0

    def train(
        self,
        *,
        stop_after: int = -1,
        at_evaluation: int = -1,
        resume: bool = False,
        is_past_deadline: bool = False,
    ) -> Any:
        """Train, until the pod is asked to go after a step or in an evaluation, each counted from 1.

        Returns:
            The result and the adapter, or the snapshot's step where it was stopped.
        """
        from finetune_trainer.model import load
        from finetune_trainer.steps.micro_batches import TokenBudget
        from finetune_trainer.training.loop import Hooks, train

        plan = build_plan(**self.changes)
        loaded = self.adapt(load.load(plan, folder=self.model))
        self.budget = TokenBudget(self.token_budget)
        found = self._evaluations(resume=resume, at_evaluation=at_evaluation)
        done: list[int] = []
        try:
            result = train(
                loaded,
                self.rows,
                training=plan.training,
                held_out=1 if self.losses else 0,
                budget=self.budget,
                hooks=Hooks(
                    evaluate=lambda: next(found),
                    report=lambda report: done.append(report.step),
                    is_stopping=lambda: bool(done) and done[-1] == stop_after,
                    keep_last=self._keep,
                ),
                metrics_path=self.folder / "metrics.jsonl",
                find_snapshot=lambda state: self._load(state) if resume else None,
                is_past_deadline=is_past_deadline,
            )
        except Interrupted as asked:
            return asked
        return result, loaded.adapter_state()

    def _evaluations(self, *, resume: bool, at_evaluation: int) -> Iterator[HeldOutLoss]:
        first: int = self.found_before if resume else 0
        self.found_before = first
        for number, loss in enumerate(self.losses[first:], start=first + 1):
            if number == at_evaluation:
                raise BrokenOff
            self.found_before += 1
            yield held_out_loss(loss)

    def _keep(self, step: int, capture: Callable[[], Any]) -> int:
        checkpoint_files.write_snapshot(
            capture(), self.folder, origin=ORIGIN, image="", now=datetime.now(UTC)
        )
        self.kept = step
        return step

    def _load(self, state: Any) -> Any:
        folder = self.folder / checkpoint_files.folder_name(self.kept)
        manifest = checkpoint_files.parse_manifest(
            (folder / "manifest.json").read_bytes(), origin=ORIGIN, step=self.kept
        )
        snapshot = checkpoint_files.load_snapshot(folder, manifest)
        assert state.find_mismatch(snapshot) is None
        return snapshot
