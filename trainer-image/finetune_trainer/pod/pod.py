"""What surrounds a run: environment, scratch space, and who asks it to go."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api import wire
from finetune_trainer.pod.graceful_shutdown import GracefulShutdown


@dataclass(frozen=True)
class Pod:
    """The pod, or whatever stands for one on a workstation."""

    environ: MutableMapping[str, str]
    work: Path
    """Scratch space; everything that is written goes below it."""
    shutdown: GracefulShutdown
    """Knows whether the pod was asked to go."""

    @property
    def deadline_s(self) -> int | None:
        """The run's deadline in seconds, where it publishes what it has then."""
        text = self.environ.get(wire.ENV_DEADLINE_SECONDS, "")
        return int(text) if text.isdecimal() else None
