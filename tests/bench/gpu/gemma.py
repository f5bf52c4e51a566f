"""Gemma 3 on the fused stack: numerics against plain PEFT, then the trainer's own steps on both engines.

    python -m tests.bench.gpu.gemma DEVICE ANSWER.json SMALL_MODEL MODEL

Started by `bench` as an extra. Of the small model one pass and a few steps are compared with plain PEFT in
fp32 as `numerics` does it; of the other each engine does steps of one size. The stack passes
where it is no further off fp32 than plain PEFT in bf16 is, and its start-up check does.
"""

import gc
import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.bench.gpu.jobs import Job
from tests.bench.gpu.memory import build_documents
from tests.bench.gpu.numerics import furthest, judge, measure_engine
from tests.bench.gpu.own import build_plan
from tests.bench.gpu.shapes import SHAPES, Shape
from tests.bench.gpu.suite import EngineName, Row

WARM_UP, STEPS = 3, 6
"""Steps before and under the clock."""
ENGINES = ("fused", "unsloth")
"""What FINETUNE_ENGINE asks for: the trainer does not take the stack for Gemma by itself before this was seen."""


def build_row(shape: Shape, *, device: str) -> Row:
    """Return steps of 32,000 tokens, as a 1B's rows have; without a GPU a few."""
    row = Row(shape=shape, engine=EngineName.OWN, batch=80, steps=WARM_UP + STEPS)
    if device == "cuda":
        return row
    return Row(shape=shape, engine=EngineName.OWN, batch=8, steps=row.steps, longest=64, mean=24)


def measure_speed(asked: str, *, model: Path, folder: Path, device: str) -> dict[str, Any]:
    """Return what one engine chose and how fast its steps are."""
    # Unsloth must be imported before anything that imports transformers.
    load = import_module("finetune_trainer.model.load").load
    import torch

    from finetune_trainer.engine.choose import choose
    from finetune_trainer.training.optimizer_step import Stepper

    row = build_row(SHAPES[model.name], device=device)
    plan = build_plan(
        Job(row=row, model=model, folder=folder, corpus_steps=1, device=device, work=folder)
    )
    documents = build_documents(row.shape, tokens=row.batch * row.mean, row=row)
    environ = {"FINETUNE_ENGINE": asked}
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    chosen = choose(plan, load(plan, folder=model), documents, environ=environ)
    ready = time.monotonic()
    chosen.loaded.network.train()
    stepper = Stepper(chosen.loaded, training=plan.training, budget=chosen.budget)
    supervised = sum(len(each.input_ids) - 1 for each in documents)
    took = []
    losses = []
    for step in range(WARM_UP + STEPS):
        started = time.monotonic()
        # The loss is known on the host when this returns.
        loss, _, _ = stepper.do(documents, step=step, supervised=supervised, learning_rate=2e-4)
        losses.append(float(loss))
        took.append(time.monotonic() - started)
    seconds = sum(took[WARM_UP:]) / STEPS
    tokens = sum(len(each.input_ids) for each in documents)
    return {
        "engine": chosen.runtime.engine.value,
        "tokens": tokens,
        "tokens_per_s": round(tokens / seconds),
        "step_s": [round(each, 4) for each in took],
        "losses": losses,
        "choosing_s": round(ready - began, 1),
        "reserved_bytes": torch.cuda.max_memory_reserved() if device == "cuda" else None,
        "runtime": chosen.runtime.describe(),
    }


def compare_numerics(model: Path, *, folder: Path, device: str) -> dict[str, Any]:
    """Return the fused stack's errors beside plain PEFT's, which runs in a process of its own."""
    half = [sys.executable, "-m", "tests.bench.gpu.numerics_reference", device]
    half += [str(folder), str(model)]
    subprocess.run(half, check=True)
    from tests.bench.gpu.numerics_case import Seen, compare

    engine = measure_engine("fused", model=model, folder=folder, device=device)
    stock = compare(Seen.load(folder / "stock.pt"), Seen.load(folder / "fp32.pt"))
    curves = json.loads((folder / "curves.json").read_text())
    return {"engines": {"fused": engine}, "stock": stock, "curves": curves, "attention": {}}


def find_failures(found: dict[str, Any]) -> list[str]:
    """Return what does not pass, in words."""
    numerics = found["numerics"]
    failures = judge(numerics, stock=numerics["stock"], curves=numerics["curves"])
    own, stock = found["speed"]
    for reported in (own, numerics["engines"]["fused"]):
        if reported["engine"] != "fused":
            failures.append(f"the trainer took {reported['engine']}")
    if not (apart := furthest(own["losses"][:1], stock["losses"][:1])) < 0.02:
        failures.append(f"the engines' first losses are {apart:.4f} nats apart")
    return failures


def main() -> int:
    """Measure and write what was seen, after each part."""
    device, answer = sys.argv[1], Path(sys.argv[2])
    small, model = map(Path, sys.argv[3:5])
    folder = answer.parent / "gemma"
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(folder / "unsloth")
    if device == "cpu":
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
    found: dict[str, Any] = {"speed": []}
    found["numerics"] = compare_numerics(small, folder=folder, device=device)
    print(json.dumps(found["numerics"]), flush=True)
    for asked in ENGINES:
        gc.collect()
        found["speed"].append(measure_speed(asked, model=model, folder=folder, device=device))
        print(json.dumps(found["speed"][-1]), flush=True)
        answer.write_text(json.dumps(found))
    if failures := find_failures(found):
        found["failure"] = "; ".join(failures)
        print(found["failure"], flush=True)
    answer.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
