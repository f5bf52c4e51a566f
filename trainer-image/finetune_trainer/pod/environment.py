"""What the libraries read from the environment, set before any of them is imported, and what ran.

The pipeline calls `prepare_environment` first and `go_offline` after the downloads; `export` writes
`describe_environment` beside the adapter. Nothing here imports a heavy library unless it must.
"""

import os
import platform
import sys
from collections.abc import Mapping, MutableMapping
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

from finetune_api import wire
from finetune_api.plan import PlannedResources
from finetune_trainer.errors import EnvironmentUnfit

LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "accelerate",
    "unsloth",
    "unsloth_zoo",
    "bitsandbytes",
    "safetensors",
    "triton",
)
"""What changes a number when its version changes."""
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""The container's CPU limit, `<quota> <period>` in microseconds, quota `max` without one."""


def prepare_environment(
    resources: PlannedResources, *, work: Path, environ: MutableMapping[str, str]
) -> None:
    """Set what Unsloth, torch and Hugging Face read while they are imported.

    All writing goes below `work`: the root file system is read-only.
    """
    caches = work / "caches"
    environ.update(
        {
            "HF_HOME": str(caches / "hf"),
            "UNSLOTH_COMPILE_LOCATION": str(caches / "unsloth"),
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "TRITON_CACHE_DIR": str(caches / "triton"),
            # Presence counts, whatever the value: otherwise each load asks hosts of the internet.
            "UNSLOTH_DISABLE_STATISTICS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
            "UNSLOTH_AUTO_INSTALL": "0",
            # The trainer reports by itself; the stock callback would send everything twice.
            "DISABLE_KUBEFLOW_INTEGRATION": "TRUE",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )
    # The ranks of one pod listen on the loopback address alone, whatever the pod's name resolves to.
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        environ.setdefault(name, "lo")
    if resources.gpus == 0:
        environ["UNSLOTH_FORCE_CPU"] = "1"
        # Waiting threads sleep: where other pods share the cores, spinning ones took four times the
        # CPU time for the same step (measured).
        environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    else:
        # A pod that lost its GPU would otherwise train on the CPU, a thousand times slower.
        environ["UNSLOTH_DISABLE_CPU_FALLBACK"] = "1"
        # GPUs are counted without being touched, so that each rank can still be given one.
        environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        environ.pop("UNSLOTH_FORCE_CPU", None)


def separate_compiling(environ: MutableMapping[str, str], *, rank: int) -> None:
    """Give a rank a folder of its own for what Unsloth writes and imports: it locks nothing."""
    environ["UNSLOTH_COMPILE_LOCATION"] += f"-{rank}"


def go_offline(
    environ: MutableMapping[str, str], *, modules: Mapping[str, ModuleType] = sys.modules
) -> None:
    """Keep the libraries from the network: all they need is on the disk."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        environ[name] = "1"
    hub = modules.get("huggingface_hub.constants")
    if hub is not None:
        # The hub's client read its setting while it was imported, which the download needed.
        vars(hub)["HF_HUB_OFFLINE"] = True


def check_accelerators(resources: PlannedResources) -> None:
    """Compare the GPUs that the pod sees with those that the plan asks for.

    Raises:
        EnvironmentUnfit: There are fewer.
    """
    if resources.gpus == 0:
        return
    torch = import_module("torch")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < resources.gpus:
        raise EnvironmentUnfit(
            f"The pod sees {found} GPUs, the plan asks for {resources.gpus}: check the node's driver,"
            " its device plugin and spec.scheduling.runtimeClassName, or set resources.gpus to 0 to"
            " train on the CPU.",
            reason="GpuMissing",
        )


def count_cpus(cpu_max: Path = CPU_MAX) -> int:
    """Return the cores that this pod may use: its limit, where it has one, rounded up.

    More threads than that are stopped by the kernel again and again in the middle of a step.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        # No cgroup v2 here: nothing limits us but the affinity.
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, -(-int(quota) // int(period))))


def describe_environment(environ: Mapping[str, str], *, world_size: int = 1) -> dict[str, object]:
    """Return what the adapter was made with: versions, image and the devices of all ranks."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "image": environ.get(wire.ENV_IMAGE, ""),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
        "device": _describe_device(world_size),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _describe_device(world_size: int) -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"{world_size} x {torch.cuda.get_device_name(0)}"
    return f"CPU, {count_cpus()} cores"
