"""`python -m finetune_trainer` as the pod starts it: a real S3, a tiny model, one plan, one outcome."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from finetune_api.outcome import Outcome
from finetune_trainer.publish.publish import OutputPlace, publish
from tests.unit_trainer.conftest import make_bucket
from tests.unit_trainer.publish.test_export_folder import build_record
from tests.unit_trainer.seaweed import SECRET_KEY, SeaweedFS
from tests.unit_trainer.tiny import write_model
from tests.unit_trainer.trainer_pod import LONG, Pod, adapter_of, chats, fill, outcome_of, wait_for

pytestmark = [pytest.mark.torch, pytest.mark.slow]
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def pod(seaweed: SeaweedFS, model: Path, tmp_path: Path) -> Pod:
    bucket = make_bucket(seaweed.endpoint)
    fill(bucket, model)
    return Pod(bucket, tmp_path)


def test_a_plan_becomes_a_published_adapter_and_is_never_trained_twice(pod: Pod) -> None:
    plan = pod.plan(training__num_train_epochs=3.0, training__max_seq_length=64)
    outcome, log = pod.run(plan)
    assert (outcome.exit_code, outcome.reason) == (0, "Done"), outcome.message
    assert outcome.evaluation is not None
    assert outcome.evaluation.adapter_loss < outcome.evaluation.base_loss
    before = pod.published()
    folder = f"adapters/ml/tiny/runs/1-{plan.hash[:8]}/"
    names = {key.removeprefix(folder) for key in before}
    assert names == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "chat_template.jinja",
        "environment.json",
        "manifest.json",
        "metrics.jsonl",
        "parameters.json",
        "profile.json",
        "README.md",
        "report.html",
        "tokenizer.json",
        "tokenizer_config.json",
        "adapters/ml/tiny/latest.json",
    }
    stages = [line["stage"] for line in log if line["message"] == "Stage begins"]
    assert stages == [
        "Fetch", "Validate", "Tokenize", "Model", "Train", "Evaluate", "Export", "Publish"
    ]  # fmt: skip

    # Another run number, another uid: the same plan by its hash.
    again, log = pod.run(
        plan.model_copy(update={"identity": plan.identity.model_copy(update={"run": 2})})
    )
    assert (again.exit_code, again.reason) == (0, "AlreadyDone")
    assert again.published is not None
    assert outcome.published is not None
    assert again.published == outcome.published.model_copy(update={"already_there": True})
    assert pod.published() == before
    assert [line["message"] for line in log] == ["The run is done"]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_plan_runs_the_same_through_the_fused_engine(
    seaweed: SeaweedFS, tmp_path: Path, family: str
) -> None:
    pod = Pod(make_bucket(seaweed.endpoint), tmp_path)
    fill(pod.bucket, write_model(tmp_path / "base", family=family))
    pod.environ["FINETUNE_ENGINE"] = "fused"
    plan = pod.plan(training__num_train_epochs=3.0, training__max_seq_length=64, lora__dropout=0.1)
    outcome, log = pod.run(plan)
    assert (outcome.exit_code, outcome.reason) == (0, "Done"), outcome.message
    assert outcome.evaluation is not None
    assert outcome.evaluation.adapter_loss < outcome.evaluation.base_loss
    reported = [line["message"] for line in log if line.get("choice") == "startUpCheck"]
    assert reported[0].startswith("The fused stack may train: its loss differs by 0.00%")
    folder = f"adapters/ml/tiny/runs/1-{plan.hash[:8]}/"
    written = pod.bucket.store.read(pod.bucket.at(f"{folder}environment.json"))
    assert written is not None
    assert json.loads(written[0])["runtime"]["engine"]["value"] == "fused"


def test_a_changed_plan_is_refused_before_anything_is_read(pod: Pod) -> None:
    plan = pod.plan()
    changed = plan.model_copy(
        update={"training": plan.training.model_copy(update={"learning_rate": 0.5})}
    )
    outcome, log = pod.run(changed)
    assert (outcome.exit_code, outcome.reason, outcome.stage) == (64, "PlanTampered", "Start")
    assert pod.published() == {}
    assert [line["message"] for line in log] == ["The run ended"]


def test_a_bucket_that_does_not_exist_is_told_before_the_model_is_fetched(pod: Pod) -> None:
    outcome, _ = pod.run(pod.plan(output__uri="s3://no-such-bucket-here/x"))
    assert (outcome.exit_code, outcome.reason, outcome.stage) == (66, "BucketNotFound", "Start")
    assert not (pod.folder / "work" / "model").exists()


def test_keys_that_are_refused_are_told_at_once(pod: Pod) -> None:
    pod.environ["FINETUNE_OUTPUT_AWS_SECRET_ACCESS_KEY"] = "wrong"
    outcome, log = pod.run(pod.plan())
    assert (outcome.exit_code, outcome.stage) == (77, "Start")
    assert SECRET_KEY not in json.dumps(log) + outcome.message


def test_a_broken_line_is_told_with_its_number_before_torch_is_loaded(pod: Pod) -> None:
    lines = chats(60).splitlines()
    lines[36] = '{"messages": ['
    pod.bucket.put("text/chats.jsonl", "\n".join(lines))
    outcome, log = pod.run(pod.plan())
    assert (outcome.exit_code, outcome.stage) == (65, "Validate")
    assert "chats.jsonl line 37" in outcome.message
    assert [line["stage"] for line in log if "stage" in line] == ["Fetch", "Validate"]


def test_a_run_that_diverges_publishes_nothing(pod: Pod) -> None:
    outcome, _ = pod.run(pod.plan(training__learning_rate=1e30, training__max_steps=20))
    assert (outcome.exit_code, outcome.reason) == (68, "LossNotFinite"), outcome.message
    assert pod.published() == {}


def test_a_pod_that_is_asked_to_go_or_killed_costs_no_step_that_was_saved(
    pod: Pod, model: Path, seaweed: SeaweedFS, tmp_path: Path
) -> None:
    plan = pod.plan(**LONG, checkpoints={"every_seconds": None, "every_steps": 5})
    asked = pod.start(plan, FINETUNE_GRACE_SECONDS="120")
    wait_for(asked, "Step done", step=2)
    asked.send_signal(signal.SIGTERM)
    asked.communicate(timeout=120)
    outcome = outcome_of(pod)
    assert (asked.returncode, outcome.reason, outcome.stage) == (75, "Interrupted", "Train")
    assert outcome.checkpoint is not None
    resumed_at = outcome.checkpoint.step
    assert outcome.message.endswith(f"the next attempt resumes at step {resumed_at}.")
    assert outcome.grace_seconds_needed is not None

    shutil.rmtree(pod.folder / "work")
    killed = pod.start(plan)
    wait_for(killed, "A checkpoint is whole", step=resumed_at + 5)
    killed.kill()
    killed.communicate(timeout=60)

    shutil.rmtree(pod.folder / "work")
    outcome, log = pod.run(plan)
    assert (outcome.exit_code, outcome.reason) == (0, "Done"), outcome.message
    assert outcome.summary is not None
    assert (outcome.summary.resumed_from_step or 0) >= resumed_at + 5
    [went_on] = [each for each in log if each["message"].startswith("The training goes on from")]
    assert went_on["step"] == outcome.summary.resumed_from_step
    assert outcome.summary.steps == 60

    calm = Pod(make_bucket(seaweed.endpoint), tmp_path / "calm")
    calm.folder.mkdir()
    fill(calm.bucket, model)
    undisturbed = calm.plan(**LONG)
    expected, _ = calm.run(undisturbed)
    assert expected.summary is not None
    assert adapter_of(pod, plan) == adapter_of(calm, undisturbed)
    # The best state was evaluated in training; its number is not computed again.
    assert outcome.evaluation == expected.evaluation
    assert outcome.evaluation is not None
    assert outcome.evaluation.adapter_loss == outcome.summary.best_eval_loss


@pytest.fixture
def pod_at_risk(seaweed_of_ones_own: SeaweedFS, model: Path, tmp_path: Path) -> Pod:
    """Return a pod whose store a test may kill."""
    bucket = make_bucket(seaweed_of_ones_own.endpoint)
    fill(bucket, model)
    return Pod(bucket, tmp_path)


def test_a_store_that_dies_while_training_is_waited_for_with_the_adapter_in_hand(
    pod_at_risk: Pod, seaweed_of_ones_own: SeaweedFS
) -> None:
    plan = pod_at_risk.plan(training__max_seq_length=64)
    process = pod_at_risk.start(plan)
    wait_for(process, "Step done")
    seaweed_of_ones_own.kill()
    wait_for(process, "S3 is asked again")
    seaweed_of_ones_own.start()
    process.communicate(timeout=120)
    outcome = outcome_of(pod_at_risk)
    assert (outcome.exit_code, outcome.reason) == (0, "Done"), outcome.message


def test_a_pod_that_must_go_while_its_store_is_dead_leaves_its_training_on_the_disk(
    pod_at_risk: Pod, seaweed_of_ones_own: SeaweedFS
) -> None:
    plan = pod_at_risk.plan(training__max_seq_length=64)
    process = pod_at_risk.start(plan, FINETUNE_GRACE_SECONDS="15")
    wait_for(process, "Step done")
    seaweed_of_ones_own.kill()
    wait_for(process, "S3 is asked again")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    outcome = outcome_of(pod_at_risk)
    assert (process.returncode, outcome.reason, outcome.stage) == (75, "Interrupted", "Publish")
    assert outcome.message == (
        "The pod was asked to go after the training, before its adapter was published: the next"
        " attempt starts from the beginning."
    )
    seaweed_of_ones_own.start()
    assert pod_at_risk.published() == {}

    again, _ = pod_at_risk.run(plan)
    assert (again.exit_code, again.reason) == (0, "Done"), again.message
    assert again.summary is not None
    assert again.summary.resumed_from_step == again.summary.steps


def test_a_signal_during_a_download_ends_the_pod_at_once(pod: Pod) -> None:
    # Nothing answers there: boto3 asks for minutes, and swallows what a handler raises.
    keys = {"FINETUNE_DATASET_0_AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    process = pod.start(pod.plan(), **keys)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["message"] == "S3 is asked again":
            break
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    outcome = Outcome.from_termination_message((pod.folder / "outcome.json").read_text())
    assert outcome is not None
    assert (process.returncode, outcome.reason, outcome.stage) == (75, "Interrupted", "Fetch")


def test_a_pod_that_another_one_overtook_leaves_its_work_alone(pod: Pod, tmp_path: Path) -> None:
    plan = pod.plan(training__max_steps=40)
    files = [tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"]
    for path in files:
        path.write_bytes(b"of the faster one")
    process = pod.start(plan)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["message"] == "Step done":
            break
    place = OutputPlace.of(plan, pod.bucket.at("adapters"))
    theirs = publish(pod.bucket.store, place, build_record(plan=plan), files=files)
    process.communicate(timeout=120)
    outcome = Outcome.from_termination_message((pod.folder / "outcome.json").read_text())
    assert outcome is not None
    assert (process.returncode, outcome.reason, outcome.stage) == (0, "AlreadyDone", "Publish")
    assert outcome.published == theirs.model_copy(update={"already_there": True})
