"""Progress: what is sent, how often, and that no server can hurt the training."""

import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests

from finetune_api.checkpoint import SavedCheckpoint
from finetune_api.outcome import Stage
from finetune_api.progress import ProgressReport, TrainerStatus
from finetune_operator.progress.x509 import renew
from finetune_trainer.pod.progress import Progress, Pusher, StatusServerClient, find_server
from finetune_trainer.steps.step_report import StepReport


def step(number: int, total: int = 10, **changes: Any) -> StepReport:
    values: dict[str, Any] = {
        "step": number,
        "total_steps": total,
        "epoch": number / total,
        "loss": 2.0,
        "grad_norm": 1.0,
        "learning_rate": 1e-3,
        "sequences": 8,
        "tokens": 100,
        "supervised_tokens": 80,
        "micro_batches": 1,
        "seconds": 0.5,
    }
    return StepReport(**values | changes)


def report_of(percent: int) -> ProgressReport:
    return ProgressReport(trainer_status=TrainerStatus(progress_percentage=percent))


class Recorder:
    """Stands where the pusher stands."""

    def __init__(self) -> None:
        self.sent: list[tuple[TrainerStatus, bool]] = []

    def submit(self, report: ProgressReport, *, urgent: bool) -> None:
        self.sent.append((report.trainer_status, urgent))

    def close(self) -> None: ...


@pytest.fixture
def reported() -> tuple[Progress, Recorder, list[float]]:
    recorder, now = Recorder(), [0.0]
    pusher: Any = recorder
    return Progress(pusher, clock=lambda: now[0]), recorder, now


def test_percent_covers_the_whole_run_and_never_falls(reported: Any) -> None:
    progress, recorder, _ = reported
    of_training = [stage for stage in Stage if stage is not Stage.MEASURE]
    for stage in of_training[1:6]:
        progress.enter(stage)
    for number in range(1, 11):
        progress.report_step(step(number))
    for stage in of_training[6:]:
        progress.enter(stage)
    progress.finish()
    percents = [status.progress_percentage for status, _ in recorder.sent]
    assert percents == sorted(percents)
    assert percents[4:15] == [10, 18, 26, 34, 42, 51, 59, 67, 75, 83, 92]
    assert percents[-2:] == [97, 100]


def test_the_remaining_time_follows_the_smoothed_step(reported: Any) -> None:
    progress, recorder, now = reported
    progress.enter(Stage.TRAIN)
    for number in (1, 2):
        now[0] += 2.0
        progress.report_step(step(number))
    assert recorder.sent[-1][0].estimated_remaining_seconds == 16
    now[0] += 12.0
    progress.report_step(step(3))
    assert recorder.sent[-1][0].estimated_remaining_seconds == 28


def test_metrics_are_those_that_the_status_understands(reported: Any) -> None:
    progress, recorder, _ = reported
    progress.enter(Stage.TRAIN)
    progress.report_step(step(4, eval_loss=1.5))
    status = recorder.sent[-1][0]
    assert {metric.name: metric.value for metric in status.metrics} == {
        "stage": "Train",
        "step": "4",
        "total_steps": "10",
        "epoch": "0.40",
        "loss": "2.0000",
        "tokens_per_second": "200",
        "eval_loss": "1.5000",
    }


def test_a_checkpoint_is_part_of_the_next_report(reported: Any) -> None:
    progress, recorder, _ = reported
    saved = SavedCheckpoint(step=3, uri="s3://adapters/c/step-3/", time="2026-11-25T07:30:00Z")
    progress.enter(Stage.TRAIN)
    progress.report_checkpoint(saved, 42)
    progress.report_step(step(4))
    status = recorder.sent[-1][0]
    assert (status.checkpoint, status.grace_seconds_needed) == (saved, 42)
    body = json.loads(
        ProgressReport(trainer_status=status).model_dump_json(by_alias=True, exclude_none=True)
    )
    assert body["trainerStatus"]["checkpoint"] == {
        "step": 3,
        "uri": "s3://adapters/c/step-3/",
        "time": "2026-11-25T07:30:00Z",
    }


def test_only_the_newest_report_is_sent_when_the_server_is_slow() -> None:
    sent, may_go, began = [], threading.Event(), threading.Event()

    def send(report: ProgressReport) -> None:
        began.set()
        may_go.wait(5)
        sent.append(report.trainer_status.progress_percentage)

    pusher = Pusher(send, interval_s=0.0)
    pusher.submit(report_of(0), urgent=False)
    began.wait(5)
    for percent in range(1, 50):
        pusher.submit(report_of(percent), urgent=False)
    may_go.set()
    pusher.close()
    assert sent == [0, 49]


