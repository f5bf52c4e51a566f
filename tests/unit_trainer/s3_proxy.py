"""A proxy before a real S3 that makes what real stores do now and then: be busy, break off, forget.

It passes bytes on unchanged, the Host header included, so that signatures stay valid.
"""

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
)


@dataclass
class Behaviour:
    """What the proxy does to the requests that match."""

    busy: int = 0
    """So many requests are answered 503 SlowDown."""
    busy_method: str = ""
    """Only this method, or every one."""
    cut_after: list[int] = field(default_factory=list)
    """The next downloads break off after so many bytes."""
    lose_answer: int = 0
    """So many writes are done, and their answer is lost."""
    forget_uploads: int = 0
    """So many uploads are said to be stored and are not."""
    hang_method: str = ""
    """Requests of this method get no answer, and their connection stays open."""
    hang_key: str = ""
    """Only those whose path holds this."""
    may_answer: threading.Event = field(default_factory=threading.Event)
    """Lets go of what hangs, unanswered."""
    on_hang: Callable[[], None] = lambda: None
    full_key: str = ""
    """What is sent to paths that hold this is refused, because the quota is used up."""
    no_conditions: bool = False
    """Conditional writes are answered 501, as old stores do."""
    ignore_range: bool = False
    on_cut: Callable[[], None] = lambda: None
    whole: dict[str, bytes] = field(default_factory=dict)
    """What was read whole, by path: Range is signed, so an ignored one is answered from here."""
    seen: list[tuple[str, str]] = field(default_factory=list)
    """Method and Range header of each request."""


class S3Proxy:
    """The running proxy."""

    def __init__(self, upstream: str) -> None:
        self.behaviour = Behaviour()
        proxy, host = self, urlsplit(upstream).netloc

        class Handler(_Handler):
            behaviour = property(lambda _: proxy.behaviour)
            upstream = host

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.behaviour.may_answer.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour
    upstream: str

    def handle_any(self) -> None:
        behaviour, length = self.behaviour, int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        behaviour.seen.append((self.command, self.headers.get("Range", "")))
        if behaviour.hang_method == self.command and behaviour.hang_key in self.path:
            behaviour.on_hang()
            behaviour.may_answer.wait()
            self.close_connection = True
            return None
        conditional = "If-None-Match" in self.headers or "If-Match" in self.headers
        if behaviour.busy and behaviour.busy_method in ("", self.command):
            behaviour.busy -= 1
            return self.answer(503, SLOW_DOWN)
        if behaviour.full_key and behaviour.full_key in self.path and self.command == "PUT":
            return self.answer(409, SLOW_DOWN.replace(b"SlowDown", b"QuotaExceeded"))
        if behaviour.no_conditions and self.command == "PUT" and conditional:
            return self.answer(501, SLOW_DOWN.replace(b"SlowDown", b"NotImplemented"))
        return self.forward(body)

    def do_GET(self) -> None:
        self.handle_any()

    def do_PUT(self) -> None:
        self.handle_any()

    def do_HEAD(self) -> None:
        self.handle_any()

    def do_POST(self) -> None:
        self.handle_any()

    def do_DELETE(self) -> None:
        self.handle_any()

    def forward(self, body: bytes) -> None:
        behaviour = self.behaviour
        headers = dict(self.headers.items())
        if behaviour.ignore_range and "Range" in headers:
            self.relay(200, {}, behaviour.whole[self.path])
            return
        if behaviour.forget_uploads and self.command == "PUT" and body:
            behaviour.forget_uploads -= 1
            # Say that it was stored, and store nothing.
            self.answer(200, b"", etag=f'"{"0" * 32}"')
            return
        status, answered, data = self.ask(body, headers)
        if self.command == "GET" and "Range" not in headers:
            behaviour.whole[self.path] = data
        if behaviour.lose_answer and self.command in ("PUT", "POST"):
            behaviour.lose_answer -= 1
            self.close_connection = True
            self.connection.close()
            return
        self.relay(status, answered, data)

    def ask(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=20)
        try:
            connection.request(self.command, self.path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, dict(response.headers.items()), response.read()
        finally:
            connection.close()

    def relay(self, status: int, answered: dict[str, str], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in answered.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answered.get("Content-Length", str(len(data)))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.behaviour.cut_after and self.command == "GET" and "list-type" not in self.path:
            self.wfile.write(data[: self.behaviour.cut_after.pop(0)])
            self.wfile.flush()
            self.behaviour.on_cut()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(data)

    def answer(self, status: int, data: bytes, *, etag: str = "") -> None:
        self.send_response_only(status)
        if etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Stay silent."""
