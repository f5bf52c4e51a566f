"""What a running trainer pushes to the operator's status server, in Kubeflow Trainer's JSON.

The trainer builds a `ProgressReport`, the status server parses it. Bounds protect the server: a
report that exceeds them is refused whole.
"""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_api.checkpoint import SavedCheckpoint

MAX_METRICS = 50
"""Metrics in one report; as many as the status keeps."""
LARGEST_ETA_S = 2**53 - 1
"""Beyond it a JSON number is not exact everywhere, and beyond 2**63 status cannot hold it at all."""

LONGEST_WAITING_FOR = 256
"""Characters; the trainer cuts a longer description."""


class Metric(BaseModel):
    """One named number, written as text because the status holds no floats."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(min_length=1, max_length=63)
    value: str = Field(max_length=64)


class TrainerStatus(BaseModel):
    """Progress of one run at one moment."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )

    progress_percentage: int | None = Field(default=None, ge=0, le=100)
    estimated_remaining_seconds: int | None = Field(default=None, ge=0, le=LARGEST_ETA_S)
    metrics: tuple[Metric, ...] = Field(default=(), max_length=MAX_METRICS)
    last_updated_time: str | None = Field(default=None, max_length=40)
    checkpoint: SavedCheckpoint | None = None
    """The newest checkpoint, whichever pod wrote it. Ours alone: Kubeflow's protocol has no such field."""
    grace_seconds_needed: int | None = Field(default=None, ge=0, le=LARGEST_ETA_S)
    """What a step, a checkpoint and its upload take, as measured: for the next pod's grace period."""
    waiting_for: str | None = Field(default=None, max_length=LONGEST_WAITING_FOR)
    """The service that does not answer, such as "the output at s3://adapters/"; None while none is waited
    for. The stage stays the one that waits."""
    waiting_since: str | None = Field(default=None, max_length=40)
    """When the first unanswered attempt was made, in ISO 8601."""

    def metric(self, name: str) -> str | None:
        """Return the text of the metric called `name`, or None."""
        return next((metric.value for metric in self.metrics if metric.name == name), None)


class ProgressReport(BaseModel):
    """The body of one POST."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )

    trainer_status: TrainerStatus


# Metric names that the status understands; a stock `transformers` sends `loss`, `eval_loss`, `epoch`.
STEP = "step"
TOTAL_STEPS = "total_steps"
EPOCH = "epoch"
LOSS = "loss"
EVAL_LOSS = "eval_loss"
TOKENS_PER_SECOND = "tokens_per_second"
STAGE = "stage"
