"""Apply: carries out what `decide` answered, and nothing else.

Every step may be the last one before the process dies: names are deterministic, an object that
exists and is ours counts as created, and the next decision starts from what the cluster holds.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from finetune_api import wire
from finetune_operator.cluster.client import ApiClient
from finetune_operator.cluster.kinds import EVENTS, FINETUNES, JOBS, Kind, find_kind
from finetune_operator.cluster.status_patch import build_status_patch
from finetune_operator.decide.values.actions import Actions, Delete, Event, Manifest, Patch
from finetune_operator.decide.values.observation import Rejection
from finetune_operator.errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidObjectError,
    NotFoundError,
)
from finetune_operator.raw_object import RawObject

CONTROLLER = f"{wire.GROUP}/{wire.APP_NAME}"
"""Who reports events; the API asks for a qualified name."""
NOTE_LIMIT = 1024
"""Characters of an event's note."""
NAME_ROOM = 200
"""Characters of the resource's name in an event's name, so that the hash fits into 253."""


class NameTakenError(ConflictError):
    """A name that we need belongs to an object of somebody else."""


class PredecessorError(NameTakenError):
    """A name belongs to what a deleted resource of our resource's name left; it goes by itself."""


class Applier:
    """Writes to the cluster.

    Args:
        client: the API server.
        remember_job: is given each Job as stored, so that the next look sees it.
        remember_resource: is given each resource as stored.
        identity: name of this replica, for events.
        now: the present time.
    """

    def __init__(
        self,
        *,
        client: ApiClient,
        remember_job: Callable[[RawObject], object],
        remember_resource: Callable[[RawObject], object],
        identity: str,
        now: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._remember_job = remember_job
        self._remember_resource = remember_resource
        self._identity = identity
        self._now = now
        self._log = structlog.get_logger()

    async def create(self, manifest: Manifest) -> Rejection | None:
        """Create one object, or take it as created where it exists and is ours.

        Returns:
            The API server's refusal, or None.

        Raises:
            NameTakenError: the name belongs to an object of somebody else.
            PredecessorError: it belongs to what a deleted resource of the same name left.
        """
        kind = find_kind(manifest["apiVersion"], manifest["kind"])
        metadata = manifest["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        try:
            stored = await self._client.create(kind, namespace=namespace, manifest=manifest)
            self._log.info("Created.", kind=kind.kind, namespace=namespace, name=name)
        except AlreadyExistsError as error:
            stored = await self._client.get(kind, namespace=namespace, name=name)
            theirs, ours = _controller(stored), _controller(manifest)
            if theirs.get("uid") != ours.get("uid"):
                is_left = all(theirs.get(key) == ours.get(key) for key in ("kind", "name"))
                family = PredecessorError if is_left else NameTakenError
                raise family(str(error), code=error.code) from error
            stored = await self._relabel(kind, stored, manifest)
        except (ForbiddenError, InvalidObjectError) as error:
            return Rejection(kind=kind.kind, name=name, message=error.answer)
        if kind is JOBS:
            self._remember_job(stored)
        return None

    async def _relabel(
        self, kind: Kind, stored: dict[str, Any], manifest: Manifest
    ) -> dict[str, Any]:
        """Give an object of ours its labels back: without them no watch would ever tell of it."""
        metadata = stored["metadata"]
        labels = manifest["metadata"].get("labels") or {}
        if kind is not JOBS or labels.items() <= (metadata.get("labels") or {}).items():
            return stored
        where = {"namespace": metadata["namespace"], "name": metadata["name"]}
        self._log.warning("A Job of ours had lost its labels.", **where)
        patch = {"metadata": {"uid": metadata["uid"], "labels": labels}}
        return await self._client.merge_patch(kind, **where, patch=patch)

    async def apply_rest(self, body: RawObject, actions: Actions) -> None:
        """Write progress and status, then patch, delete and tell; the creates must have succeeded."""
        if actions.progress is not None:
            await self._apply_status(
                body, {"progress": actions.progress}, manager=wire.PROGRESS_FIELD_MANAGER
            )
        if actions.status is not None and needs_write(body, actions.status):
            await self._apply_status(body, actions.status, manager=wire.FIELD_MANAGER)
        for patch in actions.patches:
            await self._patch(patch)
        for delete in actions.deletes:
            await self._delete(delete)
        for event in actions.events:
            await self._post_event(body, event)

    async def _apply_status(
        self, body: RawObject, status: Mapping[str, Any], *, manager: str
    ) -> None:
        manifest = build_status_patch(body, status)
        stored = await self._client.apply_status(
            FINETUNES, manifest=manifest, field_manager=manager
        )
        self._remember_resource(stored)

    async def _patch(self, patch: Patch) -> None:
        where = {"namespace": patch.namespace, "name": patch.name}
        # A uid in the patch keeps a new object of the same name from it.
        body: dict[str, Any] = {"metadata": {"uid": patch.uid}}
        if patch.annotations:
            body["metadata"]["annotations"] = patch.annotations
        if patch.spec:
            body["spec"] = patch.spec
        try:
            stored = await self._client.merge_patch(JOBS, **where, patch=body)
        except (NotFoundError, ConflictError):
            return  # gone, or another's; the next look decides again
        self._remember_job(stored)
        changed = {**patch.spec, **patch.annotations}
        self._log.info("Changed.", kind="Job", **where, changed=changed)

    async def _delete(self, delete: Delete) -> None:
        try:
            await self._client.delete(
                JOBS,
                namespace=delete.namespace,
                name=delete.name,
                uid=delete.uid,
                propagation="Foreground" if delete.keeps_until_stopped else "Background",
            )
        except (NotFoundError, ConflictError):
            return  # gone already; another object of this name is not ours to touch
        self._log.info("Deleted.", kind="Job", namespace=delete.namespace, name=delete.name)

    async def _post_event(self, body: RawObject, event: Event) -> None:
        manifest = build_event(body, event, identity=self._identity, now=self._now())
        namespace = body["metadata"]["namespace"]
        try:
            await self._client.create(EVENTS, namespace=namespace, manifest=manifest)
        except AlreadyExistsError:
            return  # sent before, perhaps by the process before this one
        except ClusterError as error:
            # NB: never retried. The status holds the truth; an event is only its echo.
            self._log.warning("An event was not posted.", reason=event.reason, error=str(error))


def needs_write(body: RawObject, status: Mapping[str, Any]) -> bool:
    """Return whether the resource shows another status than this; progress belongs to somebody else."""
    shown = {key: value for key, value in (body.get("status") or {}).items() if key != "progress"}
    return shown != status


def build_event(body: RawObject, event: Event, *, identity: str, now: datetime) -> dict[str, Any]:
    """Return an event about the resource; the same event of the same generation has the same name."""
    metadata = body["metadata"]
    reported = (
        metadata["uid"],
        metadata.get("generation"),
        event.type,
        event.reason,
        event.message,
    )
    digest = hashlib.sha256(repr(reported).encode()).hexdigest()[:16]
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {
            "namespace": metadata["namespace"],
            "name": f"{metadata['name'][:NAME_ROOM].rstrip('-.')}.{digest}",
        },
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": identity[:128],
        "action": event.reason,
        "reason": event.reason,
        "note": event.message[:NOTE_LIMIT],
        "type": event.type,
        "regarding": {
            "apiVersion": wire.API_VERSION,
            "kind": wire.KIND,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }


def _controller(manifest: RawObject) -> RawObject:
    owners = manifest["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})
