"""Checkpoints that version 0.1.0 wrote: other names of two fields, the same state."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit_trainer.resuming import ORIGIN

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

NOTES = {"base": {"nats": 2.5, "tokens": 10, "bytes": 40, "examples": 2}, "checkpoints": 3}
LINE_OF_0_1_0 = (
    '{"step": 1, "total_steps": 4, "epoch": 0.25, "loss": 2.0, "grad_norm": 0.5, '
    '"learning_rate": 0.0001, "sequences": 4, "tokens": 100, "supervised_tokens": 80, '
    '"launches": 2, "seconds": 0.1}\n'
)


def snapshot() -> Any:
    from finetune_trainer.steps.snapshot import Snapshot
    from finetune_trainer.steps.step_report import StepReport

    return Snapshot(
        step=1,
        tensors={group: {"x": torch.ones(3)} for group in ("adapter", "optimizer", "random")},
        state={"rows": 4},
        history=(StepReport.from_line(LINE_OF_0_1_0),),
        notes=NOTES,
    )


def rewrite(folder: Path, manifest: Any, name: str, content: bytes) -> Any:
    """Replace a file of a checkpoint, and what its manifest says of it."""
    files = []
    for file in manifest.files:
        if Path(file.path).name == name:
            (folder / file.path).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            files.append(file.model_copy(update={"sha256": digest, "bytes": len(content)}))
        else:
            files.append(file)
    return manifest.model_copy(update={"files": tuple(files)})


def test_its_notes_and_steps_are_read(tmp_path: Path) -> None:
    from finetune_trainer.checkpoints.files import STATE_FILE, load_snapshot, write_snapshot
    from finetune_trainer.steps.step_report import METRICS_FILE

    now = datetime(2026, 1, 5, tzinfo=UTC)
    manifest = write_snapshot(snapshot(), tmp_path, origin=ORIGIN, image="", now=now)
    folder = tmp_path / "step-1"
    state = json.dumps({"state": {"rows": 4}, "told": NOTES}).encode()
    manifest = rewrite(folder, manifest, STATE_FILE, state)
    manifest = rewrite(folder, manifest, METRICS_FILE, LINE_OF_0_1_0.encode())
    older = load_snapshot(folder, manifest)
    assert older.notes == NOTES
    assert older.history == snapshot().history
    assert older.history[0].micro_batches == 2
