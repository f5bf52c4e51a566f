"""A small API server for the shell's unit tests: lists in pages, watches, answers as instructed.

It knows no admission, no schema and no garbage collection: what needs a real API server is tested on
one, under tests/integration.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from finetune_operator.cluster.client import ApiClient
from finetune_operator.cluster.rate_limit import TokenBucket


def build_object(name: str, *, version: int, owner: str = "") -> dict[str, Any]:
    """Return an object whose uid is its name with `uid-` before it."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "ml",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
    }
    if owner:
        metadata["ownerReferences"] = [
            {"controller": True, "uid": f"uid-{owner}", "name": owner, "kind": "LanguageFinetune"}
        ]
    return {"metadata": metadata}


def build_status(code: int, reason: str, message: str = "no") -> dict[str, Any]:
    """Return a Status as the API server answers an error."""
    return {"kind": "Status", "code": code, "reason": reason, "message": message}


@dataclass
class Answer:
    """One answer that was prepared."""

    code: int
    body: dict[str, Any] | str
    """An object, or the text of a page that is none."""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Watch:
    """One open watch, to be fed by a test."""

    resource_version: str
    lines: "asyncio.Queue[dict[str, Any] | None]" = field(default_factory=asyncio.Queue)

    def send(self, type_of_event: str, body: dict[str, Any]) -> None:
        """Send one event."""
        self.lines.put_nowait({"type": type_of_event, "object": body})

    def bookmark(self, version: int) -> None:
        """Send a bookmark."""
        self.send("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})

    def end(self) -> None:
        """End the watch as the server's timeout does."""
        self.lines.put_nowait(None)


class FakeApi:
    """The server; `items` is what lists show."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.version = 1
        self.page_size = 2
        self.watches: asyncio.Queue[Watch] = asyncio.Queue()
        self.answers: list[Answer] = []
        """Prepared answers of all requests but lists and watches, in order."""
        self.requests: list[tuple[str, str, Any]] = []
        self.url = ""
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Serve."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host="127.0.0.1", port=0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        self._session = aiohttp.ClientSession()

    async def stop_serving(self) -> None:
        """Take the server away from its clients."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def stop(self) -> None:
        """Stop serving and let the clients go."""
        if self._session is not None:
            await self._session.close()
        await self.stop_serving()

    def client(self, count: Callable[[str, int], None] = lambda method, code: None) -> ApiClient:
        """Return a client of this server."""
        assert self._session is not None
        bucket = TokenBucket(rate=1000, burst=1000)
        return ApiClient(server=self.url, session=self._session, bucket=bucket, count=count)

    def answer(self, code: int, body: dict[str, Any] | str, **headers: str) -> None:
        """Prepare the next answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append(Answer(code, body, named))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            return await self._watch(request)
        if request.method == "GET" and "limit" in request.query:
            return self._list(request)
        body = await request.json() if request.can_read_body else None
        self.requests.append((request.method, request.path_qs, body))
        answer = self.answers.pop(0)
        if isinstance(answer.body, str):
            return web.Response(text=answer.body, status=answer.code, headers=answer.headers)
        return web.json_response(answer.body, status=answer.code, headers=answer.headers)

    def _list(self, request: web.Request) -> web.Response:
        start = int(request.query.get("continue", "0"))
        end = start + self.page_size
        more = {"continue": str(end)} if end < len(self.items) else {}
        metadata = {"resourceVersion": str(self.version), **more}
        return web.json_response({"metadata": metadata, "items": self.items[start:end]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        watch = Watch(request.query["resourceVersion"])
        await self.watches.put(watch)
        response = web.StreamResponse()
        await response.prepare(request)
        while (line := await watch.lines.get()) is not None:
            await response.write(json.dumps(line).encode() + b"\n")
        return response
