"""A store that hangs in the middle of a request, and a pod that must go: in time, and losing nothing."""

import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.unit_trainer.conftest import make_bucket
from tests.unit_trainer.s3_proxy import S3Proxy
from tests.unit_trainer.seaweed import SeaweedFS
from tests.unit_trainer.tiny import write_model
from tests.unit_trainer.trainer_pod import LONG, Pod, fill, outcome_of, wait_for

pytestmark = [pytest.mark.torch, pytest.mark.slow]
pytest.importorskip("torch")

GRACE_S = 12
"""Of pods whose store hangs: what is below must be over in this time, or a kernel ends them."""


def ask_to_go(process: "subprocess.Popen[str]") -> float:
    """Ask a pod to go; return the seconds until it is gone."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return time.monotonic() - began


@pytest.fixture
def pod_behind(seaweed: SeaweedFS, proxy: S3Proxy, tmp_path: Path) -> Pod:
    """Return a pod whose output is behind the proxy."""
    bucket = make_bucket(seaweed.endpoint)
    fill(bucket, write_model(tmp_path / "model"))
    environ = {
        "FINETUNE_OUTPUT_AWS_ENDPOINT_URL_S3": proxy.endpoint,
        "FINETUNE_GRACE_SECONDS": str(GRACE_S),
    }
    return Pod(bucket, tmp_path, environ)


def test_a_store_that_hangs_holds_no_pod_beyond_its_grace_and_the_last_whole_checkpoint_stays(
    pod_behind: Pod, proxy: S3Proxy
) -> None:
    plan = pod_behind.plan(**LONG, checkpoints={"every_seconds": None, "every_steps": 5})
    process = pod_behind.start(plan)
    wait_for(process, "A checkpoint is whole")
    proxy.behaviour.hang_method = "PUT"
    wait_for(process, "Step done", step=30)
    assert ask_to_go(process) < GRACE_S
    outcome = outcome_of(pod_behind)
    assert (process.returncode, outcome.reason, outcome.stage) == (75, "Interrupted", "Train")
    assert outcome.checkpoint is not None

    proxy.behaviour.hang_method = ""
    proxy.behaviour.may_answer.set()
    shutil.rmtree(pod_behind.folder / "work")
    again, _ = pod_behind.run(plan)
    assert again.summary is not None
    assert again.summary.resumed_from_step == outcome.checkpoint.step


def test_a_pod_that_must_go_while_it_publishes_saves_instead_and_the_next_one_only_publishes(
    pod_behind: Pod, proxy: S3Proxy
) -> None:
    plan = pod_behind.plan(training__max_seq_length=64)
    hangs = threading.Event()
    proxy.behaviour.on_hang = hangs.set
    proxy.behaviour.hang_method, proxy.behaviour.hang_key = "PUT", "runs/1-"
    process = pod_behind.start(plan)
    assert hangs.wait(120)
    assert ask_to_go(process) < GRACE_S
    outcome = outcome_of(pod_behind)
    assert (process.returncode, outcome.reason, outcome.stage) == (75, "Interrupted", "Publish")
    assert outcome.checkpoint is not None
    assert outcome.message == (
        "The pod was asked to go after the training, before its adapter was published: the next"
        f" attempt resumes at step {outcome.checkpoint.step}."
    )
    assert not any(key.endswith("latest.json") for key in pod_behind.published())

    proxy.behaviour.hang_method = ""
    proxy.behaviour.may_answer.set()
    shutil.rmtree(pod_behind.folder / "work")
    again, log = pod_behind.run(plan)
    assert (again.exit_code, again.reason) == (0, "Done"), again.message
    assert again.summary is not None
    assert again.summary.resumed_from_step == again.summary.steps
    assert not [line for line in log if line["message"] == "Step done"]
