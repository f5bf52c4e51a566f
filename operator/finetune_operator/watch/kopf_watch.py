"""kopf: the only module that imports it.

kopf logs in, runs the watch of LanguageFinetune and hands each object on; that is all it is asked to
do. It keeps no annotation, no finalizer, no index, timer or daemon, so it never writes to the cluster
(the storages below are empty on purpose). Nothing is decided here.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import aiohttp
import kopf

from finetune_api import wire
from finetune_operator.cluster.connection import Connection, open_session
from finetune_operator.watch.resource_cache import Ingest

FINALIZER = f"{wire.GROUP}/never-set"
"""kopf sets none, for there is no delete handler; were there ever one, it would stand under our name."""

SIGNALS_AFTER_S = 0.5
"""Seconds after kopf's login when the process' signals are taken back; until then kopf has them."""


class NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no copy of what was last handled: we compare the cluster with the spec, not two specs."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:  # noqa: ARG002
        """Return nothing, which also spares two deep copies of each object."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        """Return nothing."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Store nothing."""


class NoProgress(kopf.ProgressStorage):
    """Keeps no retries on the object: our queue has them."""

    def fetch(self, *, key: Any, body: kopf.Body) -> None:
        """Return nothing."""

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Store nothing."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Purge nothing."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Touch nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Return the essence as it is."""
        return essence


class KopfSource:
    """Watches LanguageFinetunes by kopf.

    Args:
        connection: the API server.
        connector: the pool that kopf's requests share.
        namespaces: what is watched; (None,) is everything.
        stop: ends the watch.
        on_login: is called once kopf has taken over the process' signals, to take them back.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        connector: aiohttp.TCPConnector,
        namespaces: Sequence[str | None],
        stop: asyncio.Event,
        on_login: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._connector = connector
        self._namespaces = [name for name in namespaces if name is not None]
        self._stop = stop
        self._on_login = on_login

    async def __call__(self, ingest: Ingest) -> None:
        """Watch until stopped."""
        await kopf.operator(
            registry=self._build_registry(ingest),
            settings=build_settings(),
            # NB: kopf would ask for the name of the process' user, and a container's has none.
            identity=cast("Any", wire.APP_NAME),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop,
        )

    def _build_registry(self, ingest: Ingest) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            # NB: kopf would answer a signal by waiting 5 s for every task of the process before it
            # returns. It sets its handlers in the same turn of the loop as the first login.
            asyncio.get_running_loop().call_later(SIGNALS_AFTER_S, self._on_login)
            return kopf.AiohttpSession(
                server=self._connection.server,
                aiohttp_session=open_session(self._connection, self._connector),
                default_namespace=self._connection.namespace,
            )

        @kopf.on.event(wire.GROUP, wire.VERSION, wire.PLURAL, registry=registry)
        async def hand_on(event: kopf.RawEvent, **_: Any) -> None:
            ingest(event["type"] or "", event["object"])

        return registry


def build_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: quiet, bounded in time, writing nothing."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.finalizer = FINALIZER
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 75
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = (0.2, 0.5, 1, 2, 4)
    settings.networking.enforce_retry_after = True
    settings.queueing.idle_timeout = 1
    settings.execution.max_workers = 1  # every handler is asynchronous
    settings.process.ultimate_exiting_timeout = 20
    return settings
