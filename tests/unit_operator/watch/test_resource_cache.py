"""The cache of resources: what each event means to the queue, and what a sweep finds."""

from typing import Any

import pytest

from finetune_operator.watch.resource_cache import ResourceCache
from finetune_operator.watch.store import Key
from finetune_operator.watch.work_queue import WorkQueue
from tests.unit_operator.fake_api import FakeApi, build_object

KEY = Key("ml", "sw")


def resource(*, version: int, generation: int = 1, **more: Any) -> dict[str, Any]:
    raw = build_object("sw", version=version)
    raw["metadata"] |= {"generation": generation, "managedFields": [{"manager": "x"}]}
    return {**raw, **more}


@pytest.fixture
def queue() -> WorkQueue[Key]:
    return WorkQueue(clock=lambda: 0.0)


@pytest.fixture
def cache(api: FakeApi, queue: WorkQueue[Key]) -> ResourceCache:
    return ResourceCache(client=api.client(), queue=queue, namespaces=(None,))


def next_key(queue: WorkQueue[Key]) -> Key | None:
    taken = queue.keys.pop(now=0.0)
    if taken is None:
        return None
    queue.keys.done(taken.key, now=0.0)
    return taken.key


def test_what_is_kept_is_the_object_without_its_managed_fields(cache: ResourceCache) -> None:
    cache.ingest("ADDED", resource(version=1, spec={"a": "ü"}))
    kept = cache.get(KEY)
    assert kept is not None
    assert kept["spec"] == {"a": "ü"}
    assert "managedFields" not in kept["metadata"]


def test_an_event_that_tells_nothing_new_enqueues_nothing(
    cache: ResourceCache, queue: WorkQueue[Key]
) -> None:
    cache.ingest("", resource(version=5))
    assert next_key(queue) == KEY
    cache.ingest("", resource(version=5))
    cache.ingest("MODIFIED", resource(version=4))
    assert next_key(queue) is None


@pytest.mark.parametrize(
    ("generation", "passes"), [(2, True), (1, False)], ids=["spec", "status only"]
)
def test_a_changed_spec_passes_a_waiting_child_and_a_changed_status_does_not(
    cache: ResourceCache, queue: WorkQueue[Key], generation: int, passes: bool
) -> None:
    cache.ingest("ADDED", resource(version=1))
    next_key(queue)
    queue.add(Key("ml", "child"), priority=-10)
    cache.ingest("MODIFIED", resource(version=2, generation=generation))
    assert (next_key(queue) == KEY) is passes


def test_our_own_write_is_no_news(cache: ResourceCache, queue: WorkQueue[Key]) -> None:
    cache.ingest("ADDED", resource(version=1))
    next_key(queue)
    cache.remember(resource(version=2, status={"phase": "x"}))
    cache.ingest("MODIFIED", resource(version=2, status={"phase": "x"}))
    assert next_key(queue) is None


def test_our_own_write_does_not_bring_back_what_was_deleted(cache: ResourceCache) -> None:
    cache.ingest("ADDED", resource(version=1))
    cache.ingest("DELETED", resource(version=3))
    cache.remember(resource(version=2))
    assert cache.get(KEY) is None


async def test_a_sweep_finds_what_was_deleted_in_a_gap(
    api: FakeApi, cache: ResourceCache, queue: WorkQueue[Key]
) -> None:
    cache.ingest("ADDED", resource(version=1))
    next_key(queue)
    api.version = 9
    await cache.sweep()
    assert cache.get(KEY) is None
    assert next_key(queue) == KEY


async def test_a_sweep_finds_what_changed_in_a_gap(
    api: FakeApi, cache: ResourceCache, queue: WorkQueue[Key]
) -> None:
    cache.ingest("ADDED", resource(version=1))
    next_key(queue)
    api.items = [resource(version=7)]
    api.version = 9
    api.answer(200, resource(version=7, spec={"changed": True}))
    await cache.sweep()
    kept = cache.get(KEY)
    assert kept is not None
    assert kept["spec"] == {"changed": True}
    assert next_key(queue) == KEY


async def test_a_sweep_that_finds_nothing_asks_for_no_object(
    api: FakeApi, cache: ResourceCache
) -> None:
    cache.ingest("ADDED", resource(version=7))
    api.items = [resource(version=7)]
    api.version = 9
    await cache.sweep()
    assert api.requests == []
