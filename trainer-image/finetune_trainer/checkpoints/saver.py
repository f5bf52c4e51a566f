"""When checkpoints are made, and what they cost: a snapshot while training waits, the rest beside it.

The pipeline hands `offer` and `keep_last` to the training loop. A snapshot is copied to host memory,
which is all that the training waits for; a thread writes it to the disk and brings it to S3. What
fails there is logged and harms nothing: the next checkpoint tries again.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from finetune_api.checkpoint import SavedCheckpoint
from finetune_api.plan import PlannedCheckpoints
from finetune_trainer.checkpoints.files import CheckpointManifest, write_snapshot
from finetune_trainer.checkpoints.places import CheckpointPlaces
from finetune_trainer.checkpoints.save_costs import GRACE_MARGIN, Costs
from finetune_trainer.errors import TrainerError
from finetune_trainer.steps.snapshot import Capture, Snapshot

log = logging.getLogger(__name__)


@dataclass
class _Save:
    """One checkpoint under way."""

    snapshot: Snapshot
    is_decided: threading.Event = field(default_factory=threading.Event)
    """Set when it stands in S3, and when it is known that it will not."""
    is_over: threading.Event = field(default_factory=threading.Event)
    """Set when nothing more will happen: older ones are removed too."""


class CheckpointSaver:
    """Saves the training of one run.

    Args:
        places: Where checkpoints stand.
        plan: How often, and how many are kept.
        tell: Hears, in another thread, of each checkpoint that stands whole in S3, and how many seconds
            a pod needs from SIGTERM on.
        image: The image of this pod, for the manifest.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        places: CheckpointPlaces,
        *,
        plan: PlannedCheckpoints,
        tell: Callable[[SavedCheckpoint, int], None],
        image: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places
        self._plan = plan
        self._tell = tell
        self._image = image
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: _Save | None = None
        self._last_at = clock()
        self._last_step = 0
        self.newest: SavedCheckpoint | None = None
        """The newest checkpoint in S3, whichever pod wrote it."""
        self.notes: Mapping[str, Any] = {}
        """What the pipeline wants to know again in a later pod."""
        self.costs = Costs()

    def find_newest(self, find_mismatch: Callable[[Snapshot], str | None]) -> Snapshot | None:
        """Return what to go on from, and count from there.

        Raises:
            ServiceUnavailable: The store does not answer.
        """
        snapshot = self._places.find_newest(find_mismatch)
        if snapshot is not None:
            self._last_step = snapshot.step
            self.notes = snapshot.notes
            self.costs.saved = int(snapshot.notes.get("checkpoints", 0))
            self.costs.waited = float(snapshot.notes.get("waited", 0.0))
            self.newest = self._places.describe(snapshot.step)
        self._last_at = self._clock()
        return snapshot

    def offer(self, step: int, capture: Capture) -> None:
        """Begin a checkpoint after `step` steps where one is due and none is under way."""
        # One at a time, which also frees the memory of the last snapshot for this one.
        if self._is_due(step) and (self._under_way is None or self._under_way.is_over.is_set()):
            self._begin(capture, reuse=True)

    def keep_last(self, step: int, capture: Capture, *, within_s: float | None) -> int | None:
        """Save before the pod goes.

        Args:
            step: Steps done.
            capture: Takes the snapshot.
            within_s: Seconds that are left; None waits as long as it takes.

        Returns:
            The step of the newest checkpoint in S3, or None where there is none.
        """
        if not self._has(step):
            started = self._clock()
            if (under_way := self._under_way) is not None and under_way.snapshot.step == step:
                # Half of it may be there already; a second one would begin from nothing.
                under_way.is_decided.wait(within_s)
            left = within_s if within_s is None else within_s - (self._clock() - started)
            if not self._has(step) and (left is None or left > 0):
                # NB: beside one that may still be under way, whose upload may hang.
                self._begin(capture).is_decided.wait(left)
            if not self._has(step):
                log.warning("The last checkpoint did not come to S3", extra={"step": step})
        return None if self.newest is None else self.newest.step

    def keep_local(self, capture: Capture) -> None:
        """Write a checkpoint to the disk alone, where S3 does not answer: the disk may outlive the pod."""
        try:
            self._write(self._take(capture))
        except OSError as fault:
            log.warning("The training could not be kept on the disk", extra={"fault": str(fault)})

    def note_step(self, seconds: float) -> None:
        """Remember how long a step took: a pod that is asked to go finishes one."""
        self.costs.longest_step = max(self.costs.longest_step, seconds)

    def wait(self, within_s: float | None) -> None:
        """Let the checkpoint that is under way come to its end."""
        if self._under_way is not None:
            self._under_way.is_over.wait(within_s)

    @property
    def reserve_s(self) -> float | None:
        """Seconds that a checkpoint needs, as measured; None before the first."""
        return GRACE_MARGIN * self.costs.longest_save if self.costs.longest_save else None

    def reserve_for(self, step: int) -> float | None:
        """Return the seconds that `keep_last` needs after so many steps: none where S3 has them all."""
        return 0.0 if self._has(step) else self.reserve_s

    def _has(self, step: int) -> bool:
        """Whether so many steps are safe in S3."""
        return self.newest is not None and self.newest.step >= step

    def _is_due(self, step: int) -> bool:
        plan = self._plan
        by_steps = plan.every_steps is not None and step - self._last_step >= plan.every_steps
        by_time = (
            plan.every_seconds is not None and self._clock() - self._last_at >= plan.every_seconds
        )
        return by_steps or by_time

    def _take(self, capture: Capture, *, reuse: bool = False) -> Snapshot:
        started = self._clock()
        snapshot = capture(reuse=reuse)
        self.costs.waited += self._clock() - started
        notes = {**self.notes, "checkpoints": self.costs.saved + 1, "waited": self.costs.waited}
        return snapshot.with_notes(notes)

    def _begin(self, capture: Capture, *, reuse: bool = False) -> _Save:
        started = self._clock()
        save = _Save(self._take(capture, reuse=reuse))
        self._under_way = save
        self._last_at, self._last_step = started, save.snapshot.step
        # A daemon: an upload that hangs must not hold a pod that is being terminated.
        threading.Thread(
            target=self._save, args=(save, started), name="checkpoint", daemon=True
        ).start()
        return save

    def _save(self, save: _Save, started: float) -> None:
        step = save.snapshot.step
        try:
            self._bring(save.snapshot, started=started)
            save.is_decided.set()
            self._places.prune(newest=step, keep=self._plan.keep)
        except (TrainerError, OSError) as fault:
            log.warning(
                "Older checkpoints could not be removed; the next one tries again"
                if save.is_decided.is_set()
                else "A checkpoint failed; the training goes on and the next one tries again",
                extra={"step": step, "fault": str(fault)},
            )
        finally:
            save.is_decided.set()
            save.is_over.set()

    def _bring(self, snapshot: Snapshot, *, started: float) -> None:
        saved = self._places.upload(self._write(snapshot))
        seconds = self._clock() - started
        with self._lock:
            self.costs.saved += 1
            self.costs.longest_save = max(self.costs.longest_save, seconds)
            if self.newest is None or self.newest.step < saved.step:
                self.newest = saved
        log.info(
            "A checkpoint is whole",
            extra={"step": saved.step, "uri": saved.uri, "seconds": round(seconds, 3)},
        )
        self._tell(saved, self.costs.grace_needed)

    def _write(self, snapshot: Snapshot) -> CheckpointManifest:
        places = self._places
        places.local.mkdir(parents=True, exist_ok=True)
        return write_snapshot(
            snapshot,
            places.local,
            origin=places.origin,
            image=self._image,
            now=datetime.now(UTC),
        )
