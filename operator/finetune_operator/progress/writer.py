"""Writes what the progress buffer holds into `status.progress`, slowly.

One loop on each replica, with a budget of its own: however many pods report, the API server sees at
most 20 writes a second. It owns `status.progress` and touches nothing else.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from finetune_api import wire
from finetune_api.status import ProgressStatus
from finetune_operator.cluster.client import ApiClient
from finetune_operator.cluster.kinds import FINETUNES
from finetune_operator.cluster.rate_limit import TokenBucket
from finetune_operator.cluster.status_patch import build_status_patch
from finetune_operator.decide.status.build_progress import is_behind
from finetune_operator.decide.status.build_status import ALL_PERCENT, parse_status
from finetune_operator.decide.values.conditions import is_terminal
from finetune_operator.errors import ClusterError, ConflictError, NotFoundError
from finetune_operator.metrics import Metrics
from finetune_operator.progress.buffer import ProgressBuffer, RunKey
from finetune_operator.watch.store import Key

TICK_S = 0.5
"""Seconds between two looks into the buffer."""
BATCH = 20
"""Most writes of one look."""
RETRY_S = 10.0
"""Seconds after which a failed write is tried again, with whatever is newest then."""

Lookup = Callable[[Key], Awaitable[Mapping[str, Any]]]
"""Returns a resource; raises NotFoundError."""


class ProgressWriter:
    """Takes from the buffer and writes.

    Args:
        buffer: what is worth writing.
        client: the API server.
        lookup: gives the resource as it is.
        bucket: the budget of these writes.
        metrics: counts.
    """

    def __init__(
        self,
        *,
        buffer: ProgressBuffer,
        client: ApiClient,
        lookup: Lookup,
        bucket: TokenBucket,
        metrics: Metrics,
    ) -> None:
        self._buffer = buffer
        self._client = client
        self._lookup = lookup
        self._bucket = bucket
        self._metrics = metrics

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            for run, status in self._buffer.take_due(now=time.monotonic(), limit=BATCH):
                await self._bucket.take()
                await self.write(run, status)

    async def write(self, run: RunKey, status: ProgressStatus) -> None:
        """Write one report, unless the resource is past it."""
        try:
            body = await self._lookup(run.key)
            if body["metadata"]["uid"] != run.uid:
                self._buffer.forget(run.uid)
            elif is_done(body, run=run.run):
                self._buffer.close(run)
            elif is_stale(body, run=run.run, report=status):
                return
            else:
                await self._apply(body, status)
                if has_ended(body, run=run.run):
                    self._buffer.close(run)
        except (NotFoundError, ConflictError):
            self._buffer.forget(run.uid)
        except ClusterError as error:
            self._buffer.postpone(run, until=time.monotonic() + RETRY_S)
            structlog.get_logger().warning(
                "Progress was not written.", name=str(run.key), error=str(error)
            )

    async def _apply(self, body: Mapping[str, Any], status: ProgressStatus) -> None:
        shown = status.model_dump(by_alias=True, exclude_none=True, mode="json")
        await self._client.apply_status(
            FINETUNES,
            manifest=build_status_patch(body, {"progress": shown}),
            field_manager=wire.PROGRESS_FIELD_MANAGER,
        )
        self._metrics.progress_writes.inc()


def is_stale(body: Mapping[str, Any], *, run: int, report: ProgressStatus) -> bool:
    """Return whether the resource shows a newer run, or this run further on.

    After a restart of the operator the buffer is empty, and only the resource knows how far it was.
    """
    status = parse_status(body.get("status"))
    if status.run > run:
        return True
    shown = status.progress
    return shown is not None and shown.run == run and is_behind(report, shown)


def is_done(body: Mapping[str, Any], *, run: int) -> bool:
    """Return whether the resource says that this run is over and shows all of its progress."""
    shown = parse_status(body.get("status")).progress
    is_shown = shown is not None and shown.run == run and shown.percent == ALL_PERCENT
    return is_shown and has_ended(body, run=run)


def has_ended(body: Mapping[str, Any], *, run: int) -> bool:
    """Return whether the resource says that this run is over."""
    status = parse_status(body.get("status"))
    return status.run == run and is_terminal(status.conditions)
