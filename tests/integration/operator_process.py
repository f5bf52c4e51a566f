"""The operator as a process of its own, and a proxy that kills it after a given write.

Used by the tests of the operator on a real API server. The operator runs from this checkout, outside
the cluster, by a kubeconfig.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from aiohttp import web

READY_TIMEOUT_S = 60.0
POLL_S = 0.1


def wait_for(what: str, found: Callable[[], Any], *, timeout_s: float = 30.0) -> Any:
    """Return the first answer of `found` that is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(POLL_S)
    raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s")


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class OperatorProcess:
    """One replica."""

    kubeconfig: Path
    namespace: str
    log: Path
    name: str = "replica-1"
    settings: dict[str, str] = field(default_factory=dict)
    status_port: int = field(default_factory=free_port)
    probe_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start the replica without waiting for it."""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("FINETUNE_")},
            "KUBECONFIG": str(self.kubeconfig),
            "FINETUNE_TRAINER_IMAGE": "registry.invalid/trainer:1",
            "FINETUNE_NAMESPACES": self.namespace,
            "FINETUNE_POD_NAMESPACE": self.namespace,
            "FINETUNE_POD_NAME": self.name,
            "FINETUNE_STATUS_SERVICE": "127.0.0.1",
            "FINETUNE_STATUS_PORT": str(self.status_port),
            "FINETUNE_PROBE_PORT": str(self.probe_port),
            **{f"FINETUNE_{key}": value for key, value in self.settings.items()},
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator"],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> None:
        """Wait until /readyz says ok."""

        def is_ready() -> bool:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the operator ended:\n{self.log.read_text()[-4000:]}")
            return self.probe("/readyz")[0] == 200

        wait_for("a ready operator", is_ready, timeout_s=READY_TIMEOUT_S)

    def probe(self, path: str) -> tuple[int, str]:
        """Return status and text of a probe; 0 where nothing listens."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.probe_port}{path}", timeout=5
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def is_leading(self) -> bool:
        """Return whether this replica decides."""
        return "leader_election_master_status 1.0" in self.probe("/metrics")[1]

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)

    def stop(self) -> int:
        """End it as the kubelet does; return the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


class FaultProxy:
    """Passes requests on to the API server and calls a hook after each write of the operator's.

    The hook runs when the API server has answered and the operator does not know it yet: the worst
    moment to die at.

    Args:
        kubeconfig: the real one.
        folder: where the kubeconfig of the proxy is written.
        after_write: gets the number of the write, counted from 1, and its path.
    """

    def __init__(
        self, *, kubeconfig: Path, folder: Path, after_write: Callable[[int, str], None]
    ) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._server: str = cluster["server"]
        self._token: str = config["users"][0]["user"]["token"]
        self._after_write = after_write
        self._writes = 0
        self._config = config
        self.kubeconfig = folder / "proxy.kubeconfig"
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False, limit=0))
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, host="127.0.0.1", port=0).start()
        port = self._runner.addresses[0][1]
        self._config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
        self.kubeconfig.write_text(json.dumps(self._config))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._session.close()
        await self._runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        headers = {
            key: value
            for key, value in request.headers.items()
            if key in ("Accept", "Content-Type", "User-Agent")
        }
        headers["Authorization"] = f"Bearer {self._token}"
        body = await request.read()
        async with self._session.request(
            request.method, self._server + request.path_qs, data=body or None, headers=headers
        ) as upstream:
            if request.query.get("watch"):
                return await self._stream(request, upstream)
            payload = await upstream.read()
            if _is_counted(request.method, request.path):
                self._writes += 1
                self._after_write(self._writes, request.path)
            kind = upstream.headers.get("Content-Type", "application/json")
            return web.Response(
                status=upstream.status, body=payload, headers={"Content-Type": kind}
            )

    async def _stream(
        self, request: web.Request, upstream: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status)
        await response.prepare(request)
        try:
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
        except (aiohttp.ClientError, ConnectionError, asyncio.CancelledError):
            return response  # the operator died, as it was meant to
        return response


def _is_counted(method: str, path: str) -> bool:
    wanted = ("configmaps", "jobs", "languagefinetunes", "events")
    return method != "GET" and any(f"/{plural}" in path for plural in wanted)
