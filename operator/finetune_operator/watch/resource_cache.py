"""The LanguageFinetunes as last seen, and the queue that hears of their changes.

Whatever watches the resources (today kopf, `handlers`) hands each object to `ingest`; `prime` fills
the cache before the first worker starts, and `sweep` finds what a watch missed. Bodies are kept
compressed: ten thousand of them with their statuses as Python dictionaries would take 300 MB.
"""

import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import orjson
import structlog

from finetune_operator.cluster.client import ApiClient
from finetune_operator.cluster.kinds import FINETUNES
from finetune_operator.errors import NotFoundError
from finetune_operator.raw_object import RawObject
from finetune_operator.watch.store import Change, Key, Store
from finetune_operator.watch.work_queue import (
    PRIORITY_CHANGE,
    PRIORITY_PROGRESS,
    PRIORITY_RESYNC,
    WorkQueue,
)

Ingest = Callable[[str, RawObject], None]
"""Takes (type, object) of a watch; the type is ADDED, MODIFIED, DELETED, or empty from a list."""


class ResourceSource(Protocol):
    """Whatever watches LanguageFinetunes for ever and hands each one to `ingest`."""

    def __call__(self, ingest: Ingest) -> Awaitable[None]:
        """Watch until stopped."""


class CompactObject:
    """A raw object in a tenth of its memory."""

    __slots__ = ("_packed", "generation")

    def __init__(self, raw: RawObject) -> None:
        metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
        self.generation: int = metadata.get("generation", 0)
        self._packed = zlib.compress(orjson.dumps({**raw, "metadata": metadata}), level=1)

    def unpack(self) -> dict[str, Any]:
        """Return the raw object, without its managedFields."""
        raw: dict[str, Any] = orjson.loads(zlib.decompress(self._packed))
        return raw


class ResourceCache:
    """All LanguageFinetunes that are served.

    Args:
        client: lists and gets.
        queue: hears of changes.
        namespaces: what is served; (None,) is everything.
    """

    def __init__(
        self, *, client: ApiClient, queue: WorkQueue[Key], namespaces: Sequence[str | None]
    ) -> None:
        self.store: Store[CompactObject] = Store(CompactObject)
        self._client = client
        self._queue = queue
        self._namespaces = tuple(namespaces)

    def get(self, key: Key) -> dict[str, Any] | None:
        """Return a resource, or None where it does not exist."""
        entry = self.store.get_by_name(key)
        return entry.value.unpack() if entry is not None else None

    def ingest(self, type_of_event: str, raw: RawObject) -> None:
        """Take what a watch says and enqueue what it means."""
        if type_of_event == "DELETED":
            self._drop(raw["metadata"]["uid"])
            return
        self._put(raw, priority=None)

    def remember(self, raw: RawObject) -> None:
        """Keep what our own write returned; it is no news to the queue."""
        if self.store.get(raw["metadata"]["uid"]) is not None:
            self.store.put(raw)

    async def prime(self) -> None:
        """List everything once; workers may start after it."""
        for namespace in self._namespaces:
            async for page in self._client.list_pages(FINETUNES, namespace=namespace):
                for raw in page.items:
                    self._put(raw, priority=PRIORITY_RESYNC)

    async def sweep(self) -> None:
        """Compare with a list of names and versions; catch up with what no watch reported."""
        for namespace in self._namespaces:
            await self._sweep_namespace(namespace)

    async def _sweep_namespace(self, namespace: str | None) -> None:
        seen: dict[str, int] = {}
        names: dict[str, Key] = {}
        version = 0
        async for page in self._client.list_pages(
            FINETUNES, namespace=namespace, metadata_only=True
        ):
            version = int(page.resource_version)
            for raw in page.items:
                metadata = raw["metadata"]
                seen[metadata["uid"]] = int(metadata["resourceVersion"])
                names[metadata["uid"]] = Key(metadata["namespace"], metadata["name"])
        for entry in self.store.missing_from(seen, version=version, namespace=namespace):
            structlog.get_logger().info("A missed deletion was found.", resource=entry.name)
            self._drop(entry.uid)
        for uid, newest in seen.items():
            entry_or_none = self.store.get(uid)
            if entry_or_none is None or entry_or_none.version < newest:
                await self._catch_up(names[uid])

    async def _catch_up(self, key: Key) -> None:
        try:
            raw = await self._client.get(FINETUNES, namespace=key.namespace, name=key.name)
        except NotFoundError:
            return  # deleted since the list; its watch event or the next sweep tells
        self._put(raw, priority=PRIORITY_RESYNC)

    def _put(self, raw: RawObject, *, priority: int | None) -> None:
        before = self.store.get(raw["metadata"]["uid"])
        changed = self.store.put(raw)
        if changed is None:
            return
        change, entry = changed
        if priority is None:
            same = before is not None and before.value.generation == entry.value.generation
            is_news = change is Change.ADDED or not same
            priority = PRIORITY_CHANGE if is_news else PRIORITY_PROGRESS
        self._queue.add(Key(entry.namespace, entry.name), priority=priority)

    def _drop(self, uid: str) -> None:
        if (entry := self.store.drop(uid)) is not None:
            self._queue.add(Key(entry.namespace, entry.name))
