"""A trainer as the pod starts it: a process of its own, a real S3, a tiny model and text in a bucket."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.outcome import Outcome
from finetune_api.plan import TrainingPlan
from tests.unit_trainer.conftest import Bucket
from tests.unit_trainer.seaweed import ACCESS_KEY, SECRET_KEY
from tests.unit_trainer.tiny import build_plan

LONG = {
    "training__max_steps": 60,
    "training__max_seq_length": 64,
    "training__eval_steps": 10,
    "training__save_strategy": "Best",
    "lora__dropout": 0.1,
}
GREETINGS = ("asubuhi", "mchana", "jioni", "usiku", "leo", "kesho", "sana", "rafiki")


def chats(count: int) -> str:
    lines = []
    for number in range(count):
        word = GREETINGS[number % len(GREETINGS)]
        messages = [
            {"role": "user", "content": f"Habari ya {word} {number}?"},
            {"role": "assistant", "content": f"Nzuri sana, {word} njema."},
        ]
        lines.append(json.dumps({"messages": messages}))
    return "\n".join(lines) + "\n"


@dataclass
class Pod:
    """A place where the trainer runs as a process of its own."""

    bucket: Bucket
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    def plan(self, **changes: Any) -> TrainingPlan:
        where = {
            "model__uri": f"s3://{self.bucket.name}/model",
            "model__credentials": "MODEL",
            "datasets": [
                {"tag": "sw", "uri": f"s3://{self.bucket.name}/text/", "credentials": "DATASET_0"}
            ],
            "output__uri": f"s3://{self.bucket.name}/adapters",
            "output__credentials": "OUTPUT",
        }
        return build_plan(**where | changes)

    def start(self, plan: TrainingPlan, **environ: str) -> "subprocess.Popen[str]":
        content = plan.to_json().encode()
        (self.folder / "plan.json").write_bytes(content)
        keys = {
            f"FINETUNE_{use}_{name}": value
            for use in ("MODEL", "DATASET_0", "OUTPUT")
            for name, value in (
                ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
                ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
                ("AWS_ENDPOINT_URL_S3", self.bucket.endpoint),
            )
        }
        places = {
            "FINETUNE_PLAN_PATH": str(self.folder / "plan.json"),
            "FINETUNE_PLAN_SHA256": hashlib.sha256(content).hexdigest(),
            "FINETUNE_WORK_DIR": str(self.folder / "work"),
            "FINETUNE_TERMINATION_PATH": str(self.folder / "outcome.json"),
            "FINETUNE_IMAGE": "registry/trainer@sha256:1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", *self.arguments],
            env=os.environ | keys | places | self.environ | environ,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr.log").open("w"),
            text=True,
        )

    def run(self, plan: TrainingPlan) -> tuple[Outcome, list[dict[str, Any]]]:
        """Run to the end; return the outcome and the log, every line of which is JSON."""
        (self.folder / "outcome.json").unlink(missing_ok=True)
        process = self.start(plan)
        said, _ = process.communicate(timeout=240)
        outcome = Outcome.from_termination_message((self.folder / "outcome.json").read_text())
        assert outcome is not None
        assert process.returncode == outcome.exit_code
        return outcome, [json.loads(line) for line in said.splitlines()]

    def published(self) -> dict[str, int]:
        stored = self.bucket.store.list(self.bucket.at("adapters/"))
        return {each.location.key: each.size for each in stored}


def fill(bucket: Bucket, model: Path) -> None:
    for path in model.iterdir():
        bucket.put(f"model/{path.name}", path.read_bytes())
    bucket.put("text/chats.jsonl", chats(60))


def wait_for(process: "subprocess.Popen[str]", message: str, *, step: int = 0) -> None:
    assert process.stdout is not None
    for text in process.stdout:
        line = json.loads(text)
        if line["message"] == message and line.get("step", 0) >= step:
            return
    raise AssertionError(f"The pod ended without saying {message!r}")


def outcome_of(pod: Pod) -> Outcome:
    outcome = Outcome.from_termination_message((pod.folder / "outcome.json").read_text())
    assert outcome is not None
    return outcome


def adapter_of(pod: Pod, plan: TrainingPlan) -> bytes:
    key = f"adapters/ml/tiny/runs/1-{plan.hash[:8]}/adapter_model.safetensors"
    read = pod.bucket.store.read(pod.bucket.at(key))
    assert read is not None
    return read[0]
