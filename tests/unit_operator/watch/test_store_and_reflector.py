"""The reflector: no deletion is lost and no older object replaces a newer one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from finetune_operator.cluster.kinds import JOBS
from finetune_operator.watch.reflector import Reflector
from finetune_operator.watch.store import Change, Entry, Key, Store
from tests.unit_operator.fake_api import FakeApi, Watch, build_object, build_status


def name_of(raw: Mapping[str, Any]) -> str:
    name: str = raw["metadata"]["name"]
    return name


class Seen:
    """What the reflector reported, and waiting for it."""

    def __init__(self) -> None:
        self.changes: list[tuple[Change, str]] = []
        self._more = asyncio.Event()

    def __call__(self, change: Change, entry: Entry[str]) -> None:
        self.changes.append((change, entry.name))
        self._more.set()

    async def wait_for(self, count: int) -> list[tuple[Change, str]]:
        async with asyncio.timeout(5):
            while len(self.changes) < count:
                self._more.clear()
                await self._more.wait()
        return self.changes


@asynccontextmanager
async def following(api: FakeApi) -> AsyncIterator[tuple[Reflector[str], Seen]]:
    seen = Seen()
    reflector = Reflector(lister=api.client(), kind=JOBS, project=name_of, on_change=seen)
    task = asyncio.create_task(reflector.run())
    try:
        await asyncio.wait_for(reflector.synced.wait(), timeout=5)
        yield reflector, seen
    finally:
        task.cancel()
        await asyncio.wait({task})


async def next_watch(api: FakeApi) -> Watch:
    return await asyncio.wait_for(api.watches.get(), timeout=5)


async def test_all_pages_are_listed_before_it_counts_as_synced(api: FakeApi) -> None:
    api.items = [build_object(name, version=1) for name in "abcde"]
    async with following(api) as (reflector, seen):
        assert len(reflector.store) == 5
        assert [name for _, name in seen.changes] == list("abcde")


async def test_the_watch_begins_where_the_list_ended(api: FakeApi) -> None:
    api.version = 42
    async with following(api):
        assert (await next_watch(api)).resource_version == "42"


async def test_events_are_told_with_their_kind(api: FakeApi) -> None:
    async with following(api) as (_, seen):
        watch = await next_watch(api)
        watch.send("ADDED", build_object("a", version=2))
        watch.send("MODIFIED", build_object("a", version=3))
        watch.send("DELETED", build_object("a", version=4))
        assert await seen.wait_for(3) == [
            (Change.ADDED, "a"),
            (Change.MODIFIED, "a"),
            (Change.DELETED, "a"),
        ]


async def test_what_vanished_while_the_watch_was_too_old_is_told_as_deleted(api: FakeApi) -> None:
    api.items = [build_object("a", version=1), build_object("b", version=1)]
    async with following(api) as (reflector, seen):
        api.items = [build_object("b", version=1)]
        api.version = 9
        (await next_watch(api)).send("ERROR", build_status(410, "Expired"))
        assert (await seen.wait_for(3))[-1] == (Change.DELETED, "a")
        assert [entry.name for entry in reflector.store] == ["b"]
        assert (await next_watch(api)).resource_version == "9"


async def test_a_watch_that_ends_goes_on_after_the_last_bookmark(api: FakeApi) -> None:
    async with following(api) as (_, seen):
        watch = await next_watch(api)
        watch.bookmark(77)
        watch.end()
        assert (await next_watch(api)).resource_version == "77"
        assert seen.changes == []


async def test_a_watch_that_breaks_goes_on_where_it_broke(api: FakeApi) -> None:
    async with following(api) as (_, seen):
        watch = await next_watch(api)
        watch.send("ADDED", build_object("a", version=5))
        await seen.wait_for(1)
        watch.send("ERROR", build_status(500, "InternalError"))
        assert (await next_watch(api)).resource_version == "5"


async def test_a_watch_that_ends_at_once_is_not_opened_in_a_hot_loop(api: FakeApi) -> None:
    async with following(api):
        for _ in range(3):
            (await next_watch(api)).end()
        opened = asyncio.create_task(api.watches.get())
        done, _ = await asyncio.wait({opened}, timeout=0.2)
        opened.cancel()
    assert not done


async def test_a_list_tells_only_of_what_changed(api: FakeApi) -> None:
    api.items = [build_object("a", version=1), build_object("b", version=1)]
    async with following(api) as (_, seen):
        api.items = [build_object("a", version=1), build_object("b", version=3)]
        (await next_watch(api)).send("ERROR", build_status(410, "Expired"))
        assert (await seen.wait_for(3))[2:] == [(Change.MODIFIED, "b")]


async def test_our_own_write_is_seen_before_the_watch_tells_of_it(api: FakeApi) -> None:
    async with following(api) as (reflector, seen):
        watch = await next_watch(api)
        reflector.remember(build_object("a", version=5, owner="o"))
        assert [entry.name for entry in reflector.store.owned_by("uid-o")] == ["a"]
        watch.send("ADDED", build_object("a", version=5, owner="o"))
        watch.send("MODIFIED", build_object("a", version=6, owner="o"))
        assert await seen.wait_for(1) == [(Change.MODIFIED, "a")]


async def test_our_own_write_does_not_come_back_once_the_watch_told_of_its_deletion(
    api: FakeApi,
) -> None:
    async with following(api) as (reflector, seen):
        watch = await next_watch(api)
        watch.send("ADDED", build_object("a", version=5))
        watch.send("DELETED", build_object("a", version=6))
        await seen.wait_for(2)
        reflector.remember(build_object("a", version=5))
        assert len(reflector.store) == 0


async def test_an_object_over_128_kilobytes_comes_through(api: FakeApi) -> None:
    async with following(api) as (_, seen):
        watch = await next_watch(api)
        watch.send("ADDED", {**build_object("a", version=5), "data": "x" * 1_000_000})
        assert await seen.wait_for(1) == [(Change.ADDED, "a")]


async def test_a_watch_is_silent_since_its_last_bookmark_and_not_before_it_began(
    api: FakeApi,
) -> None:
    now = 100.0
    reflector = Reflector(
        lister=api.client(), kind=JOBS, project=name_of, on_change=Seen(), clock=lambda: now
    )
    now = 500.0
    assert (reflector.seconds_since_event(), reflector.seconds_since_activity()) == (0.0, 0.0)
    task = asyncio.create_task(reflector.run())
    await asyncio.wait_for(reflector.synced.wait(), timeout=5)
    now = 560.0
    assert (reflector.seconds_since_event(), reflector.seconds_since_activity()) == (60.0, 60.0)
    task.cancel()


async def test_during_an_outage_the_watch_is_silent_and_its_loop_is_not_still(
    api: FakeApi,
) -> None:
    now = 100.0
    reflector = Reflector(
        lister=api.client(), kind=JOBS, project=name_of, on_change=Seen(), clock=lambda: now
    )
    task = asyncio.create_task(reflector.run())
    watch = await next_watch(api)
    now = 400.0
    watch.send("ERROR", build_status(500, "InternalError"))
    await next_watch(api)  # it tried again
    assert (reflector.seconds_since_event(), reflector.seconds_since_activity()) == (300.0, 0.0)
    task.cancel()


def test_an_older_version_never_replaces_a_newer_one() -> None:
    store: Store[str] = Store(lambda raw: str(raw["metadata"]["resourceVersion"]))
    store.put(build_object("a", version=10))
    assert store.put(build_object("a", version=9)) is None
    assert [entry.value for entry in store] == ["10"]


def test_an_object_of_the_same_name_survives_the_deletion_of_its_predecessor() -> None:
    store: Store[str] = Store(name_of)
    old, new = build_object("a", version=1), build_object("a", version=2)
    old["metadata"]["uid"] = "uid-old"
    store.put(old)
    store.put(new)
    store.drop("uid-old")
    entry = store.get_by_name(Key("ml", "a"))
    assert entry is not None
    assert entry.uid == "uid-a"


def test_what_was_made_after_a_list_is_not_missing_from_it() -> None:
    store: Store[str] = Store(name_of)
    store.put(build_object("old", version=5))
    store.put(build_object("new", version=15))
    missing = store.missing_from([], version=10, namespace=None)
    assert [entry.name for entry in missing] == ["old"]
