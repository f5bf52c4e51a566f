"""One row of this trainer: its entry point as the pod starts it, a real plan, a real S3.

Called by `run`. The trainer is a process of its own that does not know that it is measured. Its steps
are timed from outside, by when their lines appear in metrics.jsonl, and everything else is read from
what it publishes.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from finetune_api import wire
from finetune_api.outcome import Outcome
from finetune_api.plan import TrainingPlan
from finetune_trainer.steps.step_report import METRICS_FILE
from tests.bench.gpu.jobs import Job, Measured
from tests.bench.gpu.stock import build_row_corpus
from tests.bench.gpu.suite import SEED
from tests.unit_trainer.seaweed import ACCESS_KEY, SECRET_KEY

BUCKET = "bench"
CLAIM = "bench"
LONGEST_ROW_S = 150
"""Twice what the slowest row took: one that hangs must not cost the others their machine."""
POLL_S = 0.002
"""Far below the shortest step that is timed (0.3 s)."""


class RowFailedError(Exception):
    """A row's process did not end well; the message says how, with the end of its log."""


@dataclass
class StepWatch:
    """Takes down when each line of a metrics file appears."""

    path: Path
    seen_at: list[float] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look until `stop`; runs in a thread."""
        size = 0
        while not self._over.wait(POLL_S):
            try:
                grown = self.path.stat().st_size
            except FileNotFoundError:
                continue
            if grown != size:
                now, size = time.monotonic(), grown
                lines = self.path.read_bytes().count(b"\n")
                self.seen_at += [now] * (lines - len(self.seen_at))

    def stop(self) -> None:
        """End the watch."""
        self._over.set()


def build_plan(job: Job) -> TrainingPlan:
    """Return the plan of a row: what the operator would have resolved."""
    row = job.row
    gpus = 0 if job.device == "cpu" else row.gpus
    return TrainingPlan.model_validate(
        {
            "identity": {"namespace": "bench", "name": row.name.lower(), "uid": "1", "run": 1},
            "model": {"uri": f"pvc://{CLAIM}/{job.model.name}"},
            "datasets": [
                {
                    "tag": "und",
                    "uri": f"pvc://{CLAIM}/{job.model.name}-text/train",
                    "format": "Text",
                    "validation": {"uri": f"pvc://{CLAIM}/{job.model.name}-text/held-out"},
                }
            ],
            "stage": "Instruction",
            "method": row.method,
            "policy": "Guide",
            "training": {
                "max_seq_length": row.longest,
                "per_device_train_batch_size": row.micro_batch,
                "gradient_accumulation_steps": row.accumulation,
                "learning_rate": row.learning_rate,
                "optimizer": "AdamW",
                "weight_decay": 0.0,
                "lr_scheduler": "Constant",
                "num_train_epochs": 1.0,
                "max_steps": row.steps,
                "max_grad_norm": 1.0,
                "gradient_checkpointing": True,
                "flash_attention": True,
                "eval_strategy": "Never",
                "save_strategy": "Never",
                "early_stopping_patience": 0,
                "seed": SEED,
            },
            "lora": {
                "r": row.rank,
                "alpha": row.rank,
                "dropout": row.dropout,
                "target_modules": row.targets,
                "bias": "None",
            },
            "resources": {"gpus": gpus},
            "output": {"uri": f"s3://{BUCKET}/adapters", "credentials": "OUTPUT"},
        }
    ).with_hash()


def write_corpus(job: Job) -> None:
    """Write the row's documents beside its model, where the plan looks for them."""
    folder = job.model.parent / f"{job.model.name}-text"
    if not folder.exists():
        build_row_corpus(job.row, job.corpus_steps).write(folder)


def build_environment(job: Job, *, endpoint: str, plan: Path) -> dict[str, str]:
    """Return what the operator gives the pod: keys, places, the plan's hash."""
    prefix = wire.credentials_prefix(wire.CREDENTIALS_OUTPUT)
    return {
        f"{prefix}AWS_ACCESS_KEY_ID": ACCESS_KEY,
        f"{prefix}AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        f"{prefix}AWS_ENDPOINT_URL_S3": endpoint,
        wire.ENV_PLAN_PATH: str(plan),
        wire.ENV_PLAN_SHA256: hashlib.sha256(plan.read_bytes()).hexdigest(),
        wire.ENV_WORK_DIR: str(job.work),
        wire.ENV_TERMINATION_PATH: str(job.folder / "outcome.json"),
        wire.ENV_CLAIM_DIR: str(job.model.parent.parent),
    }


