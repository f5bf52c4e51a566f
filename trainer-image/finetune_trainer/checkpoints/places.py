"""Where checkpoints stand: a folder of this pod, and S3 by the publish protocol.

Between `checkpoint_files`, which knows what a checkpoint is, and `checkpoints`, which knows when. In S3
every file is verified before the manifest is written, and only what a manifest lists is ever read.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from finetune_api import wire
from finetune_api.checkpoint import SavedCheckpoint
from finetune_api.plan import TrainingPlan
from finetune_trainer.checkpoints.files import (
    CheckpointManifest,
    CheckpointUnusable,
    Origin,
    check_file,
    folder_name,
    list_steps,
    load_snapshot,
    parse_manifest,
)
from finetune_trainer.errors import DataInvalid, NotFound, OutputUnwritable
from finetune_trainer.steps.snapshot import Snapshot
from finetune_trainer.storage.object_store import ObjectStore
from finetune_trainer.storage.s3_location import S3Location
from finetune_trainer.storage.s3_transfer import download, upload

FOLDER = "checkpoints"
"""Of the pod's scratch space."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointPlaces:
    """The two places of one plan's checkpoints."""

    store: ObjectStore
    remote: S3Location
    """Folder of the plan's checkpoints in S3."""
    local: Path
    """The same on the disk of this pod; a later pod may find it where the disk outlives a pod."""
    origin: Origin

    @classmethod
    def of(
        cls,
        plan: TrainingPlan,
        *,
        store: ObjectStore,
        output: S3Location,
        work: Path,
        origin: Origin,
    ) -> "CheckpointPlaces":
        """Return the places of one plan, below the output in S3 and below `work` on the disk."""
        who = plan.identity
        below = wire.checkpoints_prefix(who.namespace, who.name, plan.hash)
        return cls(store, output.join(below), work / FOLDER / plan.hash, origin)

    def remote_folder(self, step: int) -> S3Location:
        """Return the folder of one checkpoint in S3."""
        return self.remote.join(folder_name(step))

    # --- Reading --------------------------------------------------------------------------------

    def find_newest(self, find_mismatch: Callable[[Snapshot], str | None]) -> Snapshot | None:
        """Return the newest checkpoint that is whole and of this run; older ones stand in for bad ones.

        Args:
            find_mismatch: Says why a snapshot cannot be resumed, None meaning that it can.

        Raises:
            ServiceUnavailable: The store does not answer; starting again would waste what it holds.
        """
        for step, where, load in self._candidates():
            try:
                snapshot = load(step)
            except CheckpointUnusable as fault:
                why: str | None = str(fault)
            else:
                why = find_mismatch(snapshot)
                if why is None:
                    return snapshot
            log.warning(
                "A checkpoint is passed over", extra={"step": step, "where": where, "why": why}
            )
        return None

    def _candidates(self) -> Iterator[tuple[int, str, Callable[[int], Snapshot]]]:
        """Yield checkpoints, newest first; of one step the one on the disk, which costs nothing."""
        here, there = self._list_local(), self._list_remote()
        for step in sorted({*here, *there}, reverse=True):
            if step in here:
                yield step, "this pod", self._load_local
            if step in there:
                yield step, self.remote_folder(step).uri, self._load_remote

    def _list_local(self) -> list[int]:
        return list_steps(path.name for path in self.local.glob("step-*"))

    def _list_remote(self) -> list[int]:
        """Return the steps in S3 that have a manifest, newest first."""
        keys = (each.key.removeprefix(self._prefix) for each in self._list_keys())
        ending = f"/{wire.MANIFEST_FILE}"
        return list_steps(key.removesuffix(ending) for key in keys if key.endswith(ending))

    def _list_keys(self) -> Iterator[S3Location]:
        below = S3Location(self.remote.bucket, self._prefix)
        return (each.location for each in self.store.list(below))

    @property
    def _prefix(self) -> str:
        return f"{self.remote.key}/"

    def _load_local(self, step: int) -> Snapshot:
        folder = self.local / folder_name(step)
        try:
            content = (folder / wire.MANIFEST_FILE).read_bytes()
        except OSError as fault:
            raise CheckpointUnusable("its manifest is missing") from fault
        return load_snapshot(folder, parse_manifest(content, origin=self.origin, step=step))

    def _load_remote(self, step: int) -> Snapshot:
        """Fetch one checkpoint into the local folder and read it."""
        place, folder = self.remote_folder(step), self.local / f".fetched-{step}"
        read = self.store.read(place.join(wire.MANIFEST_FILE))
        if read is None:
            raise CheckpointUnusable("its manifest is gone")
        manifest = parse_manifest(read[0], origin=self.origin, step=step)
        try:
            for file in manifest.files:
                download(self.store, place.join(file.path), folder / file.path)
                check_file(folder / file.path, file)
            return load_snapshot(folder, manifest)
        except (NotFound, DataInvalid) as fault:
            raise CheckpointUnusable(fault.message) from fault
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def describe(self, step: int) -> SavedCheckpoint | None:
        """Return where a checkpoint stands in S3, or None where it stands on the disk alone."""
        place = self.remote_folder(step)
        read = self.store.read(place.join(wire.MANIFEST_FILE))
        if read is None:
            return None
        try:
            manifest = parse_manifest(read[0], origin=self.origin, step=step)
        except CheckpointUnusable:
            return None
        return SavedCheckpoint(step=step, uri=f"{place.uri}/", time=manifest.created_at)

    # --- Writing --------------------------------------------------------------------------------

    def upload(self, manifest: CheckpointManifest) -> SavedCheckpoint:
        """Bring a checkpoint of the disk to S3: files, verified, then the manifest, read back.

        Raises:
            ServiceUnavailable: The store does not answer.
            OutputUnwritable: The store does not keep what it is given.
        """
        here = self.local / folder_name(manifest.step)
        place = self.remote_folder(manifest.step)
        etags = {
            file.path: upload(self.store, here / file.path, place.join(file.path)).etag
            for file in manifest.files
        }
        content = manifest.with_etags(etags).to_bytes()
        location = place.join(wire.MANIFEST_FILE)
        self.store.put(location, content, content_type="application/json")
        read = self.store.read(location)
        if read is None or read[0] != content:
            raise OutputUnwritable(
                f"{location.uri} reads differently from what was written: the store does not keep what"
                " it is given; check the store and its proxies, or choose another output.uri.",
                reason="UploadCorrupted",
            )
        return SavedCheckpoint(step=manifest.step, uri=f"{place.uri}/", time=manifest.created_at)

    def prune(self, *, newest: int, keep: int) -> None:
        """Leave the newest `keep` whole checkpoints of this run in S3, and the newest one on the disk.

        They are counted from step `newest` down, which was just written: what stands above it was
        passed over, such as those of a text that has changed since, and must not push out what is
        resumed from. What is older than the oldest of them goes, whole or torn; the manifest first,
        so that nothing half deleted looks whole.
        """
        own = (step for step in self._list_remote() if step <= newest and self.describe(step))
        kept = list(islice(own, keep))
        if len(kept) == keep:
            oldest = kept[-1]
            stale = [
                each
                for each in self._list_keys()
                if (steps := list_steps([each.key.removeprefix(self._prefix).partition("/")[0]]))
                and steps[0] < oldest
            ]
            self.store.delete(
                sorted(stale, key=lambda each: not each.key.endswith(f"/{wire.MANIFEST_FILE}"))
            )
        for step in self._list_local():
            if step < newest:
                shutil.rmtree(self.local / folder_name(step), ignore_errors=True)
