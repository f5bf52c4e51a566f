"""A training that stops, goes through files and goes on in a fresh model, against one left alone.

    python -m tests.bench.gpu.resume DEVICE ANSWER.json MODEL

Started by `bench` as an extra; runs on a CPU too. Two undisturbed runs say how far the device's own
noise goes: none on a CPU, where the resumed run must be equal bit for bit. It also says what a
snapshot costs while training waits, and what is written beside it.
"""

import contextlib
import gc
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from finetune_trainer.errors import Interrupted
from tests.bench.gpu.corpus import build_corpus
from tests.bench.gpu.jobs import Job
from tests.bench.gpu.own import build_plan
from tests.bench.gpu.shapes import SHAPES, Shape
from tests.bench.gpu.suite import OWN_1B, Row

STEPS = 8
"""Of the whole run; it stops in the middle."""
NOISE_FACTOR = 4.0
"""A resumed run may differ by so many times what two undisturbed ones differ by (assumption)."""
LEAST_NOISE = 2e-3
"""Nats, on a GPU: two runs may by luck be equal where atomics add up in the same order."""


@dataclass(frozen=True)
class Document:
    """A row, scored in every token."""

    input_ids: tuple[int, ...]
    source: str = "resume"

    @property
    def labels(self) -> tuple[int, ...]:
        """The tokens themselves."""
        return self.input_ids


@dataclass
class Trial:
    """One training, or half of one."""

    losses: list[float]
    seconds: list[float]
    """Of each step."""
    weights: dict[str, Any]
    first_snapshot_s: float = 0.0
    snapshot_s: float = 0.0
    """What the training waits for each later one."""
    write_s: float = 0.0
    """What a thread does beside it."""
    bytes: int = 0


def build_row(shape: Shape, *, device: str) -> Row:
    """Return a run with dropout; a tiny one on a CPU."""
    small: dict[str, Any] = (
        {"longest": 64, "mean": 24, "batch": 8, "micro_batch": 4} if device == "cpu" else {}
    )
    return replace(OWN_1B, shape=shape, dropout=0.1, steps=STEPS, **small)


class Resuming:
    """The trainings that are compared: same model, rows and plan, each in a fresh model."""

    def __init__(self, *, model: Path, folder: Path, device: str) -> None:
        self.row = build_row(SHAPES[model.name], device=device)
        self.model, self.folder = model, folder
        job = Job(
            row=self.row,
            model=model,
            folder=folder,
            corpus_steps=STEPS,
            device=device,
            work=folder,
        )
        self.plan = build_plan(job)
        corpus = build_corpus(
            STEPS * self.row.batch,
            vocabulary=self.row.shape.vocab_size,
            longest=self.row.longest,
            mean=self.row.mean,
        )
        self.rows = [Document(each) for each in corpus.documents]
        self.origin = import_module("finetune_trainer.checkpoints.files").Origin(
            self.plan.hash, "bench", "resume", "", ()
        )

    def run(self, *, stop_after: int = -1, resume_at: int = 0) -> Trial:
        """Train, and stop after a step or go on from one, where that is asked for."""
        # Unsloth must be imported before anything that imports transformers.
        load = import_module("finetune_trainer.model.load").load
        import torch

        from finetune_trainer.engine.choose import choose
        from finetune_trainer.training.loop import Hooks, train

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        chosen = choose(self.plan, load(self.plan, folder=self.model), self.rows, environ={})
        trial = Trial([], [], {})

        def report(step: Any) -> None:
            trial.losses.append(step.loss)
            trial.seconds.append(step.seconds)

        def keep_last(step: int, capture: Any) -> int:
            self._write(trial, capture)
            return step

        with contextlib.suppress(Interrupted):
            train(
                chosen.loaded,
                self.rows,
                training=self.plan.training,
                held_out=0,
                budget=chosen.budget,
                hooks=Hooks(
                    evaluate=self._never,
                    report=report,
                    is_stopping=lambda: len(trial.losses) == stop_after,
                    keep_last=keep_last,
                ),
                metrics_path=self.folder / "metrics.jsonl",
                find_snapshot=lambda state: self._load(state, resume_at),
            )
        trial.weights = chosen.loaded.adapter_state()
        return trial

    def _never(self) -> Any:
        raise AssertionError("nothing is held out")

    def _write(self, trial: Trial, capture: Any) -> None:
        from finetune_trainer.checkpoints.files import write_snapshot

        begun = time.monotonic()
        # The first makes the memory that all later ones use again.
        capture(reuse=True)
        started = time.monotonic()
        snapshot = capture(reuse=True)
        taken = time.monotonic()
        trial.first_snapshot_s = started - begun
        manifest = write_snapshot(
            snapshot, self.folder, origin=self.origin, image="", now=datetime.now(UTC)
        )
        trial.snapshot_s, trial.write_s = taken - started, time.monotonic() - taken
        trial.bytes = sum(file.bytes for file in manifest.files)

    def _load(self, state: Any, step: int) -> Any:
        from finetune_trainer.checkpoints.files import folder_name, load_snapshot, parse_manifest

        if not step:
            return None
        folder = self.folder / folder_name(step)
        content = (folder / "manifest.json").read_bytes()
        snapshot = load_snapshot(folder, parse_manifest(content, origin=self.origin, step=step))
        mismatch = state.find_mismatch(snapshot)
        assert mismatch is None, mismatch
        return snapshot


