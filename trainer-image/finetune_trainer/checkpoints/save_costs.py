"""What checkpoints took, and what follows for the next pod's grace period. Pure, beside `checkpoints`."""

from dataclasses import dataclass
from math import ceil

GRACE_MARGIN = 1.5
"""On what a step and a checkpoint took so far: the next upload may meet a busier store (assumption)."""
GRACE_BASE_S = 15.0
"""For the outcome, the last report and the end of a process with a GPU (assumption)."""


@dataclass
class Costs:
    """What checkpoints took, in seconds."""

    saved: int = 0
    """Checkpoints that came whole to S3."""
    waited: float = 0.0
    """By the training, for snapshots."""
    longest_save: float = 0.0
    """From the snapshot to the manifest in S3."""
    longest_step: float = 0.0

    @property
    def grace_needed(self) -> int:
        """Seconds that a pod needs from SIGTERM on."""
        return ceil(GRACE_MARGIN * (self.longest_step + self.longest_save) + GRACE_BASE_S)
