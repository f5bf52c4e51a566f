"""A disk or a bucket that is full: nothing half published, and what was trained is gone on with."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit_trainer.conftest import make_bucket
from tests.unit_trainer.s3_proxy import S3Proxy
from tests.unit_trainer.seaweed import SeaweedFS
from tests.unit_trainer.tiny import write_model
from tests.unit_trainer.trainer_pod import LONG, Pod, fill, outcome_of, wait_for

pytestmark = [pytest.mark.torch, pytest.mark.slow]
pytest.importorskip("torch")

DISK_MIB = 48


@pytest.fixture
def pod(seaweed: SeaweedFS, tmp_path: Path) -> Pod:
    bucket = make_bucket(seaweed.endpoint)
    fill(bucket, write_model(tmp_path / "model"))
    return Pod(bucket, tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of its own that a test may fill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("Only root may mount a small disk.")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_up(disk: Path) -> Path:
    """Write until nothing more fits; return what was written."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def test_a_bucket_that_is_full_ends_the_run_and_the_next_attempt_only_publishes(
    pod: Pod, proxy: S3Proxy
) -> None:
    pod.environ["FINETUNE_OUTPUT_AWS_ENDPOINT_URL_S3"] = proxy.endpoint
    plan = pod.plan(training__max_seq_length=64)
    proxy.behaviour.full_key = "runs/1-"
    # The check before the first step sends nothing, so it meets no quota.
    process = pod.start(plan)
    wait_for(process, "Step done")
    process.communicate(timeout=240)
    refused = outcome_of(pod)
    assert (refused.exit_code, refused.reason, refused.stage) == (73, "OutputUnwritable", "Publish")
    assert pod.published() == {}

    proxy.behaviour.full_key = ""
    again, log = pod.run(plan)
    assert (again.exit_code, again.reason) == (0, "Done"), again.message
    assert again.summary is not None
    assert again.summary.resumed_from_step == again.summary.steps
    assert not [line for line in log if line["message"] == "Step done"]


def test_a_disk_that_is_full_leaves_the_last_whole_checkpoint_and_publishes_nothing(
    pod: Pod, small_disk: Path
) -> None:
    plan = pod.plan(
        **LONG | {"training__max_steps": 400}, checkpoints={"every_seconds": None, "every_steps": 5}
    )
    process = pod.start(plan, FINETUNE_WORK_DIR=str(small_disk / "work"))
    wait_for(process, "A checkpoint is whole")
    ballast = fill_up(small_disk)
    said, _ = process.communicate(timeout=240)
    full = outcome_of(pod)
    assert (full.exit_code, full.reason) == (78, "DiskFull"), full.message
    assert full.message.startswith("The scratch volume is full")
    assert "raise the pod's ephemeral-storage in resources.limits" in full.message
    assert full.checkpoint is not None
    assert not [key for key in pod.published() if "/runs/" in key]

    ballast.unlink()
    shutil.rmtree(small_disk / "work")
    again, log = pod.run(plan)
    assert (again.exit_code, again.reason) == (0, "Done"), again.message
    assert again.summary is not None
    reported = [line for line in map(json.loads, said.splitlines()) if "uri" in line]
    assert again.summary.resumed_from_step == full.checkpoint.step
    assert not [line for line in log if line["message"] == "A checkpoint is passed over"], reported
