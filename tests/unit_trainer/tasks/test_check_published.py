"""`python -m finetune_trainer probe`: finished work is found without model, text or GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api import wire
from finetune_api.outcome import Outcome
from finetune_api.plan import TrainingPlan
from finetune_trainer.publish.publish import OutputPlace, publish
from tests.unit_trainer.conftest import Bucket
from tests.unit_trainer.publish.test_export_folder import build_record
from tests.unit_trainer.seaweed import ACCESS_KEY, SECRET_KEY
from tests.unit_trainer.tiny import build_plan

pytestmark = pytest.mark.slow


def plan_for(bucket: Bucket, **changes: Any) -> TrainingPlan:
    output = {"output__uri": f"s3://{bucket.name}/adapters", "output__credentials": "OUTPUT"}
    return build_plan(**output | changes)


def probe(plan: TrainingPlan, bucket: Bucket, *, folder: Path, secret: str = SECRET_KEY) -> Outcome:
    (folder / "plan.json").write_text(plan.to_json())
    environ = {
        "FINETUNE_OUTPUT_AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "FINETUNE_OUTPUT_AWS_SECRET_ACCESS_KEY": secret,
        "FINETUNE_OUTPUT_AWS_ENDPOINT_URL_S3": bucket.endpoint,
        wire.ENV_PLAN_PATH: str(folder / "plan.json"),
        wire.ENV_WORK_DIR: str(folder / "work"),
        wire.ENV_TERMINATION_PATH: str(folder / "outcome.json"),
    }
    command = [sys.executable, "-m", "finetune_trainer", *wire.PROBE_COMMAND]
    done = subprocess.run(command, env=os.environ | environ, check=False)
    outcome = Outcome.from_termination_message((folder / "outcome.json").read_text())
    assert outcome is not None
    assert done.returncode == outcome.exit_code
    return outcome


def test_a_finished_adapter_is_found_and_told_as_the_run_itself_would(
    bucket: Bucket, tmp_path: Path
) -> None:
    files = {"adapter_config.json": "{}", "adapter_model.safetensors": "weights"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    place = OutputPlace.of(build_plan(), bucket.at("adapters"))
    paths = [tmp_path / name for name in files]
    published = publish(bucket.store, place, build_record(), files=paths)

    found = probe(plan_for(bucket), bucket, folder=tmp_path)

    assert (found.exit_code, found.reason, found.stage) == (0, "AlreadyDone", "Start")
    assert found.published == published.model_copy(update={"already_there": True})
    assert found.plan_hash == build_plan().hash


def test_what_was_never_trained_is_told_and_published_by_nobody(
    bucket: Bucket, tmp_path: Path
) -> None:
    plan = plan_for(bucket, training__seed=43)
    outcome = probe(plan, bucket, folder=tmp_path)
    assert (outcome.exit_code, outcome.reason) == (0, "NothingFinished")
    assert outcome.message == (
        f"No finished adapter of this plan is below s3://{bucket.name}/adapters/ml/tiny; it has to be"
        " trained."
    )
    assert (outcome.plan_hash, outcome.published) == (plan.hash, None)


def test_refused_keys_are_told_before_a_gpu_is_taken(bucket: Bucket, tmp_path: Path) -> None:
    outcome = probe(plan_for(bucket), bucket, folder=tmp_path, secret="wrong")
    assert outcome.exit_code == wire.ExitCode.ACCESS_DENIED
    assert json.loads((tmp_path / "outcome.json").read_text())["stage"] == "Start"