def test_a_report_waits_for_the_interval_and_an_urgent_one_does_not() -> None:
    sent: list[int | None] = []
    arrived = threading.Semaphore(0)

    def send(report: ProgressReport) -> None:
        sent.append(report.trainer_status.progress_percentage)
        arrived.release()

    pusher = Pusher(send, interval_s=3600)
    pusher.submit(report_of(1), urgent=False)
    assert arrived.acquire(timeout=5)
    pusher.submit(report_of(2), urgent=False)
    # Had it not waited, it would stand between the two.
    pusher.submit(report_of(3), urgent=True)
    assert arrived.acquire(timeout=5)
    pusher.close()
    assert sent == [1, 3]


class Handler(BaseHTTPRequestHandler):
    """Keeps what it was sent."""

    received: ClassVar[list[dict[str, Any]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).received.append(
            {
                "path": self.path,
                "token": self.headers.get("Authorization"),
                "body": json.loads(body),
            }
        )
        self.send_response(202)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    class OneTest(Handler):
        received: ClassVar[list[dict[str, Any]]] = []

    running = ThreadingHTTPServer(("127.0.0.1", 0), OneTest)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/progress", OneTest.received
    running.shutdown()
    running.server_close()


def test_a_report_is_kubeflows_json_with_a_token_read_each_time(
    server: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    url, received = server
    token = tmp_path / "token"
    target = StatusServerClient(url, token_path=token)
    token.write_text("first\n")
    target.send(report_of(7))
    token.write_text("second\n")
    target.send(report_of(8))
    assert received == [
        {
            "path": "/progress",
            "token": f"Bearer {word}",
            "body": {"trainerStatus": {"progressPercentage": percent, "metrics": []}},
        }
        for word, percent in (("first", 7), ("second", 8))
    ]


def test_the_token_goes_only_to_a_server_of_the_authority_that_the_plan_brings(
    tmp_path: Path,
) -> None:
    ours, another = (renew(None, names=("127.0.0.1",), now=datetime.now(UTC)) for _ in range(2))
    (tmp_path / "both.pem").write_bytes(ours.tls_crt + ours.tls_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")

    class OneTest(Handler):
        received: ClassVar[list[dict[str, Any]]] = []

    running = ThreadingHTTPServer(("127.0.0.1", 0), OneTest)
    running.socket = context.wrap_socket(running.socket, server_side=True)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    url = f"https://127.0.0.1:{running.server_port}/progress"
    for name, material in (("ours", ours), ("another", another)):
        (tmp_path / name).write_bytes(material.ca_crt)
    StatusServerClient(url, tmp_path / "ours").send(report_of(1))
    with pytest.raises(requests.exceptions.SSLError):
        StatusServerClient(url, tmp_path / "another").send(report_of(2))
    running.shutdown()
    running.server_close()
    assert len(OneTest.received) == 1


def test_a_server_that_is_not_there_is_told_once_and_harms_nothing(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    dead = StatusServerClient("http://127.0.0.1:9/progress", token_path=tmp_path / "absent")
    tried = threading.Semaphore(0)

    def send(report: ProgressReport) -> None:
        tried.release()
        dead.send(report)

    pusher = Pusher(send, interval_s=0.0)
    for percent in range(3):
        pusher.submit(report_of(percent), urgent=True)
        assert tried.acquire(timeout=5)
    pusher.close()
    assert [record.message for record in caplog.records] == [
        "Progress could not be sent; training goes on"
    ]


def test_a_token_that_no_request_can_carry_ends_no_reports(tmp_path: Path) -> None:
    token, sent = tmp_path / "token", []
    token.write_bytes(b"\xff")
    tried = threading.Semaphore(0)

    def send(report: ProgressReport) -> None:
        try:
            token.read_text(encoding="utf-8")
        finally:
            tried.release()
        sent.append(report)

    pusher = Pusher(send, interval_s=0.0)
    pusher.submit(report_of(1), urgent=True)
    assert tried.acquire(timeout=5)
    token.write_text("whole")
    pusher.submit(report_of(2), urgent=True)
    pusher.close()
    assert sent == [report_of(2)]


def test_the_server_is_found_by_kubeflows_names() -> None:
    environ = {
        "KUBEFLOW_TRAINER_SERVER_URL": "https://status/x",
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": "/etc/ca.crt",
        "KUBEFLOW_TRAINER_SERVER_TOKEN": "/var/token",
    }
    assert find_server(environ) == StatusServerClient(
        "https://status/x", Path("/etc/ca.crt"), Path("/var/token")
    )
    assert find_server({}) is None
