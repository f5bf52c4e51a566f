"""The measure plan: what the Measure pod obeys.

The operator writes it as `wire.MEASURE_FILE` into the ConfigMap of a Measure Job; the pod fetches the
text and the tokenizer, never the weights. `measure_hash` covers what determines the result and
nothing else: a resource applied again finds its profile, and so does another that trains on the same
text with the same tokenizer.
"""

import hashlib
from typing import Any, Final, Literal, Self

from pydantic import Field

from finetune_api.plan import (
    PlannedDataset,
    PlannedModel,
    PlannedOutput,
    RunIdentity,
    canonical_json,
)
from finetune_api.resource import TrainingStage
from finetune_api.strict import Strict

MEASURE_SCHEMA: Literal[1] = 1
MEASUREMENT_VERSION: Final = 1
"""Counts up whenever the same text would give other numbers, so that no old profile is taken."""


class MeasurePlan(Strict):
    """Everything the Measure pod needs to know."""

    schema_version: Literal[1] = MEASURE_SCHEMA
    identity: RunIdentity
    model: PlannedModel
    datasets: tuple[PlannedDataset, ...]
    """In the order of `spec.languages`."""
    stage: TrainingStage
    completion_only_loss: bool = True
    """Whether answers alone carry loss, as the training plan will say."""
    max_seq_length: int | None = Field(default=None, ge=1)
    """A length, in tokens, that the resource sets and that profiles do not count by themselves
    (`profile.COUNTED_LENGTHS`): what it leaves of the text is counted too."""
    output: PlannedOutput
    """The profile goes below `output.uri` (`wire.measured_prefix`); formats do not count."""
    hash: str = ""
    """`measure_hash` of this plan; the pod refuses a plan whose hash is another."""

    def with_hash(self) -> Self:
        """Return the plan with `hash` filled in."""
        return self.model_copy(update={"hash": measure_hash(self)})

    def to_json(self) -> str:
        """Return canonical JSON: the same plan is always the same bytes."""
        whole = self.model_dump(mode="json", by_alias=True)
        # A plan without a length is the same bytes as before there was the field.
        if self.max_seq_length is None:
            del whole["maxSeqLength"]
        return canonical_json(whole)


def measure_hash(plan: MeasurePlan) -> str:
    """Return the SHA-256, in hex, over what determines the profile and nothing else."""
    determines: dict[str, Any] = {
        "schema": MEASURE_SCHEMA,
        "measurement": MEASUREMENT_VERSION,
        "model": plan.model.model_dump(mode="json", exclude={"credentials"}),
        "datasets": [
            dataset.model_dump(mode="json", exclude={"credentials", "weight"})
            for dataset in plan.datasets
        ],
        "stage": plan.stage.value,
        "completion_only_loss": plan.completion_only_loss,
    }
    # A plan without a length has the hash that it had before there was the field.
    if plan.max_seq_length is not None:
        determines["max_seq_length"] = plan.max_seq_length
    return hashlib.sha256(canonical_json(determines).encode()).hexdigest()
