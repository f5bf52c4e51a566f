"""The queue: no key is forgotten, none is in two workers, none waits for ever."""

import asyncio

import pytest

from finetune_operator.watch.work_queue import (
    PRIORITY_CHANGE,
    PRIORITY_PROGRESS,
    PRIORITY_RESYNC,
    KeyQueue,
    WorkQueue,
)


@pytest.fixture
def queue() -> KeyQueue[str]:
    # Jitter in the middle is no deviation.
    return KeyQueue(jitter=lambda: 0.5, background_limit=100)


def pop(queue: KeyQueue[str], *, now: float) -> str | None:
    taken = queue.pop(now=now)
    return taken.key if taken is not None else None


def test_a_key_added_twice_is_taken_once(queue: KeyQueue[str]) -> None:
    queue.add("a", now=0)
    queue.add("a", now=1)
    assert [pop(queue, now=2), pop(queue, now=2)] == ["a", None]


def test_a_key_in_a_worker_is_given_to_no_other_and_comes_back_when_it_is_done(
    queue: KeyQueue[str],
) -> None:
    queue.add("a", now=0)
    assert pop(queue, now=0) == "a"
    queue.add("a", now=1)
    assert pop(queue, now=1) is None
    queue.done("a", now=2)
    assert pop(queue, now=2) == "a"


def test_a_key_that_nobody_added_again_does_not_come_back(queue: KeyQueue[str]) -> None:
    queue.add("a", now=0)
    pop(queue, now=0)
    queue.done("a", now=1)
    assert pop(queue, now=1) is None


def test_a_new_resource_passes_ten_thousand_of_a_resync(queue: KeyQueue[str]) -> None:
    for number in range(10_000):
        queue.add(f"old-{number}", now=0, priority=PRIORITY_RESYNC)
    queue.add("new", now=5, priority=PRIORITY_CHANGE)
    assert pop(queue, now=5) == "new"


def test_a_resync_waits_for_changes_for_a_hundred_seconds_at_most(queue: KeyQueue[str]) -> None:
    queue.add("old", now=0, priority=PRIORITY_RESYNC)
    queue.add("new-99", now=99, priority=PRIORITY_CHANGE)
    queue.add("new-101", now=101, priority=PRIORITY_CHANGE)
    assert [pop(queue, now=101) for _ in range(3)] == ["new-99", "old", "new-101"]


def test_the_same_priority_is_served_in_order(queue: KeyQueue[str]) -> None:
    for key in "abc":
        queue.add(key, now=0)
    assert [pop(queue, now=0) for _ in range(3)] == ["a", "b", "c"]


def test_a_waiting_key_rises_when_it_is_added_with_more_priority(queue: KeyQueue[str]) -> None:
    queue.add("a", now=0, priority=PRIORITY_RESYNC)
    queue.add("b", now=0, priority=PRIORITY_PROGRESS)
    queue.add("a", now=1, priority=PRIORITY_CHANGE)
    assert [pop(queue, now=1) for _ in range(3)] == ["a", "b", None]


def test_a_scheduled_key_comes_when_it_is_due(queue: KeyQueue[str]) -> None:
    queue.schedule("a", now=0, delay_s=10)
    assert pop(queue, now=9.9) is None
    assert queue.next_due() == 10
    assert pop(queue, now=10) == "a"


def test_changes_of_children_within_a_tenth_of_a_second_are_one_look(
    queue: KeyQueue[str],
) -> None:
    for now in (0.0, 0.04, 0.09):
        queue.add_soon("a", now=now)
    assert [pop(queue, now=0.09), pop(queue, now=0.1), pop(queue, now=9)] == [None, "a", None]


def test_a_childs_change_during_a_look_is_looked_at_afterwards(queue: KeyQueue[str]) -> None:
    queue.add("a", now=0)
    pop(queue, now=0)
    queue.add_soon("a", now=1)
    queue.schedule("a", now=2, delay_s=None)  # the look ended and wants no other by itself
    queue.done("a", now=2)
    assert [pop(queue, now=2), pop(queue, now=2.1)] == [None, "a"]


