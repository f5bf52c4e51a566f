"""Where the newest checkpoint of a run is: reported in progress while it runs, and in the outcome at its end.

The trainer builds it, the operator copies it to `status.checkpoint`. What a checkpoint holds is the
trainer's own business.
"""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

LARGEST_STEP = 2**53 - 1
"""Beyond it a JSON number is not exact everywhere, and beyond 2**63 status cannot hold it at all."""


class SavedCheckpoint(BaseModel):
    """A checkpoint that stands whole in S3, its manifest included."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )

    step: int = Field(ge=0, le=LARGEST_STEP)
    """Optimizer steps that a pod which resumes there need not do again."""
    uri: str = Field(max_length=1024)
    """Its folder."""
    time: str = Field(max_length=40)
    """When it was whole, RFC 3339 in UTC such as 2026-11-25T07:30:00Z."""
