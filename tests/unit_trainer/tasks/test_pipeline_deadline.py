"""A run that its deadline ended: `publish` brings out what its newest checkpoint holds, and says so."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcome import Outcome
from finetune_api.plan import TrainingPlan
from tests.unit_trainer.conftest import make_bucket
from tests.unit_trainer.seaweed import SeaweedFS
from tests.unit_trainer.tiny import write_model
from tests.unit_trainer.trainer_pod import Pod, fill

pytestmark = [pytest.mark.torch, pytest.mark.slow]
pytest.importorskip("torch")

DEADLINE = {"FINETUNE_DEADLINE_SECONDS": "60"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def pod(seaweed: SeaweedFS, model: Path, tmp_path: Path) -> Pod:
    bucket = make_bucket(seaweed.endpoint)
    fill(bucket, model)
    return Pod(bucket, tmp_path, environ=dict(DEADLINE))


def plan_of(pod: Pod) -> TrainingPlan:
    checkpoints = {"every_steps": 4, "every_seconds": None}
    return pod.plan(training__max_steps=120, training__max_seq_length=64, checkpoints=checkpoints)


def stop_after_a_checkpoint(pod: Pod, plan: TrainingPlan) -> int:
    """Let the pod train until it is asked to stop, as the Job controller does; return what it saved."""
    process = pod.start(plan)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["message"] == "A checkpoint is whole":
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    outcome = Outcome.from_termination_message((pod.folder / "outcome.json").read_text())
    assert outcome is not None
    assert (outcome.exit_code, outcome.checkpoint is not None) == (75, True), outcome.message
    return outcome.checkpoint.step if outcome.checkpoint else 0


def publish(pod: Pod, plan: TrainingPlan) -> tuple[Outcome, list[dict[str, Any]]]:
    pod.arguments = ("publish",)
    try:
        return pod.run(plan)
    finally:
        pod.arguments = ()


def test_what_a_run_had_at_its_deadline_is_published_and_a_longer_deadline_trains_on(
    pod: Pod,
) -> None:
    plan = plan_of(pod)
    step = stop_after_a_checkpoint(pod, plan)

    outcome, log = publish(pod, plan)

    folder = f"adapters/ml/tiny/runs/1-{plan.hash[:8]}-step-{step}"
    where = f"s3://{pod.bucket.name}/{folder}/"
    assert (outcome.exit_code, outcome.reason) == (0, "PublishedAtDeadline"), outcome.message
    assert outcome.message == (
        f"The deadline of 60 seconds ended the run after step {step} of 120; its adapter of step {step} is"
        f" published at {where}."
    )
    assert outcome.summary is not None
    assert (outcome.summary.steps, outcome.summary.resumed_from_step) == (step, step)
    assert not [line for line in log if line["message"] == "Step done"]
    stored = pod.bucket.store.read(pod.bucket.at(f"{folder}/README.md"))
    assert stored is not None
    assert "Its deadline of 60 seconds ended it before its last step." in stored[0].decode()

    # Applied again as it was, its work is done; with more time it goes on from the checkpoint.
    again, _ = pod.run(plan)
    assert (again.reason, again.published and again.published.uri) == ("AlreadyDone", where)
    pod.environ = {"FINETUNE_DEADLINE_SECONDS": "600"}
    longer, _ = pod.run(plan)
    assert (longer.exit_code, longer.reason) == (0, "Done"), longer.message
    assert longer.summary is not None
    assert (longer.summary.steps, longer.summary.resumed_from_step) == (120, step)


def test_a_run_without_a_checkpoint_has_nothing_to_publish(pod: Pod) -> None:
    outcome, _ = publish(pod, plan_of(pod))
    assert (outcome.exit_code, outcome.reason) == (66, "NothingToPublish")
    assert outcome.message == (
        "The run is over its deadline and no checkpoint of it can be used, so there is nothing to publish:"
        " apply it again with a longer activeDeadlineSeconds, or with checkpoints.everySteps set lower."
    )


def test_publishing_without_a_deadline_is_refused(pod: Pod) -> None:
    pod.environ = {}
    outcome, _ = publish(pod, plan_of(pod))
    assert (outcome.exit_code, outcome.reason) == (64, "DeadlineUnknown")
    assert outcome.message == (
        "The command 'publish' is about a run that its deadline ended, and FINETUNE_DEADLINE_SECONDS does"
        " not say which; operator and trainer must be of one release."
    )
