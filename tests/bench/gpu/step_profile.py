"""Where the time of a training step goes on one GPU: kernels by kind, products by shape, idle share.

    python -m tests.bench.gpu.step_profile DEVICE ANSWER.json MODEL…

Started by `bench` as an extra. Torch's profiler watches steps of the trainer's own model, engine and
optimizer. The profiler slows the host: what is idle under it is more than without it.
"""

import gc
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.bench.gpu.jobs import Job
from tests.bench.gpu.memory import OWN_TINY, build_documents
from tests.bench.gpu.own import build_plan
from tests.bench.gpu.shapes import LLAMA_1B, LLAMA_8B, TINY
from tests.bench.gpu.suite import OWN_1B, OWN_8B, Row

ROWS = {LLAMA_8B.name: OWN_8B, LLAMA_1B.name: OWN_1B, TINY.name: OWN_TINY}
STEPS = 4
"""Watched; two before them compile."""
SMALL_SIDE = 256
"""A product with a side of at most so many is one of the adapter's."""
KINDS = {
    "attention": r"flash|fmha|cudnn.*sdpa",
    "gate": r"glu",
    "norms and rotation": r"rms_norm|rotate",
    "dropout of the adapter's input": r"dropped",
    "loss": r"cross_entropy",
    "optimizer and clipping": r"multi_tensor|Adam|lpnorm|foreach",
    "products": r"nvjet|gemm|cutlass|cublas|splitK|xmma",
}
"""Kind to a pattern of the kernel's name; the first that fits."""
PRODUCTS = {"aten::mm": 0, "aten::addmm": 1, "aten::addmm_": 1}
"""Torch's name to the place of the left factor among its arguments; the right one follows."""


def profile(row: Row, *, model: Path, folder: Path, device: str) -> dict[str, Any]:
    """Return what the steps of one row spent their time on."""
    # Unsloth must be imported before anything that imports transformers.
    load = import_module("finetune_trainer.model.load").load
    import torch

    from finetune_trainer.engine.choose import choose
    from finetune_trainer.training.optimizer_step import Stepper

    job = Job(
        row=row, model=model, folder=folder, corpus_steps=row.steps, device=device, work=folder
    )
    plan = build_plan(job)
    documents = build_documents(row.shape, tokens=row.batch * row.mean, row=row)
    chosen = choose(
        plan,
        load(plan, folder=model),
        documents,
        environ={"FINETUNE_TOKENS_PER_MICRO_BATCH": "65536"},
    )
    chosen.loaded.network.train()
    stepper = Stepper(chosen.loaded, training=plan.training, budget=chosen.budget)
    supervised = sum(len(each.input_ids) - 1 for each in documents)

    def do(count: int) -> float:
        started = time.monotonic()
        for step in range(count):
            stepper.do(
                documents,
                step=step,
                supervised=supervised,
                learning_rate=1e-4,
                following=lambda: documents,
            )
        return (time.monotonic() - started) / count

    do(2)
    alone = do(STEPS)
    on_gpu = device == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
    with torch.profiler.profile(activities=activities, record_shapes=True) as seen:
        watched = do(STEPS)
    return {
        "tokens": sum(len(each.input_ids) for each in documents),
        "engine": chosen.runtime.engine.value,
        "step_ms": round(alone * 1e3, 2),
        "watched_step_ms": round(watched * 1e3, 2),
        "kernels": count_kernels(seen),
        "products": count_products(seen),
    }


def count_kernels(seen: Any) -> dict[str, float]:
    """Return milliseconds of a step by kind of kernel; what fits none stands under its own name."""
    spent: dict[str, float] = defaultdict(float)
    for event in seen.events():
        if str(event.device_type).endswith("CUDA") and not event.is_user_annotation:
            spent[find_kind(event.name)] += event.device_time_total / 1e3 / STEPS
    return {name: round(ms, 3) for name, ms in sorted(spent.items(), key=lambda item: -item[1])}


def find_kind(kernel: str) -> str:
    """Return the kind of a kernel, or the beginning of its name."""
    kinds = (kind for kind, pattern in KINDS.items() if re.search(pattern, kernel))
    return next(kinds, kernel[:60])


def count_products(seen: Any) -> list[dict[str, Any]]:
    """Return each shape of product with its time and speed, the longest first."""
    found = []
    for event in seen.key_averages(group_by_input_shape=True):
        if event.key not in PRODUCTS or not event.self_device_time_total:
            continue
        left = PRODUCTS[event.key]
        (rows, inner), (_, columns) = event.input_shapes[left : left + 2]
        seconds = event.self_device_time_total / 1e6
        found.append(
            {
                "shape": [rows, inner, columns],
                "is_small": min(rows, inner, columns) <= SMALL_SIDE,
                "calls": event.count // STEPS,
                "ms": round(seconds * 1e3 / STEPS, 3),
                "tflops": round(2 * rows * inner * columns * event.count / seconds / 1e12, 1),
            }
        )
    return sorted(found, key=lambda each: -each["ms"])


def build_shares(reported: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of the unwatched step that each kind takes; what is left is idle."""
    small = sum(each["ms"] for each in reported["products"] if each["is_small"])
    spent = dict(reported["kernels"])
    spent["small products (adapter)"] = small
    spent["products"] = spent.get("products", 0.0) - small
    shares = {name: ms / reported["step_ms"] for name, ms in spent.items()}
    return shares | {"idle": 1 - sum(shares.values())}


def main() -> int:
    """Profile the models that the arguments name."""
    device, answer, *models = sys.argv[1:]
    scratch = Path(answer).parent / "profile"
    scratch.mkdir(exist_ok=True)
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(scratch / "unsloth")
    if device == "cpu":
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
    found: dict[str, Any] = {}
    for folder in map(Path, models):
        reported = profile(ROWS[folder.name], model=folder, folder=scratch, device=device)
        found[folder.name] = reported | {"shares": build_shares(reported)}
        Path(answer).write_text(json.dumps(found))
        print(json.dumps(found[folder.name], indent=1), flush=True)
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
