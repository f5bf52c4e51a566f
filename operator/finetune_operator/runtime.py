"""Puts the parts together and runs them, in the order in which they may start.

    probes ─► the resource definition exists ─► certificate ─► status server, watches of Jobs and Pods
      ─► lease ─► watches are synced ─► resources listed ─► workers, sweep, kopf's watch

What stands before the lease runs on every replica, what follows on the leader alone. A part that ends
ends the process, and the kubelet restarts it: nothing is kept that the cluster does not hold.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from finetune_api import wire
from finetune_operator import probes
from finetune_operator.cluster.client import ApiClient
from finetune_operator.cluster.connection import Connection, open_connector, open_session
from finetune_operator.cluster.kinds import FINETUNES, JOBS, PODS
from finetune_operator.cluster.lease import LeaderLease
from finetune_operator.cluster.rate_limit import TokenBucket
from finetune_operator.decide import decide
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.observation import Observed, ObservedJob, ObservedPod
from finetune_operator.errors import (
    ClusterError,
    LeaseLostError,
)
from finetune_operator.metrics import Metrics
from finetune_operator.progress.buffer import ProgressBuffer
from finetune_operator.progress.certificate import (
    CertificateReloader,
    CertificateSource,
    FromFiles,
    SelfManaged,
)
from finetune_operator.progress.pod_token import TokenVerifier
from finetune_operator.progress.status_server import StatusServer, serve
from finetune_operator.progress.writer import ProgressWriter
from finetune_operator.reconcile.apply import Applier
from finetune_operator.reconcile.gather import Gatherer
from finetune_operator.reconcile.reconciler import Reconciler
from finetune_operator.settings import Settings
from finetune_operator.startup import (
    MISSING_DEFINITION,
    build_context,
    wait_for_certificate,
    wait_for_definition,
)
from finetune_operator.watch.kopf_watch import KopfSource
from finetune_operator.watch.reflector import Reflector
from finetune_operator.watch.resource_cache import ResourceCache
from finetune_operator.watch.store import Change, Entry, Key
from finetune_operator.watch.work_queue import WorkQueue

OWN_QPS, OWN_BURST = 20.0, 40
"""Requests in a second for lease and certificate: never behind the workers' requests, nor behind the
tokens', whose number training pods decide. These have as many for themselves."""
PROGRESS_WRITES_PER_S = 20.0
HARD_EXIT_S = 1.5
"""Seconds that an orderly end may take once the lease is lost; another replica starts then."""
MANAGED = f"{wire.LABEL_MANAGED_BY}={wire.APP_NAME}"


@dataclass
class StartupState:
    """What has happened so far; /readyz tells of what has not."""

    definition_found: bool = False


