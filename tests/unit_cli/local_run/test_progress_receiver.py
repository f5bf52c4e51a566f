"""The receiver of a trainer's reports: the operator's protocol, on the loopback interface alone."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from finetune_api.progress import Metric, ProgressReport, TrainerStatus
from finetune_cli.local_run.progress_receiver import ProgressReceiver

PATH = "/namespaces/default/languagefinetunes/swahili/runs/3/progress"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[ProgressReceiver]:
    with ProgressReceiver(tmp_path) as running:
        yield running


def post(receiver: ProgressReceiver, body: bytes, *, token: str = "", path: str = PATH) -> int:
    headers = {"Authorization": f"Bearer {token or receiver.token_file.read_text()}"}
    with httpx.Client(trust_env=False) as client:
        return client.post(receiver.url + path, content=body, headers=headers).status_code


def report(percent: int, eta: int | None = None, **metrics: str) -> bytes:
    named = tuple(Metric(name=name, value=value) for name, value in metrics.items())
    status = TrainerStatus(
        progress_percentage=percent, estimated_remaining_seconds=eta, metrics=named
    )
    return ProgressReport(trainer_status=status).model_dump_json(by_alias=True).encode()


def test_a_report_is_kept_with_what_earlier_ones_said(receiver: ProgressReceiver) -> None:
    assert post(receiver, report(20, 9, stage="Train", step="4", loss="2.5")) == 202
    assert post(receiver, report(92, stage="Evaluate")) == 202
    newest = receiver.newest(3)
    assert newest is not None
    assert (newest.percent, newest.stage, newest.step, newest.loss) == (92, "Evaluate", 4, "2.5")
    assert newest.eta_seconds is None
    assert receiver.newest(2) is None


@pytest.mark.parametrize(
    ("body", "token", "path", "answer"),
    [
        (report(20), "another", PATH, 401),
        (b"{}", "", PATH, 400),
        (report(20), "", "/somewhere", 404),
        (b" " * 70_000, "", PATH, 413),
    ],
    ids=["wrong-token", "no-report", "no-run", "too-long"],
)
def test_what_is_no_report_of_this_run_is_refused(
    receiver: ProgressReceiver, body: bytes, token: str, path: str, answer: int
) -> None:
    assert post(receiver, body, token=token, path=path) == answer
    assert receiver.newest(3) is None


def test_nobody_else_can_read_the_token_and_it_goes_with_the_run(tmp_path: Path) -> None:
    with ProgressReceiver(tmp_path) as receiver:
        assert receiver.token_file.stat().st_mode & 0o077 == 0
        assert receiver.url.startswith("http://127.0.0.1:")
    assert not receiver.token_file.exists()
