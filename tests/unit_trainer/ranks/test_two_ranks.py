"""Two ranks that train one model, through the entry point: on CPUs here, a GPU each in a pod."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit_trainer.conftest import make_bucket
from tests.unit_trainer.seaweed import SeaweedFS
from tests.unit_trainer.tiny import write_model
from tests.unit_trainer.trainer_pod import Pod, adapter_of, fill, outcome_of, wait_for

pytestmark = [pytest.mark.torch, pytest.mark.slow]
torch = pytest.importorskip("torch")

TWO = {"FINETUNE_WORLD_SIZE": "2"}
SHORT = {
    "training__max_seq_length": 64,
    "training__max_steps": 9,
    "training__eval_steps": 3,
    "training__learning_rate": 1e-3,
}
"""57 rows in steps of 8: the eighth holds a single row, which one rank computes alone."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def make_pod(seaweed: SeaweedFS, model: Path, folder: Path, **environ: str) -> Pod:
    folder.mkdir(exist_ok=True)
    pod = Pod(make_bucket(seaweed.endpoint), folder, environ)
    fill(pod.bucket, model)
    return pod


def tensors_of(pod: Pod, plan: Any) -> dict[str, Any]:
    from safetensors.torch import load

    return load(adapter_of(pod, plan))


def test_two_ranks_make_the_adapter_of_one(seaweed: SeaweedFS, model: Path, tmp_path: Path) -> None:
    alone = make_pod(seaweed, model, tmp_path / "one")
    together = make_pod(seaweed, model, tmp_path / "two", **TWO)
    plan, same = alone.plan(**SHORT), together.plan(**SHORT)
    expected, _ = alone.run(plan)
    found, log = together.run(same)
    assert (found.exit_code, found.reason) == (0, "Done"), found.message
    assert found.summary is not None
    assert expected.summary is not None
    assert (found.summary.steps, found.summary.sequences_per_step) == (
        expected.summary.steps,
        expected.summary.sequences_per_step,
    )
    assert found.summary.final_loss == pytest.approx(expected.summary.final_loss, abs=1e-5)
    assert found.evaluation is not None
    assert expected.evaluation is not None
    assert found.evaluation.base_loss == pytest.approx(expected.evaluation.base_loss, abs=1e-5)
    assert found.evaluation.adapter_loss == pytest.approx(
        expected.evaluation.adapter_loss, abs=1e-5
    )
    assert found.evaluation.examples == expected.evaluation.examples
    ours, theirs = tensors_of(together, same), tensors_of(alone, plan)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-5)
    [reported] = [line["value"] for line in log if line.get("choice") == "worldSize"]
    assert reported == 2
    ours_of_second = [line for line in log if line.get("rank") and "finetune" in line["logger"]]
    assert ours_of_second == []


def find_worker(pod: Pod, first: int) -> int:
    """Return the process that rank 0 started."""
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    [worker] = [
        child for child in children if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return int(worker)


def is_running(process: int) -> bool:
    try:
        said = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    # The heir of a dead process may not wait for it.
    return said.rpartition(")")[2].split()[0] != "Z"


def test_a_pod_of_two_that_is_asked_to_go_resumes_as_if_nothing_had_been(
    seaweed: SeaweedFS, model: Path, tmp_path: Path
) -> None:
    changes = SHORT | {"training__max_steps": 40, "lora__dropout": 0.1}
    pod = make_pod(seaweed, model, tmp_path / "stopped", **TWO, FINETUNE_GRACE_SECONDS="120")
    plan = pod.plan(**changes)
    asked = pod.start(plan)
    wait_for(asked, "Step done", step=2)
    worker = find_worker(pod, asked.pid)
    # To all of the pod, as a shell does it: rank 0 alone answers.
    os.kill(worker, signal.SIGTERM)
    asked.send_signal(signal.SIGTERM)
    asked.communicate(timeout=120)
    outcome = outcome_of(pod)
    assert (asked.returncode, outcome.reason, outcome.stage) == (75, "Interrupted", "Train")
    assert outcome.checkpoint is not None
    assert not is_running(worker)

    shutil.rmtree(pod.folder / "work")
    outcome, _ = pod.run(plan)
    assert (outcome.exit_code, outcome.reason) == (0, "Done"), outcome.message
    assert outcome.summary is not None
    assert outcome.summary.resumed_from_step is not None
    calm = make_pod(seaweed, model, tmp_path / "calm", **TWO)
    undisturbed = calm.plan(**changes)
    calm.run(undisturbed)
    assert adapter_of(pod, plan) == adapter_of(calm, undisturbed)


def test_a_rank_that_dies_ends_the_run_which_says_so(
    seaweed: SeaweedFS, model: Path, tmp_path: Path
) -> None:
    pod = make_pod(seaweed, model, tmp_path / "pod", **TWO)
    first = pod.start(pod.plan(**SHORT | {"training__max_steps": 400}))
    wait_for(first, "Step done", step=2)
    os.kill(find_worker(pod, first.pid), signal.SIGKILL)
    first.communicate(timeout=60)
    outcome = outcome_of(pod)
    assert (first.returncode, outcome.reason, outcome.stage) == (70, "RankLost", "Train")
    assert outcome.message == (
        "The training's rank 1 of 2 was killed by signal 9 and said nothing: the pod's memory may"
        " have run out or a GPU failed; look at the node and resources.limits.memory. The next attempt"
        " resumes at the newest checkpoint."
    )
    # What both had done is saved before the run ends.
    assert outcome.checkpoint is not None
    assert outcome.checkpoint.step >= 2
    assert not [key for key in pod.published() if "/runs/" in key]


def test_a_rank_0_that_is_killed_takes_the_others_along(
    seaweed: SeaweedFS, model: Path, tmp_path: Path
) -> None:
    pod = make_pod(seaweed, model, tmp_path / "pod", **TWO)
    first = pod.start(pod.plan())
    wait_for(first, "Stage begins")
    worker = find_worker(pod, first.pid)
    first.kill()
    first.wait(10)
    for _ in range(100):
        if not is_running(worker):
            break
        time.sleep(0.2)
    assert not is_running(worker)