def run_own(job: Job, *, endpoint: str, environ: Mapping[str, str], log: Path) -> Measured:
    """Run one row to the end.

    Args:
        job: The row.
        endpoint: Of an S3 with the bucket `BUCKET`.
        environ: What the process starts with.
        log: Where its output goes.

    Raises:
        RowFailedError: It ended in any other way than with a published adapter.
    """
    write_corpus(job)
    plan = build_plan(job)
    path = job.folder / "plan.json"
    path.write_text(plan.to_json())
    watch = StepWatch(job.work / "adapter" / METRICS_FILE)
    # The row before this one left its own.
    watch.path.unlink(missing_ok=True)
    looking = threading.Thread(target=watch.watch, daemon=True)
    started = time.monotonic()
    looking.start()
    try:
        with log.open("w") as output:
            code = subprocess.run(
                [sys.executable, "-m", "finetune_trainer"],
                env=dict(environ) | build_environment(job, endpoint=endpoint, plan=path),
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=LONGEST_ROW_S,
            ).returncode
    except subprocess.TimeoutExpired as fault:
        raise RowFailedError(f"{job.row.name} took longer than {LONGEST_ROW_S} s") from fault
    finally:
        watch.stop()
        looking.join()
    outcome = Outcome.from_termination_message(read_if_there(job.folder / "outcome.json"))
    if outcome is None or outcome.exit_code or outcome.summary is None:
        said = outcome.message if outcome else read_if_there(log)[-2000:]
        raise RowFailedError(f"{job.row.name} ended with exit code {code}: {said}")
    return summarise(
        outcome,
        read_published(outcome, endpoint=endpoint),
        ends=[at - started for at in watch.seen_at],
    )


def summarise(outcome: Outcome, published: Mapping[str, bytes], *, ends: list[float]) -> Measured:
    """Return what a run showed, from its outcome and what it published."""
    assert outcome.summary is not None
    steps = [json.loads(line) for line in published[METRICS_FILE].splitlines()]
    environment = json.loads(published["environment.json"])
    return Measured(
        step_ends=tuple(ends[: len(steps)]),
        step_tokens=tuple(step["tokens"] for step in steps),
        losses=tuple(step["loss"] for step in steps),
        peak_bytes=outcome.summary.peak_gpu_memory_bytes,
        predicted_bytes=find_predicted(environment),
        choices=find_choices(environment),
    )


def find_choices(environment: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sentences in which the trainer says what it chose and why."""
    return tuple(
        f"{name} {choice['value']}: {choice['reason']}"
        for name, choice in environment.get("runtime", {}).items()
        if isinstance(choice, dict)
    )


def find_predicted(environment: Mapping[str, Any]) -> int | None:
    """Return the peak that the trainer expected, where it says one."""
    predicted = environment.get("runtime", {}).get("predictedPeakBytes")
    return None if predicted is None else int(predicted)


def read_published(outcome: Outcome, *, endpoint: str, suffix: str = "") -> dict[str, bytes]:
    """Return the files of the run's folder by name; only those that end in `suffix`."""
    assert outcome.published is not None
    bucket, _, prefix = outcome.published.uri.removeprefix("s3://").partition("/")
    store = connect_store(endpoint)
    listed = store.list_objects_v2(Bucket=bucket, Prefix=prefix.rstrip("/") + "/")["Contents"]
    keys = [each["Key"] for each in listed if each["Key"].endswith(suffix)]
    return {
        key.rpartition("/")[2]: store.get_object(Bucket=bucket, Key=key)["Body"].read()
        for key in keys
    }


def connect_store(endpoint: str) -> Any:
    """Return a client of the suite's own S3."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=os.environ.get("AWS_REGION", "us-east-1"),
    )


def read_if_there(path: Path) -> str:
    """Return a file's text; nothing where there is none."""
    return path.read_text() if path.exists() else ""
