"""A Hugging Face Hub of one's own: the endpoints that huggingface_hub asks, over folders in memory.

It answers what the real one answers for repositories that are there, gated, private or missing:
status, `X-Error-Code`, commit, ETag, size and ranges. It counts what was asked, and can break.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".parquet", ".bin")
"""Kept as large files, which the Hub vouches for by SHA-256; the others by git's hash."""


@dataclass
class Repository:
    """One repository."""

    files: dict[str, bytes]
    kind: str = "model"
    is_gated: bool = False
    card: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[str, ...] = ("hf_reader",)
    """Tokens that may read it where it is gated."""

    @property
    def commit(self) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for name in sorted(self.files):
            digest.update(name.encode() + self.files[name])
        return digest.hexdigest()


@dataclass
class Faults:
    """What the hub does wrong."""

    busy: int = 0
    """So many requests are answered 503."""
    cut_after: list[int] = field(default_factory=list)
    """The next downloads break off after so many bytes."""
    corrupt: int = 0
    """So many downloads have a byte changed."""


class FakeHub:
    """The running hub."""

    def __init__(self, repositories: dict[str, Repository], *, address: str = "127.0.0.1") -> None:
        self.repositories = repositories
        self.faults = Faults()
        self.seen: list[tuple[str, str, str]] = []
        """Method, path and Range header of each request."""
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://{address}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def downloads(self) -> list[str]:
        return [path for method, path, _ in self.seen if method == "GET" and "/resolve/" in path]


API = re.compile(r"/api/(models|datasets)/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
TREE = re.compile(r"/api/(models|datasets)/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")
RESOLVE = re.compile(r"/(datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FakeHub

    def do_GET(self) -> None:
        self.handle_any()

    def do_HEAD(self) -> None:
        self.handle_any()

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.owner.seen.append((self.command, path, self.headers.get("Range", "")))
        if self.owner.faults.busy:
            self.owner.faults.busy -= 1
            return self.answer(503, b"busy")
        for pattern, respond in (
            (TREE, self.respond_tree),
            (API, self.respond_info),
            (RESOLVE, self.respond_file),
        ):
            if match := pattern.fullmatch(path):
                return self.respond(match, respond)
        return self.refuse(404, "")

    def respond(self, match: re.Match[str], respond: Any) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == "hf_wrong":
            return self.answer(401, b"{}", {"X-Error-Message": "Invalid credentials"})
        repository = self.owner.repositories.get(match["name"])
        is_dataset = "datasets/" in match[0].partition(match["name"])[0]
        if repository is None or (repository.kind == "dataset") != is_dataset:
            # The real hub says 401 to the nameless, lest they learn what exists.
            return self.refuse(404 if token else 401, "RepoNotFound")
        asks_file = respond == self.respond_file
        if repository.is_gated and asks_file and token not in repository.tokens:
            return self.refuse(403 if token else 401, "GatedRepo")
        revision = match.groupdict().get("revision") or "main"
        if revision not in ("main", "v1", repository.commit):
            return self.refuse(404, "RevisionNotFound")
        return respond(match, repository)

    def respond_info(self, match: re.Match[str], repository: Repository) -> None:
        siblings = [
            _describe(name, data) | {"rfilename": name}
            for name, data in sorted(repository.files.items())
        ]
        body = {
            "_id": "1",
            "id": match["name"],
            "sha": repository.commit,
            "siblings": siblings,
            "private": False,
            "gated": "auto" if repository.is_gated else False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "cardData": repository.card or None,
        }
        self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def respond_tree(self, match: re.Match[str], repository: Repository) -> None:
        del match
        body = [
            {"type": "file", "path": name, "oid": _blob(data), "size": len(data)}
            for name, data in sorted(repository.files.items())
        ]
        self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def respond_file(self, match: re.Match[str], repository: Repository) -> None:
        data = repository.files.get(match["file"])
        if data is None:
            return self.refuse(404, "EntryNotFound")
        etag = _describe(match["file"], data)["etag"]
        headers = {
            "X-Repo-Commit": repository.commit,
            "X-Linked-Size": str(len(data)),
            "X-Linked-Etag": f'"{etag}"',
            "ETag": f'"{etag}"',
            "Accept-Ranges": "bytes",
        }
        status, body = 200, data
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted[1])
            status, body = 206, data[start:]
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.send(status, body, headers)

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        faults = self.owner.faults
        if self.command == "GET" and faults.corrupt:
            faults.corrupt -= 1
            body = bytes([body[0] ^ 1]) + body[1:]
        if self.command == "GET" and faults.cut_after:
            self.answer(status, body, headers, most=faults.cut_after.pop(0))
            self.close_connection = True
            self.connection.close()
            return
        self.answer(status, body, headers)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code} if code else {})

    def answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        most: int | None = None,
    ) -> None:
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:most])
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def _describe(name: str, data: bytes) -> dict[str, Any]:
    described: dict[str, Any] = {"size": len(data), "blobId": _blob(data), "etag": _blob(data)}
    if name.endswith(LFS_SUFFIXES):
        sha256 = hashlib.sha256(data).hexdigest()
        described["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 134}
        described["etag"] = sha256
    return described


def _blob(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
