"""Receives what the trainer reports: the operator's protocol on the loopback interface.

A thread answers each POST at once with 202 and keeps the newest status. A token in a file that only
this user can read keeps the other users of the machine out.
"""

import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from finetune_api import wire
from finetune_api.progress import ProgressReport
from finetune_api.status import ProgressStatus
from finetune_operator.decide.status.build_progress import build_progress, with_previous_values

LOOPBACK = "127.0.0.1"
TOKEN_BYTES = 24


@dataclass
class _Newest:
    """The newest progress of each run, shared by the threads of the server."""

    lock: threading.Lock
    by_run: dict[int, ProgressStatus]


class ProgressReceiver:
    """A server that takes reports while it is entered.

    Args:
        folder: Where the token is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.token_file = folder / wire.TOKEN_FILE
        """The file with the token that a report has to carry."""
        self._token = secrets.token_urlsafe(TOKEN_BYTES)
        self._newest = _Newest(threading.Lock(), {})
        self._server = ThreadingHTTPServer((LOOPBACK, 0), self._build_handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"http://{LOOPBACK}:{self._server.server_port}"

    def newest(self, run: int) -> ProgressStatus | None:
        """Return the progress of a run, or None where nothing was reported."""
        with self._newest.lock:
            return self._newest.by_run.get(run)

    def __enter__(self) -> Self:
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(self._token, encoding="ascii")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.token_file.unlink(missing_ok=True)

    def receive(self, body: bytes, *, path: str, authorization: str) -> HTTPStatus:
        """Keep one report and return the answer to it."""
        if not secrets.compare_digest(authorization.encode(), f"Bearer {self._token}".encode()):
            return HTTPStatus.UNAUTHORIZED
        run = path.rpartition("/runs/")[2].partition("/")[0]
        try:
            report = ProgressReport.model_validate_json(body)
        except ValidationError:
            return HTTPStatus.BAD_REQUEST
        if not run.isdecimal():
            return HTTPStatus.NOT_FOUND
        now = datetime.now(UTC).isoformat(timespec="seconds")
        status = build_progress(report.trainer_status, run=int(run), time=now)
        with self._newest.lock:
            previous = self._newest.by_run.get(int(run))
            known = with_previous_values(status, previous) if previous is not None else status
            # A stage that names no remaining time has none that is known.
            self._newest.by_run[int(run)] = known.model_copy(
                update={"eta_seconds": status.eta_seconds}
            )
        return HTTPStatus.ACCEPTED

    def _build_handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            """Answers one POST."""

            timeout = 10
            """Seconds for one request, so that no open connection holds a thread."""

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length", "")
                size = int(length) if length.isdecimal() else -1
                if not 0 <= size <= wire.PROGRESS_BODY_LIMIT_BYTES:
                    self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                    return
                answer = receiver.receive(
                    self.rfile.read(size),
                    path=self.path,
                    authorization=self.headers.get("Authorization", ""),
                )
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- likewise
                """Log nothing: the screen belongs to the run."""

        return Handler
