"""What one optimizer step did: made by `train`, reported by `report`, written to metrics.jsonl."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

METRICS_FILE = "metrics.jsonl"
"""One line a step."""


@dataclass(frozen=True)
class StepReport:
    """One optimizer step; a line of metrics.jsonl."""

    step: int
    """Steps done, this one included."""
    total_steps: int
    epoch: float
    loss: float
    """Nats per supervised token of the step, before its update."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    sequences: int
    tokens: int
    """Without padding."""
    supervised_tokens: int
    micro_batches: int
    """Calls of the model that made the step."""
    seconds: float
    """Of the step itself, evaluation excluded."""
    eval_loss: float | None = None

    def to_fields(self) -> dict[str, int | float]:
        """Return what is known of the step, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "StepReport":
        """Return the step that `to_fields` described.

        Args:
            fields: By name. CheckpointSaver of version 0.1.0 call `micro_batches` `launches`.
        """
        known = dict(fields)
        if "launches" in known:
            known["micro_batches"] = known.pop("launches")
        return cls(**known)

    @classmethod
    def from_line(cls, line: str) -> "StepReport":
        """Return the step of a line of metrics.jsonl; a number reads as exactly what was written."""
        return cls.from_fields(json.loads(line))

    def to_line(self) -> str:
        """Return the line of metrics.jsonl, its end included."""
        return json.dumps(self.to_fields()) + "\n"
