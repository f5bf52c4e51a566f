"""Which resource is looked at next: one key is in one worker at a time, and none is forgotten.

Changes come from the resource cache and the reflectors, workers take. `KeyQueue` is the pure part: it
is given the time and never waits. `WorkQueue` lets workers wait for it. Neither knows what a key means.
"""

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

PRIORITY_CHANGE = 0
"""A new resource or a changed spec."""
PRIORITY_CHILD = -10
"""A Job's or Pod's change, and what time brings: in a burst new resources get their Jobs first."""
PRIORITY_PROGRESS = -50
"""A status that others wrote, such as progress."""
PRIORITY_RESYNC = -100
"""The first list, and what a sweep found."""
AGEING_PER_S = 1.0
"""Priority gained by waiting: a resync is passed by changes for 100 s at most and never starves."""

DEBOUNCE_S = 0.1
"""Seconds in which several changes of children become one look. A pod is made, bound and started by
three components within about 50 ms; reporting each step apart would be a status write of its own."""

BACKGROUND_SHARE = 4
"""One worker in so many, at most, is busy with less than a changed spec. A status costs the API server
as much as several Jobs: with every worker at one, the Job of a new resource would wait behind them
there, where no priority of ours counts."""

RETRY_FIRST_S = 0.2
RETRY_LIMIT_S = 300.0
JITTER_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class TakenKey(Generic[K]):
    """A key that a worker has."""

    key: K
    waited_s: float
    """Seconds in the queue."""


@dataclass
class _WaitingKey:
    score: float
    priority: int
    added_at: float


@dataclass
class KeyQueue(Generic[K]):
    """The queue as a value that changes by calls; `now` is monotonic seconds.

    Since all keys age at the same rate, their order never changes while they wait: the heaps are
    sorted by when a key would have been added had it priority 0.
    """

    background_limit: int = 1
    """Workers that may be busy with keys of less than `PRIORITY_CHANGE`."""
    jitter: Callable[[], float] = random.SystemRandom().random
    """A number in [0, 1)."""
    retries: int = 0
    """Back-offs so far, for the metrics."""
    _waiting: dict[K, _WaitingKey] = field(default_factory=dict)
    _urgent: list[tuple[float, int, K]] = field(default_factory=list)
    _background: list[tuple[float, int, K]] = field(default_factory=list)
    _busy_with_background: set[K] = field(default_factory=set)
    _processing: dict[K, float] = field(default_factory=dict)
    _again: dict[K, int] = field(default_factory=dict)
    _again_soon: set[K] = field(default_factory=set)
    _due: dict[K, float] = field(default_factory=dict)
    _timers: list[tuple[float, int, K]] = field(default_factory=list)
    _failures: dict[K, int] = field(default_factory=dict)
    _serial: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K, *, now: float, priority: int = PRIORITY_CHANGE) -> None:
        """Enqueue a key; one in a worker comes back when the worker is done with it."""
        if key in self._processing:
            self._again[key] = max(priority, self._again.get(key, priority))
            return
        waiting = self._waiting.get(key)
        if waiting is not None and waiting.priority >= priority:
            return
        added_at = waiting.added_at if waiting is not None else now
        score = added_at - priority / AGEING_PER_S
        self._waiting[key] = _WaitingKey(score=score, priority=priority, added_at=added_at)
        heap = self._urgent if priority >= PRIORITY_CHANGE else self._background
        heapq.heappush(heap, (score, self._next_serial(), key))

    def add_soon(self, key: K, *, now: float) -> None:
        """Enqueue a key once its children had the time to settle, together with what comes until then."""
        if key in self._processing:
            self._again_soon.add(key)
            return
        if key in self._waiting or self._due.get(key, float("inf")) <= now + DEBOUNCE_S:
            return
        self.schedule(key, now=now, delay_s=DEBOUNCE_S)

    def schedule(self, key: K, *, now: float, delay_s: float | None) -> None:
        """Enqueue a key later, in place of what was scheduled before; None cancels that."""
        if delay_s is None:
            self._due.pop(key, None)
            return
        due = now + delay_s
        self._due[key] = due
        heapq.heappush(self._timers, (due, self._next_serial(), key))

    def retry(self, key: K, *, now: float) -> float:
        """Enqueue a key after its back-off and return the seconds until then."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.retries += 1
        plain_s = min(RETRY_FIRST_S * float(2 ** min(failures, 16)), RETRY_LIMIT_S)
        delay_s = plain_s * (1 + JITTER_SHARE * (2 * self.jitter() - 1))
        self.schedule(key, now=now, delay_s=delay_s)
        return delay_s

    def forget(self, key: K) -> None:
        """Forget a key's failures: it went well."""
        self._failures.pop(key, None)

    def pop(self, *, now: float) -> TakenKey[K] | None:
        """Give the most urgent key to a worker, or None where nothing waits."""
        self._add_due(now)
        heap = self._next_heap()
        if heap is None:
            return None
        _, _, key = heapq.heappop(heap)
        waiting = self._waiting.pop(key)
        self._processing[key] = now
        if heap is self._background:
            self._busy_with_background.add(key)
        return TakenKey(key=key, waited_s=now - waiting.added_at)

    def done(self, key: K, *, now: float) -> None:
        """Take a key back from its worker."""
        del self._processing[key]
        self._busy_with_background.discard(key)
        if key in self._again_soon:
            self._again_soon.discard(key)
            self.add_soon(key, now=now)
        if (priority := self._again.pop(key, None)) is not None:
            self.add(key, now=now, priority=priority)

    def next_due(self) -> float | None:
        """Return when the next scheduled key comes, or None."""
        while self._timers:
            due, _, key = self._timers[0]
            if self._due.get(key) == due:
                return due
            heapq.heappop(self._timers)
        return None

    def longest_processing_s(self, *, now: float) -> float:
        """Return for how long the slowest worker has been at its key."""
        return now - min(self._processing.values(), default=now)

    def unfinished_s(self, *, now: float) -> float:
        """Return the seconds that all workers together have spent on what they have not finished."""
        return sum(now - since for since in self._processing.values())

    def _next_heap(self) -> list[tuple[float, int, K]] | None:
        self._drop_stale(self._urgent)
        self._drop_stale(self._background)
        may_background = len(self._busy_with_background) < self.background_limit
        candidates = [self._urgent, self._background] if may_background else [self._urgent]
        return min((heap for heap in candidates if heap), key=lambda heap: heap[0], default=None)

    def _drop_stale(self, heap: list[tuple[float, int, K]]) -> None:
        """Drop from the top what was taken, or was added again with more priority."""
        while heap:
            score, _, key = heap[0]
            waiting = self._waiting.get(key)
            if waiting is not None and waiting.score == score:
                return
            heapq.heappop(heap)

    def _add_due(self, now: float) -> None:
        while (due := self.next_due()) is not None and due <= now:
            _, _, key = heapq.heappop(self._timers)
            del self._due[key]
            self.add(key, now=now, priority=PRIORITY_CHILD)

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial


