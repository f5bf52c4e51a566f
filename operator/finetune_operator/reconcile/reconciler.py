"""The loop: take a key, gather, decide, apply.

Workers take keys from the queue; one resource is in one worker at a time. A failure of one resource
is logged and retried with back-off and harms no other. What was created is reported in a round of its own
with less priority: of a thousand new resources each has its Job before the first status is written.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.observation import Observed, Rejection
from finetune_operator.errors import ClusterError, NotFoundError
from finetune_operator.metrics import CONTROLLER, Metrics
from finetune_operator.reconcile.apply import Applier, NameTakenError, PredecessorError
from finetune_operator.reconcile.gather import Gatherer
from finetune_operator.watch.store import Key
from finetune_operator.watch.work_queue import DEBOUNCE_S, WorkQueue

RECONCILE_LIMIT_S = 180.0
"""Seconds after which a reconciliation is given up: more than all tries of all its requests."""


@dataclass(frozen=True)
class CreateRefusal:
    """Why the creates stopped."""

    name_conflicts: tuple[str, ...] = ()
    predecessors: tuple[str, ...] = ()
    rejected: tuple[Rejection, ...] = ()


class Decide(Protocol):
    """The pure core, with the administrator's choices already given to it."""

    def __call__(self, observed: Observed, *, now: datetime) -> Actions:
        """Return what to do."""


class Reconciler:
    """Brings resources one by one to where they should be.

    Args:
        queue: which resource is next.
        gatherer: reads.
        decide: decides.
        applier: writes.
        metrics: counts.
        now: the present time.
    """

    def __init__(
        self,
        *,
        queue: WorkQueue[Key],
        gatherer: Gatherer,
        decide: Decide,
        applier: Applier,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._queue = queue
        self._gatherer = gatherer
        self._decide = decide
        self._applier = applier
        self._metrics = metrics
        self._now = now
        self._just_created: set[Key] = set()
        self._turn = asyncio.Lock()

    async def work(self) -> None:
        """Take and reconcile for ever."""
        while True:
            taken = await self._queue.take()
            self._metrics.queue_seconds.labels(CONTROLLER).observe(taken.waited_s)
            started = time.monotonic()
            # NB: a task of its own, so that whatever goes wrong in it is a value here and not the
            # end of the worker; a cancelled worker takes its task along.
            task = asyncio.create_task(self.reconcile(taken.key))
            try:
                await asyncio.wait({task}, timeout=RECONCILE_LIMIT_S)
            finally:
                task.cancel()
            await asyncio.wait({task})
            self._conclude(taken.key, task)
            elapsed_s = time.monotonic() - started
            self._metrics.reconcile_seconds.labels(CONTROLLER).observe(elapsed_s)
            self._queue.done(taken.key)

    async def reconcile(self, key: Key) -> float | None:
        """Do what one resource needs now; return the seconds after which to look again."""
        looked = await self._look(key)
        if looked is None:
            self._just_created.discard(key)
            return None
        observed, actions = looked
        # Decide until nothing is asked: a lookup is fetched once, and a refused create is the last.
        while True:
            if actions.lookups is not None:
                observed = await self._gatherer.fetch(observed, lookups=actions.lookups)
            elif not observed.is_refused and (block := await self._create(actions)) is not None:
                again = self._gatherer.observe(key)
                if again is None:
                    return None
                observed = replace(
                    again,
                    pinned_plan=observed.pinned_plan,
                    job_events=observed.job_events,
                    name_conflicts=block.name_conflicts,
                    predecessors=block.predecessors,
                    rejected=block.rejected,
                )
            else:
                break
            actions = self._decide(observed, now=self._now())
        if not observed.is_refused and self._tells_later(key, has_created=bool(actions.creates)):
            return DEBOUNCE_S
        await self._applier.apply_rest(observed.body, actions)
        return actions.requeue_after_s

    async def _look(self, key: Key) -> tuple[Observed, Actions] | None:
        """Return what is known of a resource and what to do about it, or None where it is gone.

        A decision takes milliseconds of processor. In a burst every worker has one to take, and all of
        them in one turn of the event loop would keep watches, leases and the pods' reports waiting for
        as long: new resources would come to notice last, behind the statuses of those before them.
        """
        async with self._turn:
            # NB: first, so that what is decided on is never older than the turn.
            await asyncio.sleep(0)
            observed = self._gatherer.observe(key)
            return None if observed is None else (observed, self._decide(observed, now=self._now()))

    def _tells_later(self, key: Key, *, has_created: bool) -> bool:
        """Return whether the status is left to the next round; never twice, or it were a hot loop."""
        if has_created and key not in self._just_created:
            self._just_created.add(key)
            return True
        self._just_created.discard(key)
        return False

    async def _create(self, actions: Actions) -> CreateRefusal | None:
        for manifest in actions.creates:
            try:
                rejection = await self._applier.create(manifest)
            except PredecessorError:
                return CreateRefusal(predecessors=(manifest["metadata"]["name"],))
            except NameTakenError:
                return CreateRefusal(name_conflicts=(manifest["metadata"]["name"],))
            if rejection is not None:
                return CreateRefusal(rejected=(rejection,))
        return None

    def _conclude(self, key: Key, task: "asyncio.Task[float | None]") -> None:
        log = structlog.get_logger().bind(namespace=key.namespace, name=key.name)
        if task.cancelled():
            result = "timeout"
            retry_s = self._queue.retry(key)
            log.error("Gave up after too long.", limit_s=RECONCILE_LIMIT_S, retry_s=retry_s)
        elif (error := task.exception()) is not None:
            result = "error"
            retry_s = self._queue.retry(key)
            if isinstance(error, NotFoundError):
                log.info("The resource went away meanwhile.", retry_s=retry_s)
            elif isinstance(error, ClusterError):
                log.warning("The API server refused.", error=str(error), retry_s=retry_s)
            else:
                log.error("A bug was met.", exc_info=error, retry_s=retry_s)
        else:
            result = "success" if task.result() is None else "requeue_after"
            self._queue.forget(key)
            self._queue.schedule(key, delay_s=task.result())
        self._metrics.reconciles.labels(CONTROLLER, result).inc()
