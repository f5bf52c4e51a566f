"""The machine that is measured: its GPUs, its library versions, its S3, and how a process is started.

Below `bench`. Imports no heavy library: the driver's own process never touches a GPU.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from tests.bench.gpu.own import BUCKET, connect_store
from tests.unit_trainer.seaweed import SeaweedFS

ROOT = Path(__file__).resolve().parents[3]
LIBRARIES = (
    "torch",
    "triton",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "unsloth",
    "bitsandbytes",
)
CPU = "CPU"


def find_cards() -> list[str]:
    """Return the names of this machine's GPUs; none where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.stdout.split("\n")[:-1] if said.returncode == 0 else []


def find_versions() -> dict[str, str]:
    """Return what is installed, Python included."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


def find_commit() -> str:
    """Return the commit of this tree; a copy without history has it in `BENCH_COMMIT`."""
    if reported := os.environ.get("BENCH_COMMIT"):
        return reported
    said = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return said.stdout.strip()


def build_environ(gpu: int | None, *, scratch: Path, gpus: int = 1) -> dict[str, str]:
    """Return what a measured process starts with, on `gpus` of the machine from `gpu` on, or on none."""
    paths = [str(ROOT / part) for part in (".", "operator", "trainer-image")]
    inherited = os.environ.get("PYTHONPATH", "")
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, *([inherited] if inherited else [])]),
        "PYTHONUNBUFFERED": "1",
        "HF_HOME": str(scratch / "hf"),
        "HF_HUB_OFFLINE": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    if gpu is not None:
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(gpu, gpu + gpus)))
    return environ


def start_python(
    module: str, arguments: Sequence[str], *, environ: Mapping[str, str], log: Path
) -> int:
    """Run `python -m module` to its end with its output in `log`; return its exit code."""
    with log.open("w") as output:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=dict(environ),
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode


def start_store(folder: Path) -> SeaweedFS:
    """Start a real S3 with an empty bucket on free ports of this machine."""
    folder.mkdir(parents=True)
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    store = SeaweedFS(folder)
    store.start()
    connect_store(store.endpoint).create_bucket(Bucket=BUCKET)
    return store