class OperatorRuntime:
    """The operator's parts.

    Args:
        settings: what the administrator set.
        connection: the API server.
        connector: the pool of connections to it.
        session: an authorised session over the pool.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        connection: Connection,
        connector: aiohttp.TCPConnector,
        session: aiohttp.ClientSession,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._connector = connector
        self._log = structlog.get_logger()
        self._stop = asyncio.Event()
        self._startup_state = StartupState()
        self._namespaces: tuple[str | None, ...] = settings.namespaces or (None,)
        self._own_namespace = settings.pod_namespace or connection.namespace or "default"
        self._metrics = Metrics()
        self._client = self._open_client(session, rate=settings.api_qps, burst=settings.api_burst)
        self._own_client = self._open_client(session, rate=OWN_QPS, burst=OWN_BURST)
        self._token_client = self._open_client(session, rate=OWN_QPS, burst=OWN_BURST)
        self._queue: WorkQueue[Key] = WorkQueue(workers=settings.workers)
        self._metrics.watch_queue(self._queue)
        self._resources = ResourceCache(
            client=self._client, queue=self._queue, namespaces=self._namespaces
        )
        self._jobs = Reflector(
            lister=self._client,
            kind=JOBS,
            namespaces=self._namespaces,
            label_selector=MANAGED,
            project=ObservedJob.from_object,
            on_change=self._on_job,
        )
        self._pods = Reflector(
            lister=self._client,
            kind=PODS,
            namespaces=self._namespaces,
            label_selector=MANAGED,
            project=ObservedPod.from_object,
            on_change=self._on_pod,
        )
        self._buffer = ProgressBuffer(jitter=random.SystemRandom().random)
        self._certificate = CertificateReloader(
            source=self._certificate_source(), on_authority=self._on_authority
        )
        self._lease = LeaderLease(
            client=self._own_client,
            namespace=self._own_namespace,
            name=settings.lease_name,
            identity=settings.pod_name,
        )
        self._context = build_context(settings, ca_pem="")

    async def run(self) -> None:
        """Run until stopped.

        Raises:
            LeaseLostError: another replica may lead.
            ExceptionGroup: a part failed.
        """
        self._take_signals()
        async with _serving(self._probe_application(), port=self._settings.probe_port):
            work = asyncio.create_task(self._work())
            stop = asyncio.create_task(self._stop.wait())
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            await self._end(work)

    async def _end(self, work: "asyncio.Task[None]") -> None:
        """Stop deciding, give the lease back, and only then wait for the rest to end."""
        if not work.done():
            self._log.info("Stopping.")
            work.cancel()
            await asyncio.wait({work})
        if work.cancelled():
            return
        if (error := work.exception()) is not None:
            raise error

    async def _work(self) -> None:
        await wait_for_definition(self._own_client)
        self._startup_state.definition_found = True
        await wait_for_certificate(self._certificate)
        server = self._status_server()
        async with (
            _serving(
                server.application(), port=self._settings.status_port, tls=self._certificate.tls
            ),
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._certificate.run(), name="certificate")
            group.create_task(self._jobs.run(), name="jobs")
            group.create_task(self._pods.run(), name="pods")
            group.create_task(self._progress_writer().run(), name="progress")
            group.create_task(self._lead(), name="leader")

    async def _lead(self) -> None:
        await self._lease.acquire()
        self._metrics.leading.set(1)
        hold = asyncio.create_task(self._lease.hold(), name="lease")
        decide_all = asyncio.create_task(self._decide_all(), name="decide")
        try:
            await asyncio.wait({hold, decide_all}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # NB: nothing may be decided once the lease is somebody else's, so this comes first and
            # does not wait for kopf, which takes seconds to end.
            self._metrics.leading.set(0)
            if hold.done() and isinstance(hold.exception(), LeaseLostError):
                asyncio.get_running_loop().call_later(HARD_EXIT_S, os._exit, 1)
            hold.cancel()
            decide_all.cancel()
            await asyncio.wait({hold, decide_all})
            await self._lease.release()
        for task in (hold, decide_all):
            if not task.cancelled():
                task.result()

    async def _decide_all(self) -> None:
        await self._jobs.synced.wait()
        await self._pods.synced.wait()
        await self._resources.prime()
        self._log.info("Listed everything.", resources=len(self._resources.store))
        reconciler = self._reconciler()
        async with asyncio.TaskGroup() as group:
            for number in range(self._settings.workers):
                group.create_task(reconciler.work(), name=f"worker {number}")
            group.create_task(self._sweep(), name="sweep")
            group.create_task(self._watch_resources(), name="kopf")

    async def _watch_resources(self) -> None:
        source = KopfSource(
            connection=self._connection,
            connector=self._connector,
            namespaces=self._namespaces,
            stop=self._stop,
            on_login=self._take_signals,
        )
        await source(self._resources.ingest)
        self._stop.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_s)
            try:
                await self._resources.sweep()
            except ClusterError as error:
                self._log.warning("The sweep failed; the next one comes.", error=str(error))

    def _on_job(self, change: Change, entry: Entry[ObservedJob]) -> None:
        if self._jobs.synced.is_set():
            self._queue.add_soon(Key(entry.namespace, entry.owner_name))
        if change is Change.DELETED and not self._jobs.store.owned_by(entry.owner_uid):
            self._buffer.forget(entry.owner_uid)

    def _on_pod(self, _: Change, entry: Entry[ObservedPod]) -> None:
        # A pod of a Job that is not known yet comes to notice with the Job.
        job = self._jobs.store.get(entry.owner_uid)
        if job is not None and self._pods.synced.is_set():
            self._queue.add_soon(Key(job.namespace, job.owner_name))

    def _on_authority(self, ca_pem: str) -> None:
        self._context = build_context(self._settings, ca_pem=ca_pem)

    def _decide(self, observed: Observed, *, now: datetime) -> Actions:
        return decide.decide(observed, now=now, context=self._context)

    async def _lookup(self, key: Key) -> Mapping[str, Any]:
        if (body := self._resources.get(key)) is not None:
            return body
        return await self._own_client.get(FINETUNES, namespace=key.namespace, name=key.name)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    def _open_client(self, session: aiohttp.ClientSession, *, rate: float, burst: int) -> ApiClient:
        return ApiClient(
            server=self._connection.server,
            session=session,
            bucket=TokenBucket(rate=rate, burst=burst),
            count=self._metrics.count_request,
        )

    def _certificate_source(self) -> CertificateSource:
        if self._settings.certificate_dir:
            return FromFiles(Path(self._settings.certificate_dir))
        return SelfManaged(
            client=self._own_client,
            namespace=self._own_namespace,
            secret=self._settings.certificate_secret,
            names=(self._settings.status_service,),
            now=_now,
        )

    def _probe_application(self) -> aiohttp.web.Application:
        return probes.build_application(
            live=(
                probes.event_check("The loop that watches Jobs", self._jobs.seconds_since_activity),
                probes.event_check("The loop that watches Pods", self._pods.seconds_since_activity),
                probes.worker_check(self._queue.longest_processing_s),
            ),
            ready=(
                probes.flag_check(lambda: self._startup_state.definition_found, MISSING_DEFINITION),
                probes.flag_check(
                    lambda: self._certificate.present,
                    "There is no certificate for the status server.",
                ),
                probes.flag_check(self._jobs.synced.is_set, "Jobs are not listed yet."),
                probes.flag_check(self._pods.synced.is_set, "Pods are not listed yet."),
                probes.event_check("The watch of Jobs", self._jobs.seconds_since_event),
                probes.event_check("The watch of Pods", self._pods.seconds_since_event),
            ),
            registry=self._metrics.registry,
        )

    def _status_server(self) -> StatusServer:
        return StatusServer(
            verifier=TokenVerifier(client=self._token_client),
            jobs=self._jobs.store,
            pods=self._pods.store,
            buffer=self._buffer,
            metrics=self._metrics,
        )

    def _progress_writer(self) -> ProgressWriter:
        return ProgressWriter(
            buffer=self._buffer,
            client=self._client,
            lookup=self._lookup,
            bucket=TokenBucket(rate=PROGRESS_WRITES_PER_S, burst=int(PROGRESS_WRITES_PER_S)),
            metrics=self._metrics,
        )

    def _reconciler(self) -> Reconciler:
        return Reconciler(
            queue=self._queue,
            gatherer=Gatherer(
                client=self._client,
                resources=self._resources,
                jobs=self._jobs.store,
                pods=self._pods.store,
            ),
            decide=self._decide,
            applier=Applier(
                client=self._client,
                remember_job=self._jobs.remember,
                remember_resource=self._resources.remember,
                identity=self._settings.pod_name,
                now=_now,
            ),
            metrics=self._metrics,
            now=_now,
        )


async def run(settings: Settings, connection: Connection) -> None:
    """Run the operator until it is stopped."""
    connector = open_connector(connection)
    try:
        async with open_session(connection, connector) as session:
            runtime = OperatorRuntime(
                settings=settings, connection=connection, connector=connector, session=session
            )
            await runtime.run()
    finally:
        await connector.close()


@contextlib.asynccontextmanager
async def _serving(
    application: aiohttp.web.Application, *, port: int, tls: Any = None
) -> AsyncIterator[None]:
    runner = await serve(application, port=port, tls=tls)
    try:
        yield
    finally:
        await runner.cleanup()


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)
