"""What a process of a suite is given and what it answers: plain values that cross as JSON.

Between `run`, which starts the processes, and `stock`, `own`, `memory` and `numerics`, which are
started. Times are seconds since the process began.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.gpu.shapes import SHAPES
from tests.bench.gpu.suite import EngineName, Row


@dataclass(frozen=True)
class Job:
    """One row to run."""

    row: Row
    model: Path
    """The base model's folder."""
    folder: Path
    """Scratch space of this row."""
    corpus_steps: int
    """Steps of this row that the documents suffice for: they are those of the longest row of the shape."""
    device: str
    """cuda or cpu."""
    work: Path
    """The trainer's scratch space. The rows of one GPU share it, and with it what was compiled."""
    started: float = 0.0
    """The machine's monotonic clock when the process was started."""

    def save(self, path: Path) -> Path:
        """Write the job as JSON and return where."""
        row = asdict(self.row) | {"shape": self.row.shape.name}
        value = asdict(self) | {"row": row, "model": str(self.model), "folder": str(self.folder)}
        value["work"] = str(self.work)
        path.write_text(json.dumps(value))
        return path

    @classmethod
    def load(cls, path: Path) -> "Job":
        """Read a job that `save` wrote."""
        value: dict[str, Any] = json.loads(path.read_text())
        row = value["row"] | {
            "shape": SHAPES[value["row"]["shape"]],
            "engine": EngineName(value["row"]["engine"]),
            "targets": tuple(value["row"]["targets"]),
        }
        return cls(
            row=Row(**row),
            model=Path(value["model"]),
            folder=Path(value["folder"]),
            corpus_steps=value["corpus_steps"],
            device=value["device"],
            work=Path(value["work"]),
            started=value["started"],
        )


@dataclass(frozen=True)
class Measured:
    """What was seen of one row."""

    step_ends: tuple[float, ...]
    """When each step was over; the first holds all that came before it."""
    step_tokens: tuple[int, ...]
    """Tokens of each step, without padding."""
    losses: tuple[float, ...]
    """Nats per supervised token of each step, before its update."""
    peak_bytes: int | None
    """Most GPU memory that torch held at once, reserved; None on a CPU."""
    predicted_bytes: int | None = None
    """What the trainer expected of it; None where it expected nothing."""
    choices: tuple[str, ...] = ()
    """What the engine chose by itself, in its own words."""
    note: str = ""
    """What a reader of the row must know."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Measured":
        """Return what `to_dict` gave."""
        lists = ("step_ends", "step_tokens", "losses", "choices")
        fields: dict[str, Any] = {
            key: tuple(each) if key in lists else each for key, each in value.items()
        }
        return cls(**fields)
