"""The way to S3: every file verified, the manifest last, the pointer after it.

After `export`, and at the very start, when a finished manifest of the same plan means that there is
nothing to do. A reader trusts only what a manifest lists, so a crash at any point leaves either the
old state or the new one.

    runs/<run>-<plan8>/…files…  →  HEAD or read back  →  manifest.json  →  read back  →  latest.json
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api import wire
from finetune_api.outcome import (
    PUBLISHED_AT_DEADLINE,
    CorpusLanguage,
    Evaluation,
    Published,
    RunSummary,
)
from finetune_api.plan import TrainingPlan
from finetune_trainer.errors import OutputUnwritable, PlanInvalid, ServiceUnavailable
from finetune_trainer.publish.run_record import RunRecord
from finetune_trainer.storage.manifest_parts import ManifestDataset, ManifestFile, ManifestPart
from finetune_trainer.storage.object_store import ObjectStore
from finetune_trainer.storage.s3_location import S3Location
from finetune_trainer.storage.s3_transfer import VerifiedFile, holds, upload

MANIFEST_SCHEMA = 1
REQUIRED = frozenset({wire.ADAPTER_FILE, wire.ADAPTER_CONFIG_FILE})
"""Without these there is no adapter, whatever a manifest says."""
MOST_URI_BYTES = 975
"""Of a run's folder: S3 keys end at 1024 bytes; a step and the longest file name are still to come."""
MANIFEST_KEY = re.compile(
    rf"/runs/[0-9]+-(?P<plan>[0-9a-f]{{8}})(-step-(?P<step>[0-9]+))?/{re.escape(wire.MANIFEST_FILE)}"
)
"""Ends the key of a run's manifest; one that its deadline ended has its last step in it."""

log = logging.getLogger(__name__)


class AdapterManifest(ManifestPart):
    """What one finished run published; written last and the only thing a reader trusts."""

    schema_version: int = MANIFEST_SCHEMA
    plan_hash: str
    namespace: str
    name: str
    run: int
    reason: str = "Done"
    """How the run came to publish: `Done`, or `PublishedAtDeadline` before its last step."""
    model: str
    """URI of the base model."""
    model_revision: str
    datasets: tuple[ManifestDataset, ...]
    files: tuple[ManifestFile, ...]
    corpus: tuple[CorpusLanguage, ...]
    evaluation: Evaluation | None = None
    summary: RunSummary
    environment: dict[str, Any]
    """Versions, image and device."""
    created_at: str

    def to_bytes(self) -> bytes:
        """Return the manifest as it is stored."""
        return (self.model_dump_json(by_alias=True, indent=2) + "\n").encode()


class Pointer(ManifestPart):
    """Which run is the newest; `latest.json`."""

    schema_version: int = MANIFEST_SCHEMA
    run: int
    manifest: str
    """Key of the manifest, below the folder of the pointer."""
    manifest_sha256: str
    plan_hash: str


@dataclass(frozen=True)
class OutputPlace:
    """Where the resource's adapters go."""

    root: S3Location
    """`<output.uri>/<namespace>/<name>`."""
    run_folder: str
    """`runs/<run>-<plan8>`."""

    @classmethod
    def of(cls, plan: TrainingPlan, output: S3Location) -> "OutputPlace":
        """Return the place of one plan's run below `output.uri`.

        Raises:
            PlanInvalid: Its keys would be longer than S3 allows.
        """
        who = plan.identity
        below = wire.run_prefix(who.namespace, who.name, who.run, plan.hash)
        root, _, run = below.rpartition("/runs/")
        place = cls(root=output.join(root), run_folder=f"runs/{run}")
        length = len(place.folder.uri.encode())
        if length > MOST_URI_BYTES:
            raise PlanInvalid(
                f"The folder of this run below output.uri has an address of {length} bytes: expected"
                f" at most {MOST_URI_BYTES}, because S3 keys end at 1024; shorten output.uri and apply"
                " again.",
                reason="UriTooLong",
            )
        return place

    def cut_short(self, step: int) -> "OutputPlace":
        """Return the place of a run that its deadline ended: never in the way of the whole one."""
        return replace(self, run_folder=wire.cut_short_folder(self.run_folder, step))

    @property
    def folder(self) -> S3Location:
        """The folder of this run."""
        return self.root.join(self.run_folder)


@dataclass(frozen=True)
class Finished:
    """A run that was published, whole."""

    published: Published
    manifest: AdapterManifest


def find_finished(
    store: ObjectStore, place: OutputPlace, plan: TrainingPlan, *, deadline_s: int | None = None
) -> Finished | None:
    """Return what an earlier run of the same plan published whole, or None.

    The run may have had another number: a resource that is created again counts from 1. Its files are
    compared with the manifest: what was changed or lost since does not count.

    Args:
        store: Where to look.
        place: The place of this run.
        plan: What is trained.
        deadline_s: The deadline of a run that publishes what it has then; what such a run of no
            shorter a deadline published counts for it. None: only whole runs do.
    """
    runs = place.root.join("runs/")
    keys = (stored.location.key for stored in store.list(runs))
    for key in _in_order(keys, plan_hash=plan.hash):
        location = S3Location(runs.bucket, key)
        read = store.read(location)
        manifest = _parse(read[0]) if read else None
        if read is None or manifest is None or manifest.plan_hash != plan.hash:
            continue
        if not _counts(manifest, deadline_s=deadline_s):
            continue
        folder = S3Location(runs.bucket, key.removesuffix(wire.MANIFEST_FILE))
        if _is_whole(store, folder, manifest):
            content = read[0]
            _point_at(store, place, manifest, content=content, key=location.key)
            published = _describe(location, manifest, content=content, already_there=True)
            return Finished(published, manifest)
    return None


