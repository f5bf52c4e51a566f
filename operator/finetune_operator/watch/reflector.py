"""Jobs and Pods as the API server has them: lists in pages, watches, and misses no deletion.

kopf loses what is deleted while a watch is broken and gives a child's event to the child alone;
so the children come through here. Each object is projected as it arrives into a `Store`, and each
change is passed to one callback, which enqueues the owner. Nothing is decided and nothing is written.

    list in pages ─► watch from there ─► bookmark, event, event … ─► end of stream ─► watch again
         ▲                                                    410 Gone │
         └────── what the new list lacks was deleted in the gap ◄──────┘
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import structlog

from finetune_operator.cluster.client import Page
from finetune_operator.cluster.kinds import Kind
from finetune_operator.cluster.rate_limit import spread
from finetune_operator.errors import ClusterError, GoneError
from finetune_operator.raw_object import RawObject
from finetune_operator.watch.store import Change, Entry, Store

T = TypeVar("T")

RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses after each broken list or watch in a row; 5 s is short enough to be back soon after an
outage and long enough not to add to it."""
SHORTEST_WATCH_S = 1.0
"""A watch that ends sooner counts as broken: a proxy that closes each at once would be asked as fast
as it answers. The API server's own end comes after minutes."""


class ListerWatcher(Protocol):
    """What the reflector needs of the API server."""

    def list_pages(
        self, kind: Kind, *, namespace: str | None = None, label_selector: str = ""
    ) -> AsyncIterator[Page]:
        """Yield all objects, a page at a time."""

    def watch(
        self, kind: Kind, *, namespace: str | None, resource_version: str, label_selector: str = ""
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield what happens after `resource_version`."""


class Reflector(Generic[T]):
    """Follows the objects of one kind.

    Args:
        lister: lists and watches.
        kind: what to follow.
        namespaces: where; (None,) is everywhere.
        label_selector: which.
        project: makes the value that is kept of a raw object.
        on_change: is called with each change, made-up deletions included.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        lister: ListerWatcher,
        kind: Kind,
        namespaces: Sequence[str | None] = (None,),
        label_selector: str = "",
        project: Callable[[RawObject], T],
        on_change: Callable[[Change, Entry[T]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store: Store[T] = Store(project)
        self.synced = asyncio.Event()
        """Set once every namespace was listed."""
        self._lister = lister
        self._kind = kind
        self._namespaces = tuple(namespaces)
        self._label_selector = label_selector
        self._on_change = on_change
        self._clock = clock
        self._last_event_at: dict[str | None, float] = {}
        self._last_activity_at: dict[str | None, float] = {}
        self._position: dict[str | None, int] = {}
        self._log = structlog.get_logger().bind(kind=kind.kind)

    async def run(self) -> None:
        """Follow for ever."""
        self._last_event_at = dict.fromkeys(self._namespaces, self._clock())
        self._last_activity_at = dict(self._last_event_at)
        async with asyncio.TaskGroup() as group:
            for namespace in self._namespaces:
                group.create_task(
                    self._follow(namespace), name=f"{self._kind.plural} of {namespace}"
                )

    def seconds_since_event(self) -> float:
        """Return the seconds since the quietest watch last said anything, bookmarks included.

        It is 0 until `run`: what has not begun is not silent.
        """
        return self._clock() - min(self._last_event_at.values(), default=self._clock())

    def seconds_since_activity(self) -> float:
        """Return the seconds since the quietest loop last did anything, be it that it failed.

        During an outage of the API server the watches are silent and the loops are not still.
        """
        return self._clock() - min(self._last_activity_at.values(), default=self._clock())

    def remember(self, raw: RawObject) -> None:
        """Keep what the API server returned for our own write, unless the watch is past it.

        A watch that is past it has reported the object already, and perhaps its deletion.
        """
        namespace = raw["metadata"].get("namespace", "")
        at = self._position.get(namespace, self._position.get(None, 0))
        if int(raw["metadata"]["resourceVersion"]) > at:
            self.store.put(raw)

    async def _follow(self, namespace: str | None) -> None:
        cursor = ""
        failures = 0
        while True:
            try:
                if not cursor:
                    cursor = await self._list(namespace)
                opened_at = self._clock()
                cursor = await self._watch(namespace, cursor)
                is_short = self._clock() - opened_at < SHORTEST_WATCH_S
                failures = failures + 1 if is_short else 0
            except GoneError:
                self._log.info("The watch is too old; listing again.", namespace=namespace)
                cursor = ""
                failures += 1
            except ClusterError as error:
                # The cursor stands in _position: a broken watch goes on where it broke.
                cursor = str(self._position[namespace]) if cursor else ""
                failures += 1
                self._log.warning("Following failed.", namespace=namespace, error=str(error))
            self._last_activity_at[namespace] = self._clock()
            if failures:
                await asyncio.sleep(spread(RETRY_S[min(failures, len(RETRY_S)) - 1]))

    async def _list(self, namespace: str | None) -> str:
        seen: set[str] = set()
        version = ""
        pages = self._lister.list_pages(
            self._kind, namespace=namespace, label_selector=self._label_selector
        )
        async for page in pages:
            version = page.resource_version
            for raw in page.items:
                seen.add(raw["metadata"]["uid"])
                self._put(raw)
        gone = self.store.missing_from(seen, version=int(version), namespace=namespace)
        for entry in gone:
            self._drop(entry.uid)
        self._record_event(namespace, version)
        if len(self._position) == len(self._namespaces):
            self.synced.set()
        return version

    async def _watch(self, namespace: str | None, cursor: str) -> str:
        events = self._lister.watch(
            self._kind,
            namespace=namespace,
            resource_version=cursor,
            label_selector=self._label_selector,
        )
        async for kind_of_event, raw in events:
            if kind_of_event == "DELETED":
                self._drop(raw["metadata"]["uid"])
            elif kind_of_event != "BOOKMARK":
                self._put(raw)
            cursor = raw["metadata"]["resourceVersion"]
            self._record_event(namespace, cursor)
        self._last_event_at[namespace] = self._clock()
        return cursor  # an answer without a single event is an answer

    def _record_event(self, namespace: str | None, version: str) -> None:
        self._last_event_at[namespace] = self._last_activity_at[namespace] = self._clock()
        self._position[namespace] = int(version)

    def _put(self, raw: RawObject) -> None:
        if (changed := self.store.put(raw)) is not None:
            self._on_change(*changed)

    def _drop(self, uid: str) -> None:
        if (entry := self.store.drop(uid)) is not None:
            self._on_change(Change.DELETED, entry)
