"""Which replica decides: it holds a Lease and renews it.

No clock is compared with another machine's: a holder is alive as long as the Lease keeps changing,
measured by this process' own monotonic time. A leader that cannot renew in time stops before another
may start. A replica that ends gives the Lease back, so that a rollout waits for nothing.

    acquire ─► renew every 2 s ─► not renewed for 8 s ─► LeaseLostError, the process ends
       ▲                                 Lease unchanged for 10 s ─► another replica acquires
       └── every 2 s: is it free, ours, or unchanged for its whole duration?
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from finetune_operator.cluster.client import ApiClient
from finetune_operator.cluster.kinds import LEASES
from finetune_operator.cluster.rate_limit import spread
from finetune_operator.errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    LeaseLostError,
    NotFoundError,
)
from finetune_operator.raw_object import MutableRawObject

DURATION_S = 10
"""Seconds without renewal after which others may take the Lease: with the pause between two looks a
crashed leader is followed within 13 s, the API server's own restart (about 5 s) changes no leader."""
RENEW_DEADLINE_S = 8.0
"""Seconds without renewal after which the holder stops; less than the duration, for stopping takes
time as well."""
RETRY_S = 2.0
"""Seconds between two renewals, or between two looks at somebody else's Lease."""


@dataclass(frozen=True, slots=True)
class _LeaseState:
    """One state of the Lease and when it was first seen."""

    holder: str
    version: str
    at: float


class LeaderLease:
    """The Lease, from one replica's side.

    Args:
        client: the API server.
        namespace: the operator's own.
        name: name of the Lease.
        identity: name of this replica. A process that comes back under the name of its dead
            predecessor, as a restarted container does, leads again at once.
        clock: monotonic seconds.
        sleep: waits.
    """

    def __init__(
        self,
        *,
        client: ApiClient,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._sleep = sleep
        self._seen: _LeaseState | None = None
        self._log = structlog.get_logger().bind(lease=f"{namespace}/{name}", identity=identity)

    async def acquire(self) -> None:
        """Wait until this replica leads."""
        while not await self._try_once():
            await self._sleep(spread(RETRY_S, share=0.2))
        self._log.info("This replica leads.")

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            LeaseLostError: it could not be renewed in time, or somebody else holds it.
        """
        renewed_at = self._clock()
        while True:
            await self._sleep(RETRY_S)
            asked_at = self._clock()
            try:
                # A renewal that hangs must not outlive the deadline.
                async with asyncio.timeout(renewed_at + RENEW_DEADLINE_S - asked_at):
                    held = await self._try()
            except (ClusterError, TimeoutError) as error:
                held = False
                self._log.warning("The lease was not renewed.", error=str(error))
            if held:
                renewed_at = asked_at
            elif self._seen is not None and self._seen.holder not in ("", self._identity):
                raise LeaseLostError(f"Lease {self._name} is held by {self._seen.holder} now.")
            if self._clock() - renewed_at >= RENEW_DEADLINE_S:
                raise LeaseLostError(
                    f"Lease {self._name} was not renewed for {RENEW_DEADLINE_S:.0f} s."
                )

    async def release(self) -> None:
        """Give the Lease back if it is ours."""
        try:
            lease = await self._client.get(LEASES, namespace=self._namespace, name=self._name)
            if lease["spec"].get("holderIdentity") != self._identity:
                return
            lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
            await self._replace(lease)
            self._log.info("Gave the lease back.")
        except ClusterError as error:
            self._log.warning("The lease was not given back; it runs out.", error=str(error))

    async def _try_once(self) -> bool:
        try:
            return await self._try()
        except ClusterError as error:
            self._log.warning("The lease cannot be had.", error=str(error))
            return False

    async def _try(self) -> bool:
        """Return whether the Lease is ours now."""
        try:
            lease = await self._client.get(LEASES, namespace=self._namespace, name=self._name)
        except NotFoundError:
            return await self._create()
        self._look(lease)
        if not self._is_free(lease["spec"]):
            return False
        self._take(lease)
        try:
            self._look(await self._replace(lease))
        except ConflictError:
            return False  # somebody else was faster; the next look tells who
        return True

    async def _create(self) -> bool:
        lease: MutableRawObject = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {},
        }
        self._take(lease)
        try:
            created = await self._client.create(LEASES, namespace=self._namespace, manifest=lease)
        except AlreadyExistsError:
            return False
        self._look(created)
        return True

    def _look(self, lease: MutableRawObject) -> None:
        version = lease["metadata"]["resourceVersion"]
        if self._seen is None or self._seen.version != version:
            holder = lease["spec"].get("holderIdentity") or ""
            self._seen = _LeaseState(holder=holder, version=version, at=self._clock())

    def _is_free(self, spec: MutableRawObject) -> bool:
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self._identity) or self._seen is None:
            return True
        duration_s = spec.get("leaseDurationSeconds") or DURATION_S
        return self._clock() - self._seen.at > duration_s

    def _take(self, lease: MutableRawObject) -> None:
        spec = lease["spec"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # for people; never read here
        if spec.get("holderIdentity") != self._identity:
            spec["leaseTransitions"] = (spec.get("leaseTransitions") or 0) + 1
            spec["acquireTime"] = now
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": DURATION_S,
            "renewTime": now,
        }

    async def _replace(self, lease: MutableRawObject) -> MutableRawObject:
        return await self._client.replace(
            LEASES, namespace=self._namespace, name=self._name, manifest=lease
        )
