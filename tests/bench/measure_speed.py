"""How long the Measure pod takes for ten megabytes of chats, from start to end.

    python -m tests.bench.measure_speed [--megabytes 10] [--tag sw] [--family llama31]

Writes chats out of the words of the declaration, puts them and the family's tokenizer where a claim
would be, and runs `python -m finetune_trainer measure` against a real S3 twice: the second run finds
the report of the first. Prints one line of JSON: seconds of wall clock and of CPU (what the wall clock
comes to where nothing else computes), peak memory, and what was measured. A timing never fails a test.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3

from finetune_api import wire
from finetune_api.measure_plan import MeasurePlan
from finetune_api.outcome import Outcome
from tests.demo.materials import load_declaration, load_model_folder, load_tokenizer_folder
from tests.unit_trainer.seaweed import ACCESS_KEY, SECRET_KEY, SeaweedFS

CODES = {"sw": "swh", "hi": "hin", "tr": "tur", "zh": "cmn_hans"}
BUCKET = "adapters"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_chats(path: Path, *, tag: str, size: int) -> int:
    """Write chats of `size` bytes; return their number."""
    draw = random.Random(1)
    words = load_declaration(CODES[tag]).split()
    rows = written = 0
    with path.open("wb") as file:
        while written < size:
            asked, said = draw.choices(words, k=12), draw.choices(words, k=draw.randint(20, 200))
            chat = [
                {"role": "user", "content": " ".join(asked)},
                {"role": "assistant", "content": " ".join(said)},
            ]
            written += file.write(
                json.dumps({"messages": chat}, ensure_ascii=False).encode() + b"\n"
            )
            rows += 1
    return rows


def write_model(folder: Path, *, family: str) -> None:
    """Write a model folder with the family's tokenizer, a chat template and no real weights."""
    shutil.copytree(load_tokenizer_folder(family), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if not config.get("chat_template"):
        (folder / "chat_template.jinja").write_text(CHATML)
    shutil.copy(load_model_folder() / "config.json", folder / "config.json")
    (folder / "model.safetensors").write_bytes(b"never read")


def measure_once(folder: Path, plan: MeasurePlan, *, endpoint: str) -> dict[str, Any]:
    """Run the pod's command once; return its times and its outcome's message."""
    (folder / wire.MEASURE_FILE).write_text(plan.to_json())
    environ = os.environ | {
        "FINETUNE_OUTPUT_AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "FINETUNE_OUTPUT_AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "FINETUNE_OUTPUT_AWS_ENDPOINT_URL_S3": endpoint,
        wire.ENV_PLAN_PATH: str(folder / wire.MEASURE_FILE),
        wire.ENV_WORK_DIR: str(folder / "work"),
        wire.ENV_CLAIM_DIR: str(folder / "claims"),
        wire.ENV_TERMINATION_PATH: str(folder / "outcome.json"),
    }
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "finetune_trainer", *wire.MEASURE_COMMAND]
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    outcome = Outcome.from_termination_message((folder / "outcome.json").read_text())
    assert outcome is not None
    return {
        "wallSeconds": round(wall, 1),
        "cpuSeconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peakMemoryMiB": after.ru_maxrss // 1024,
        "message": outcome.message,
    }


def main() -> None:
    """Measure twice and print."""
    parser = argparse.ArgumentParser(description="Time the Measure pod.")
    parser.add_argument("--megabytes", type=float, default=10.0)
    parser.add_argument("--tag", choices=list(CODES), default="sw")
    parser.add_argument("--family", default="llama31")
    asked = parser.parse_args()
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    with tempfile.TemporaryDirectory(prefix="measure-speed-") as name:
        folder = Path(name)
        (folder / "claims" / "text").mkdir(parents=True)
        write_model(folder / "claims" / "model", family=asked.family)
        text = folder / "claims" / "text" / "chats.jsonl"
        rows = write_chats(text, tag=asked.tag, size=int(asked.megabytes * 1e6))
        plan = MeasurePlan.model_validate(
            {
                "identity": {"namespace": "bench", "name": "speed", "uid": "u", "run": 1},
                "model": {"uri": "pvc://model"},
                "datasets": [{"tag": asked.tag, "uri": "pvc://text/chats.jsonl"}],
                "stage": "Instruction",
                "output": {"uri": f"s3://{BUCKET}", "credentials": wire.CREDENTIALS_OUTPUT},
            }
        ).with_hash()
        store = SeaweedFS(folder)
        store.start()
        try:
            client = boto3.client(
                "s3",
                endpoint_url=store.endpoint,
                aws_access_key_id=ACCESS_KEY,
                aws_secret_access_key=SECRET_KEY,
                region_name="us-east-1",
            )
            client.create_bucket(Bucket=BUCKET)
            first = measure_once(folder, plan, endpoint=store.endpoint)
            again = measure_once(folder, plan, endpoint=store.endpoint)
        finally:
            store.kill()
    load = os.getloadavg()[0]
    given = {"tag": asked.tag, "family": asked.family, "megabytes": asked.megabytes, "rows": rows}
    machine = {"cores": os.cpu_count(), "load": round(load, 1)}
    print(json.dumps(given | machine | {"first": first, "again": again}))


if __name__ == "__main__":
    main()