def test_a_childs_change_comes_before_what_was_scheduled_for_later(queue: KeyQueue[str]) -> None:
    queue.schedule("a", now=0, delay_s=30)
    queue.add_soon("a", now=1)
    assert pop(queue, now=1.1) == "a"
    assert queue.next_due() is None


def test_a_new_resource_passes_what_time_brought(queue: KeyQueue[str]) -> None:
    queue.schedule("old", now=0, delay_s=1)
    queue.add("new", now=2)
    assert [pop(queue, now=2), pop(queue, now=2)] == ["new", "old"]


def test_some_workers_are_kept_for_new_resources() -> None:
    queue: KeyQueue[str] = KeyQueue(background_limit=2)
    for key in ("old-1", "old-2", "old-3"):
        queue.add(key, now=0, priority=PRIORITY_RESYNC)
    assert [pop(queue, now=0) for _ in range(3)] == ["old-1", "old-2", None]
    queue.add("new", now=1)
    assert [pop(queue, now=1), pop(queue, now=1)] == ["new", None]
    queue.done("old-1", now=2)
    assert pop(queue, now=2) == "old-3"


def test_a_key_that_became_urgent_is_not_held_back() -> None:
    queue: KeyQueue[str] = KeyQueue(background_limit=0)
    queue.add("a", now=0, priority=PRIORITY_RESYNC)
    assert pop(queue, now=0) is None
    queue.add("a", now=1)
    assert [pop(queue, now=1), pop(queue, now=1)] == ["a", None]


@pytest.mark.parametrize(("later", "due"), [(30.0, 31.0), (2.0, 3.0)], ids=["later", "sooner"])
def test_the_last_schedule_counts(queue: KeyQueue[str], later: float, due: float) -> None:
    queue.schedule("a", now=0, delay_s=10)
    queue.schedule("a", now=1, delay_s=later)
    assert queue.next_due() == due


def test_a_schedule_can_be_cancelled(queue: KeyQueue[str]) -> None:
    queue.schedule("a", now=0, delay_s=10)
    queue.schedule("a", now=0, delay_s=None)
    assert pop(queue, now=100) is None


def test_retries_wait_longer_each_time_until_five_minutes(queue: KeyQueue[str]) -> None:
    delays = [queue.retry("a", now=0) for _ in range(13)]
    assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
    assert delays[-2:] == [300.0, 300.0]


def test_success_forgets_earlier_failures(queue: KeyQueue[str]) -> None:
    queue.retry("a", now=0)
    queue.retry("a", now=0)
    queue.forget("a")
    assert queue.retry("a", now=0) == 0.2


@pytest.mark.parametrize(("drawn", "delay"), [(0.0, 0.16), (1.0, 0.24)], ids=["least", "most"])
def test_retries_are_spread_by_a_fifth(drawn: float, delay: float) -> None:
    queue: KeyQueue[str] = KeyQueue(jitter=lambda: drawn)
    assert queue.retry("a", now=0) == pytest.approx(delay)


def test_a_change_does_not_wait_for_the_back_off(queue: KeyQueue[str]) -> None:
    queue.retry("a", now=0)
    queue.add("a", now=0.01)
    assert pop(queue, now=0.01) == "a"


def test_the_slowest_worker_is_known(queue: KeyQueue[str]) -> None:
    queue.add("a", now=0)
    queue.add("b", now=0)
    pop(queue, now=1)
    pop(queue, now=4)
    assert queue.longest_processing_s(now=10) == 9
    assert queue.unfinished_s(now=10) == 15


async def test_a_waiting_worker_gets_the_next_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    worker = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add("a")
    assert (await worker).key == "a"


async def test_a_cancelled_worker_takes_no_key_along() -> None:
    queue: WorkQueue[str] = WorkQueue()
    cancelled = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    queue.add("a")
    assert (await queue.take()).key == "a"


async def test_a_waiting_worker_wakes_up_for_a_scheduled_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    worker = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.schedule("a", delay_s=0.001)
    assert (await asyncio.wait_for(worker, timeout=5)).key == "a"