def _in_order(keys: Iterable[str], *, plan_hash: str) -> list[str]:
    """Return the keys of the plan's manifests: whole runs first, then those that came farthest."""
    found: list[tuple[int, str]] = []
    for key in keys:
        match = MANIFEST_KEY.search(key)
        if match is not None and match.end() == len(key) and match["plan"] == plan_hash[:8]:
            found.append((-int(match["step"]) if match["step"] else -(10**12), key))
    return [key for _, key in sorted(found)]


def _counts(manifest: AdapterManifest, *, deadline_s: int | None) -> bool:
    ended_at = manifest.summary.deadline_seconds
    return ended_at is None or (deadline_s is not None and ended_at >= deadline_s)


def publish(
    store: ObjectStore, place: OutputPlace, account: RunRecord, *, files: Sequence[Path]
) -> Published:
    """Upload the files of one folder and make them count.

    The caller has seen that no finished run of this plan is there (`find_finished`).

    Raises:
        ServiceUnavailable: The store did not answer within the waits.
        OutputUnwritable: The store does not keep what it is given.
    """
    location = place.folder.join(wire.MANIFEST_FILE)
    # What is left of an attempt that broke off: it would list what is about to change.
    store.delete([location])
    uploaded = [upload(store, path, place.folder.join(path.name)) for path in files]
    manifest = build_manifest(account, uploaded, created_at=datetime.now(UTC))
    content = manifest.to_bytes()
    store.put(location, content, content_type="application/json")
    _check_read_back(store, location, content)
    config = next(path for path in files if path.name == wire.ADAPTER_CONFIG_FILE)
    _check_read_back(store, place.folder.join(config.name), config.read_bytes())
    _point_at(store, place, manifest, content=content, key=location.key)
    log.info("The adapter is published", extra={"uri": place.folder.uri, "files": len(files)})
    return _describe(location, manifest, content=content, already_there=False)


def build_manifest(
    account: RunRecord, uploaded: Sequence[VerifiedFile], *, created_at: datetime
) -> AdapterManifest:
    """Return the manifest of what was uploaded."""
    who = account.plan.identity
    return AdapterManifest(
        plan_hash=account.plan.hash,
        namespace=who.namespace,
        name=who.name,
        run=who.run,
        reason="Done" if account.summary.deadline_seconds is None else PUBLISHED_AT_DEADLINE,
        model=account.plan.model.uri,
        model_revision=account.model_revision,
        datasets=tuple(
            ManifestDataset(tag=each.tag, uri=each.uri, revision=each.revision, sha256=each.sha256)
            for each in account.datasets
        ),
        files=tuple(
            ManifestFile(path=file.path.name, sha256=file.sha256, bytes=file.size, etag=file.etag)
            for file in uploaded
        ),
        corpus=account.corpus,
        evaluation=account.evaluation,
        summary=account.summary,
        environment=dict(account.environment),
        created_at=created_at.isoformat(timespec="seconds"),
    )


def _is_whole(store: ObjectStore, folder: S3Location, manifest: AdapterManifest) -> bool:
    if not {file.path for file in manifest.files} >= REQUIRED:
        return False
    return all(
        # Published files lie flat; another path is none of ours and nothing to ask a store for.
        "/" not in file.path
        and holds(
            store,
            folder.join(file.path),
            size=file.bytes,
            sha256=file.sha256,
            etag=file.etag,
        )
        for file in manifest.files
    )


def _point_at(
    store: ObjectStore, place: OutputPlace, manifest: AdapterManifest, *, content: bytes, key: str
) -> None:
    """Write `latest.json`: the newest word of this resource counts, whatever its run's number.

    Somebody else may write at the same time, so each attempt looks first.
    """
    location = place.root.join(wire.POINTER_FILE)
    pointer = Pointer(
        run=manifest.run,
        manifest=key.removeprefix(f"{place.root.key.rstrip('/')}/"),
        manifest_sha256=hashlib.sha256(content).hexdigest(),
        plan_hash=manifest.plan_hash,
    )
    wanted = (pointer.model_dump_json(by_alias=True, indent=2) + "\n").encode()
    backoff = store.backoff.begin()
    while True:
        read = store.read(location)
        if read is not None and read[0] == wanted:
            return
        if store.put_if(location, wanted, etag=read[1] if read else None) is not None:
            return
        wait = next(backoff, None)
        if wait is None:
            raise ServiceUnavailable(
                f"{location.uri} is written by somebody else again and again; the run is tried again."
            )
        store.backoff.sleep(wait)


def _check_read_back(store: ObjectStore, location: S3Location, content: bytes) -> None:
    read = store.read(location)
    if read is None or read[0] != content:
        raise OutputUnwritable(
            f"{location.uri} reads differently from what was written: the store does not keep what it"
            " is given; check the store and its proxies, or choose another output.uri.",
            reason="UploadCorrupted",
        )


def _parse(content: bytes) -> AdapterManifest | None:
    try:
        return AdapterManifest.model_validate_json(content)
    except ValidationError:
        return None


def _describe(
    location: S3Location, manifest: AdapterManifest, *, content: bytes, already_there: bool
) -> Published:
    return Published(
        uri=location.uri.removesuffix(wire.MANIFEST_FILE),
        manifest_sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=sum(file.bytes for file in manifest.files),
        files=len(manifest.files),
        already_there=already_there,
    )