def furthest(losses: list[float], others: list[float]) -> float:
    """Return the largest difference of two curves, in nats."""
    return max(abs(a - b) for a, b in zip(losses, others, strict=True))


def weigh(weights: dict[str, Any], others: dict[str, Any]) -> float:
    """Return the relative difference of two adapters."""
    apart = sum(
        float((value - others[name]).float().pow(2).sum()) for name, value in weights.items()
    )
    size = sum(float(value.float().pow(2).sum()) for value in weights.values())
    return float((apart / size) ** 0.5)


def compare(calm: Trial, again: Trial, stopped: Trial, resumed: Trial) -> dict[str, Any]:
    """Return what was seen; losses in nats, weights relative."""
    return {
        "steps": STEPS,
        "noise": {
            "loss": furthest(calm.losses, again.losses),
            "weights": weigh(calm.weights, again.weights),
        },
        "resumed": {
            "loss": furthest(calm.losses, stopped.losses + resumed.losses),
            "weights": weigh(calm.weights, resumed.weights),
        },
        "checkpoint": {
            "bytes": stopped.bytes,
            "training_waits_s": stopped.snapshot_s,
            "training_waits_once_s": stopped.first_snapshot_s,
            "written_beside_it_s": stopped.write_s,
            "step_s": median(calm.seconds),
        },
    }


def judge(found: dict[str, Any], *, device: str) -> str:
    """Return what does not pass, in words; nothing where all does."""
    noise, resumed = found["noise"]["loss"], found["resumed"]["loss"]
    if device == "cpu":
        is_equal = resumed == 0 and found["resumed"]["weights"] == 0
        return "" if is_equal else f"a resumed run is not equal: {found['resumed']}"
    bar = max(LEAST_NOISE, NOISE_FACTOR * noise)
    return "" if resumed <= bar else f"a resumed run is {resumed:.5f} nats off, allowed {bar:.5f}"


def main() -> int:
    """Train four times and write what that shows."""
    device, answer, model = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    folder = answer.parent / "resume"
    folder.mkdir(exist_ok=True)
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(folder / "unsloth")
    if device == "cpu":
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
    resuming = Resuming(model=model, folder=folder, device=device)
    calm, again = resuming.run(), resuming.run()
    half = STEPS // 2
    stopped, resumed = resuming.run(stop_after=half), resuming.run(resume_at=half)
    found = compare(calm, again, stopped, resumed)
    if failure := judge(found, device=device):
        found["failure"] = failure
    answer.write_text(json.dumps(found))
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
