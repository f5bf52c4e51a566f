"""A snapshot as a folder: safetensors, JSON and a manifest that is written last.

Between `snapshot` and the places where checkpoints stand (`checkpoint_places`). A folder without a
manifest, or whose files are not those that it lists, is no checkpoint. There is no pickle in it.

    step-120/manifest.json               lists the others; names plan, data and model
    step-120/<writer>/…                  two pods that write the same step never share a file
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from finetune_api import wire
from finetune_trainer.steps.snapshot import ADAPTER, OPTIMIZER, RANDOM, Snapshot
from finetune_trainer.steps.step_report import METRICS_FILE, StepReport
from finetune_trainer.storage.manifest_parts import ManifestFile, ManifestPart

STATE_FILE = "state.json"
TENSORS = ".safetensors"
REQUIRED = frozenset(
    {STATE_FILE, METRICS_FILE, *(f"{group}{TENSORS}" for group in (ADAPTER, OPTIMIZER, RANDOM))}
)
"""Without these nothing can go on."""
SAFE_PATH = re.compile(r"[0-9a-f]{8}/[a-z]+\.(safetensors|json|jsonl)")
"""What a manifest may list: nothing outside its folder."""
STEP_FOLDER = re.compile(r"step-([0-9]{1,9})")


class CheckpointUnusable(Exception):
    """A checkpoint that is torn, tampered with or another's; an older one may serve."""


@dataclass(frozen=True)
class Origin:
    """What a checkpoint must come from to be resumed by this run."""

    plan_hash: str
    namespace: str
    name: str
    model_revision: str
    """As resolved: an unpinned revision may have moved on since."""
    datasets: tuple[str, ...]
    """Hash over the contents of each."""


class CheckpointManifest(ManifestPart):
    """What one checkpoint holds and what it is of."""

    schema_version: Literal[1] = 1
    plan_hash: str
    namespace: str
    name: str
    model_revision: str
    datasets: tuple[str, ...]
    step: int
    files: tuple[ManifestFile, ...]
    image: str = ""
    """The image that wrote it; another may compute another last digit."""
    created_at: str

    def to_bytes(self) -> bytes:
        """Return the manifest as it is stored."""
        return (self.model_dump_json(by_alias=True, indent=2) + "\n").encode()

    def with_etags(self, etags: Mapping[str, str]) -> "CheckpointManifest":
        """Return the manifest with what the store calls each file."""
        files = tuple(
            file.model_copy(update={"etag": etags.get(file.path, "")}) for file in self.files
        )
        return self.model_copy(update={"files": files})


def folder_name(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step-{step}"


def read_step(name: str) -> int | None:
    """Return the step of a folder's name, or None where it is no checkpoint's."""
    found = STEP_FOLDER.fullmatch(name)
    return int(found[1]) if found else None


def parse_manifest(content: bytes, *, origin: Origin, step: int) -> CheckpointManifest:
    """Return a manifest that may be trusted as far as it lists files.

    Raises:
        CheckpointUnusable: It is cut, of another run, or lists what no checkpoint holds.
    """
    try:
        manifest = CheckpointManifest.model_validate_json(content)
    except ValidationError as fault:
        raise CheckpointUnusable("its manifest cannot be read") from fault
    for field in ("plan_hash", "namespace", "name", "model_revision", "datasets"):
        if getattr(manifest, field) != getattr(origin, field):
            raise CheckpointUnusable(f"it is of another {_WORDS[field]}")
    if manifest.step != step:
        raise CheckpointUnusable(f"its manifest is of step {manifest.step}")
    if not all(SAFE_PATH.fullmatch(file.path) for file in manifest.files):
        raise CheckpointUnusable("its manifest names files that no checkpoint holds")
    if not {Path(file.path).name for file in manifest.files} >= REQUIRED:
        raise CheckpointUnusable("its manifest lacks files")
    return manifest


_WORDS = {
    "plan_hash": "plan",
    "namespace": "namespace",
    "name": "resource",
    "model_revision": "revision of the model",
    "datasets": "state of the text",
}


def write_snapshot(
    snapshot: Snapshot, root: Path, *, origin: Origin, image: str, now: datetime
) -> CheckpointManifest:
    """Write `root/step-N`, whole or not at all, and return its manifest.

    Raises:
        OSError: The disk is full or gone; nothing is left behind.
    """
    writer = secrets.token_hex(4)
    unfinished = root / f".{folder_name(snapshot.step)}-{writer}"
    place = unfinished / writer
    try:
        place.mkdir(parents=True)
        _write_parts(snapshot, place)
        manifest = CheckpointManifest(
            plan_hash=origin.plan_hash,
            namespace=origin.namespace,
            name=origin.name,
            model_revision=origin.model_revision,
            datasets=origin.datasets,
            step=snapshot.step,
            files=tuple(_describe(path, writer=writer) for path in sorted(place.iterdir())),
            image=image,
            created_at=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        )
        _write_durably(unfinished / wire.MANIFEST_FILE, manifest.to_bytes())
        final = root / folder_name(snapshot.step)
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return manifest


def _write_parts(snapshot: Snapshot, place: Path) -> None:
    for group, tensors in snapshot.tensors.items():
        path = place / f"{group}{TENSORS}"
        try:
            save_file(dict(tensors), path)
        except SafetensorError as fault:
            # It has its own error for a full disk.
            raise OSError(f"{path.name} cannot be written: {fault}") from fault
        _flush(path)
    state = {"state": snapshot.state, "notes": snapshot.notes}
    _write_durably(place / STATE_FILE, json.dumps(state).encode())
    lines = "".join(report.to_line() for report in snapshot.history)
    _write_durably(place / METRICS_FILE, lines.encode())


def load_snapshot(folder: Path, manifest: CheckpointManifest) -> Snapshot:
    """Read a folder that holds what its manifest lists.

    Raises:
        CheckpointUnusable: A file is missing, changed, or not what its name says.
    """
    parts = {Path(file.path).name: folder / file.path for file in manifest.files}
    for file in manifest.files:
        check_file(folder / file.path, file)
    try:
        whole = json.loads(parts[STATE_FILE].read_bytes())
        lines = parts[METRICS_FILE].read_text(encoding="utf-8").splitlines()
        return Snapshot(
            step=manifest.step,
            tensors={
                name.removesuffix(TENSORS): load_file(path)
                for name, path in parts.items()
                if name.endswith(TENSORS)
            },
            state=whole["state"],
            history=tuple(StepReport.from_line(line) for line in lines),
            # Version 0.1.0 wrote them as `told`.
            notes=whole["notes"] if "notes" in whole else whole["told"],
        )
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as fault:
        raise CheckpointUnusable(f"its files cannot be read ({type(fault).__name__})") from fault


def check_file(path: Path, listed: ManifestFile) -> None:
    """Compare a file with what a manifest says of it.

    Raises:
        CheckpointUnusable: It is missing or another.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise CheckpointUnusable(f"{path.name} is missing") from fault
    if digest != listed.sha256:
        raise CheckpointUnusable(f"{path.name} was changed or cut")


def list_steps(names: Iterable[str]) -> list[int]:
    """Return the steps of the folders that have these names, newest first."""
    steps = {step for name in names if (step := read_step(name)) is not None}
    return sorted(steps, reverse=True)


def _describe(path: Path, *, writer: str) -> ManifestFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ManifestFile(path=f"{writer}/{path.name}", sha256=digest, bytes=path.stat().st_size)


def _write_durably(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _flush(path)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
