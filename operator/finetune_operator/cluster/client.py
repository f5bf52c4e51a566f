"""Requests to the API server: raw JSON in, raw JSON out, typed errors.

Below it `cluster` gives the session; above it are the reflector, gather, apply, lease and certificate.
It waits where the API server asks to (429, Retry-After), tries again where a retry helps, and keeps to
the operator's own budget. It knows no meaning of any object and keeps none.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import orjson
from yarl import URL

from finetune_operator import errors
from finetune_operator.cluster.kinds import Kind
from finetune_operator.cluster.rate_limit import TokenBucket, spread
from finetune_operator.raw_object import MutableRawObject

PAGE_LIMIT = 500
"""Objects in one page of a list, as client-go asks for."""
REQUEST_TIMEOUT_S = 30.0
WATCH_TIMEOUT_S = 270
"""Seconds, give or take a tenth, after which the API server ends a watch: never all together."""
WATCH_CLIENT_TIMEOUT_S = 330.0
"""Seconds after which we end a watch that the API server forgot."""
SILENCE_S = 75.0
"""Seconds without a byte after which a watch counts as broken: bookmarks come every minute."""
PAUSES_S = (0.2, 0.5, 1.0, 2.0)
"""Pauses before another try of one request. The work queue waits longer, and holds no worker."""
RETRY_AFTER_LIMIT_S = 30.0
"""Longest Retry-After that is slept through; longer ones go back to the work queue."""

_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_MERGE = "application/merge-patch+json"
_METADATA = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"

_ERRORS: Mapping[int, type[errors.ClusterError]] = {
    401: errors.UnauthorizedError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    410: errors.GoneError,
    429: errors.UnavailableError,
}

CountRequest = Callable[[str, int], None]
"""Receives method and HTTP status of each answer; the status is 0 if there was none."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list."""

    items: list[MutableRawObject]
    resource_version: str


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = _JSON
    accept: str = _JSON

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def ignore_count(method: str, code: int) -> None:
    """Count nothing."""