class WorkQueue(Generic[K]):
    """A `KeyQueue` for which workers can wait.

    Args:
        workers: how many will take keys.
        clock: monotonic seconds; must be the event loop's own pace.
    """

    def __init__(self, *, workers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.keys: KeyQueue[K] = KeyQueue(background_limit=max(1, workers // BACKGROUND_SHARE))
        self._clock = clock
        self._idle: deque[asyncio.Future[TakenKey[K]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, key: K, *, priority: int = PRIORITY_CHANGE) -> None:
        """Enqueue a key."""
        self.keys.add(key, now=self._clock(), priority=priority)
        self._dispatch()

    def add_soon(self, key: K) -> None:
        """Enqueue a key once its children had the time to settle, together with what comes until then."""
        self.keys.add_soon(key, now=self._clock())
        self._dispatch()

    def schedule(self, key: K, *, delay_s: float | None) -> None:
        """Enqueue a key later, in place of what was scheduled before; None cancels that."""
        self.keys.schedule(key, now=self._clock(), delay_s=delay_s)
        self._dispatch()

    def retry(self, key: K) -> float:
        """Enqueue a key after its back-off and return the seconds until then."""
        delay_s = self.keys.retry(key, now=self._clock())
        self._dispatch()
        return delay_s

    def forget(self, key: K) -> None:
        """Forget a key's failures: it went well."""
        self.keys.forget(key)

    async def take(self) -> TakenKey[K]:
        """Wait for the most urgent key."""
        future: asyncio.Future[TakenKey[K]] = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        self._dispatch()
        return await future

    def done(self, key: K) -> None:
        """Take a key back from its worker."""
        self.keys.done(key, now=self._clock())
        self._dispatch()

    def longest_processing_s(self) -> float:
        """Return for how long the slowest worker has been at its key."""
        return self.keys.longest_processing_s(now=self._clock())

    def unfinished_s(self) -> float:
        """Return the seconds that all workers together have spent on what they have not finished."""
        return self.keys.unfinished_s(now=self._clock())

    def _dispatch(self) -> None:
        while self._idle:
            if self._idle[0].done():  # its worker was cancelled
                self._idle.popleft()
                continue
            taken = self.keys.pop(now=self._clock())
            if taken is None:
                break
            self._idle.popleft().set_result(taken)
        self._set_timer()

    def _set_timer(self) -> None:
        due = self.keys.next_due()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is None or not self._idle:
            return  # a worker that becomes idle comes by here
        delay_s = max(0.0, due - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._dispatch)