class ApiClient:
    """The API server, seen through one session and one budget.

    Args:
        server: address of the API server.
        session: an authorised session.
        bucket: the budget of all requests but watches.
        count: is called with each answer.
    """

    def __init__(
        self,
        *,
        server: str,
        session: aiohttp.ClientSession,
        bucket: TokenBucket,
        count: CountRequest = ignore_count,
    ) -> None:
        self._server = server
        self._session = session
        self._bucket = bucket
        self._count = count

    async def get(self, kind: Kind, *, namespace: str | None, name: str) -> MutableRawObject:
        """Return one object.

        Raises:
            NotFoundError: there is none.
        """
        return await self._send(_Request("GET", kind.path(namespace=namespace, name=name)))

    async def get_path(self, path: str) -> MutableRawObject:
        """Return what stands at a path that is no object, such as discovery or the token keys."""
        # The token keys have a media type of their own, and the API server insists on it.
        return await self._send(_Request("GET", path, accept="*/*"))

    async def list_pages(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
    ) -> AsyncIterator[Page]:
        """Yield all objects, a page at a time; every page is of the same resourceVersion.

        Raises:
            GoneError: it took so long that the rest of the list is no longer kept.
        """
        query = {"limit": str(PAGE_LIMIT)}
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        accept = _METADATA if metadata_only else _JSON
        path = kind.path(namespace=namespace)
        while True:
            answer = await self._send(_Request("GET", path, query=query, accept=accept))
            metadata = answer["metadata"]
            yield Page(answer.get("items") or [], metadata["resourceVersion"])
            if not (token := metadata.get("continue")):
                return
            query["continue"] = token

    async def watch(
        self, kind: Kind, *, namespace: str | None, resource_version: str, label_selector: str = ""
    ) -> AsyncIterator[tuple[str, MutableRawObject]]:
        """Yield (type, object) of what happens after `resource_version`, until the watch ends.

        Raises:
            GoneError: the resourceVersion is too old.
            UnavailableError: the connection broke or fell silent.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(round(spread(WATCH_TIMEOUT_S, share=0.1))),
        }
        if label_selector:
            query["labelSelector"] = label_selector
        request = _Request("GET", kind.path(namespace=namespace), query=query)
        timeout = aiohttp.ClientTimeout(
            total=WATCH_CLIENT_TIMEOUT_S, sock_connect=10, sock_read=SILENCE_S
        )
        try:
            async with self._session.request(
                "GET", self._url(request), headers={"Accept": _JSON}, timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise _error(request, response, await response.read())
                async for line in _lines(response.content):
                    yield _event(request, line)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise errors.UnavailableError(f"The watch {request} broke: {error!r}.") from error

    async def create(
        self, kind: Kind, *, namespace: str | None, manifest: Mapping[str, Any]
    ) -> MutableRawObject:
        """Create an object and return it as stored.

        Raises:
            AlreadyExistsError: the name is taken, perhaps by an earlier try of this very request.
            ForbiddenError: RBAC, quota or admission refused it.
            InvalidObjectError: it is malformed.
        """
        request = _Request("POST", kind.path(namespace=namespace), body=orjson.dumps(manifest))
        return await self._send(request)

    async def replace(
        self, kind: Kind, *, namespace: str, name: str, manifest: MutableRawObject
    ) -> MutableRawObject:
        """Replace an object whose resourceVersion is still the manifest's.

        Raises:
            ConflictError: somebody else was faster.
        """
        path = kind.path(namespace=namespace, name=name)
        return await self._send(_Request("PUT", path, body=orjson.dumps(manifest)))

    async def delete(
        self,
        kind: Kind,
        *,
        namespace: str,
        name: str,
        uid: str,
        propagation: Literal["Background", "Foreground"] = "Background",
    ) -> None:
        """Delete the object that still has this uid; in the foreground it goes after its dependents.

        Raises:
            NotFoundError: it is gone.
            ConflictError: the name belongs to another object now.
        """
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {"uid": uid},
        }
        path = kind.path(namespace=namespace, name=name)
        await self._send(_Request("DELETE", path, body=orjson.dumps(options)))

    async def apply_status(
        self, kind: Kind, *, manifest: Mapping[str, Any], field_manager: str
    ) -> MutableRawObject:
        """Apply the manifest's status server-side, taking over what others own of it.

        A uid in the manifest's metadata keeps a new object of the same name from the old one's status.

        Raises:
            NotFoundError: the object is gone.
            ConflictError: the object has another uid.
        """
        metadata = manifest["metadata"]
        path = kind.path(
            namespace=metadata["namespace"], name=metadata["name"], subresource="status"
        )
        query = {"fieldManager": field_manager, "force": "true"}
        body = orjson.dumps(manifest)
        return await self._send(
            _Request("PATCH", path, query=query, body=body, content_type=_APPLY)
        )

    async def merge_patch(
        self, kind: Kind, *, namespace: str, name: str, patch: Mapping[str, Any]
    ) -> MutableRawObject:
        """Merge a patch into an object."""
        path = kind.path(namespace=namespace, name=name)
        body = orjson.dumps(patch)
        return await self._send(_Request("PATCH", path, body=body, content_type=_MERGE))

    async def _send(self, request: _Request) -> MutableRawObject:
        for pause_s in PAUSES_S:
            try:
                return await self._send_once(request)
            except errors.UnavailableError as error:
                asked_s = error.retry_after_s or 0.0
                if asked_s > RETRY_AFTER_LIMIT_S:
                    raise
                wait_s = max(spread(pause_s), asked_s)
                await asyncio.sleep(wait_s)
        return await self._send_once(request)

    async def _send_once(self, request: _Request) -> MutableRawObject:
        await self._bucket.take()
        headers = {"Accept": request.accept, "Content-Type": request.content_type}
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, sock_connect=10)
        try:
            async with self._session.request(
                request.method,
                self._url(request),
                data=request.body,
                headers=headers,
                timeout=timeout,
            ) as response:
                payload = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._count(request.method, 0)
            raise errors.UnavailableError(f"{request} got no answer: {error!r}.") from error
        self._count(request.method, response.status)
        if response.status >= 400:
            raise _error(request, response, payload)
        return _parse(request, payload)

    def _url(self, request: _Request) -> URL:
        return URL(f"{self._server}{request.path}", encoded=True).with_query(request.query)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    # NB: not readline(): it refuses lines over 128 KiB, and an object may have 1.5 MB.
    rest = bytearray()
    async for chunk in stream.iter_any():
        rest += chunk
        *complete, tail = rest.split(b"\n")
        for line in complete:
            yield bytes(line)
        rest = tail


def _parse(request: _Request, payload: bytes) -> MutableRawObject:
    """Return what was answered; a load balancer in front may answer 200 with a page of its own."""
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise errors.UnavailableError(f"{request} was answered with no object: {payload[:80]!r}.")
    return found


def _event(request: _Request, line: bytes) -> tuple[str, MutableRawObject]:
    event = _parse(request, line)
    if not {"type", "object"} <= event.keys():
        raise errors.UnavailableError(f"{request} was answered with no event: {line[:80]!r}.")
    body: MutableRawObject = event["object"]
    if event["type"] != "ERROR":
        return event["type"], body
    code, message = body.get("code") or 0, body.get("message")
    raise _family(code)(f"The watch {request} ended with {code}: {message}", code=code)


def _family(code: int) -> type[errors.ClusterError]:
    is_refusal = 400 <= code < 500 and code != 408
    return _ERRORS.get(code, errors.InvalidObjectError if is_refusal else errors.UnavailableError)


def _error(
    request: _Request, response: aiohttp.ClientResponse, payload: bytes
) -> errors.ClusterError:
    code = response.status
    message, reason = _status_words(payload)
    family = _family(code)
    if code == 409 and reason == "AlreadyExists":
        family = errors.AlreadyExistsError
    text = f"{request} was answered {code}: {message}"
    return family(text, code=code, answer=message, retry_after_s=_retry_after(response))


def _status_words(payload: bytes) -> tuple[str, str]:
    try:
        status = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload[:256].decode(errors="replace"), ""
    if not isinstance(status, dict):
        return "", ""
    return str(status.get("message") or ""), str(status.get("reason") or "")


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None
