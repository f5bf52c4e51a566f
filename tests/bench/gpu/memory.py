"""Peak memory of training steps on one GPU: the trainer's own model, engine and optimizer step.

    python -m tests.bench.gpu.memory DEVICE ANSWER.json MODEL…

Started by `bench` as an extra. Each configuration is loaded once and does two steps in micro-batches of
each token budget, every layer kept. Only what was seen is written; `memory_fit` compares it with what
was predicted, so that a better formula needs no new run.
"""

import gc
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.bench.gpu.corpus import build_corpus
from tests.bench.gpu.jobs import Job
from tests.bench.gpu.own import build_plan
from tests.bench.gpu.shapes import LLAMA_1B, LLAMA_8B, TINY, Shape
from tests.bench.gpu.suite import ATTENTION, OWN_1B, OWN_8B, QUERY_VALUE, Row

STEPS = 2
"""The first allocates the optimizer's moments."""
BUDGETS = {
    LLAMA_8B.name: (4096, 8192, 12_288),
    LLAMA_1B.name: (8192, 16_384, 32_768),
    TINY.name: (128, 256, 512),
}
"""Tokens of one micro-batch; every layer of an 8B fits 80 GB with the largest."""
OWN_TINY = replace(OWN_1B, shape=TINY, longest=64, mean=24, batch=8, micro_batch=4)
CONFIGURATIONS = (
    replace(OWN_8B, rank=64, dropout=0.1),
    replace(OWN_8B, rank=8, targets=QUERY_VALUE),
    replace(OWN_8B, rank=16, method="QLoRA", dropout=0.1),
    replace(OWN_1B, rank=16),
    replace(OWN_1B, rank=64, dropout=0.1),
    replace(OWN_1B, rank=8, targets=QUERY_VALUE),
    replace(OWN_1B, rank=16, targets=ATTENTION, dropout=0.1),
    replace(OWN_1B, rank=64, method="QLoRA", dropout=0.1),
    replace(OWN_TINY, rank=8),
)


@dataclass(frozen=True)
class Document:
    """A row of a micro-batch, scored in every token."""

    input_ids: tuple[int, ...]

    @property
    def labels(self) -> tuple[int, ...]:
        """The tokens themselves."""
        return self.input_ids


def build_documents(shape: Shape, *, tokens: int, row: Row) -> list[Document]:
    """Return documents of exactly `tokens` tokens together; the last is cut."""
    corpus = build_corpus(
        2 + 2 * tokens // row.mean, vocabulary=shape.vocab_size, longest=row.longest, mean=row.mean
    )
    made, left = [], tokens
    for each in corpus.documents:
        made.append(Document(each[:left]))
        left -= len(made[-1].input_ids)
        if left <= 1:
            return made
    raise AssertionError(f"{len(made)} documents hold fewer than {tokens} tokens")


def measure_row(row: Row, *, model: Path, folder: Path, device: str) -> Iterator[dict[str, Any]]:
    """Load one configuration and yield what each token budget took."""
    # Unsloth must be imported before anything that imports transformers.
    load = import_module("finetune_trainer.model.load").load
    from finetune_trainer.engine.choose import choose

    budgets = BUDGETS[row.shape.name]
    job = Job(
        row=row, model=model, folder=folder, corpus_steps=row.steps, device=device, work=folder
    )
    plan = build_plan(job)
    before = read_allocated(device)
    loaded = load(plan, folder=model)
    documents = build_documents(row.shape, tokens=budgets[-1], row=row)
    forced = {
        "FINETUNE_TOKENS_PER_MICRO_BATCH": str(budgets[-1]),
        "FINETUNE_LAYERS_KEPT": str(row.shape.num_hidden_layers),
    }
    chosen = choose(plan, loaded, documents, environ=forced)
    reported = {
        "shape": row.shape.name,
        "method": row.method,
        "rank": row.rank,
        "targets": row.targets,
        "dropout": row.dropout,
        "engine": chosen.runtime.engine.value,
        "layers_kept": row.shape.num_hidden_layers,
        "left_by_earlier_bytes": before,
        "loaded_bytes": read_allocated(device) - before,
    }
    for tokens in budgets:
        yield reported | {"tokens": tokens} | measure_steps(chosen, plan, row, tokens=tokens)


def measure_steps(chosen: Any, plan: Any, row: Row, *, tokens: int) -> dict[str, Any]:
    """Do the steps in one micro-batch each and return their peaks."""
    import torch

    from finetune_trainer.steps.micro_batches import TokenBudget
    from finetune_trainer.training.optimizer_step import Stepper

    on_gpu = chosen.loaded.device.type == "cuda"
    documents = build_documents(row.shape, tokens=tokens, row=row)
    supervised = sum(len(each.input_ids) - 1 for each in documents)
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    chosen.loaded.network.train()
    stepper = Stepper(chosen.loaded, training=plan.training, budget=TokenBudget(tokens))
    try:
        micro_batches = [
            stepper.do(documents, step=step, supervised=supervised, learning_rate=1e-4)[2]
            for step in range(STEPS)
        ]
    except torch.OutOfMemoryError as fault:
        return {"failure": str(fault)[:200]}
    return {
        "micro_batches": micro_batches,
        "allocated_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "reserved_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,
    }


def read_allocated(device: str) -> int:
    """Return what tensors hold on the GPU; 0 on a CPU."""
    import torch

    gc.collect()
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def main() -> int:
    """Measure the configurations of the models that the arguments name."""
    device, answer, *models = sys.argv[1:]
    scratch = Path(answer).parent / "memory"
    scratch.mkdir(exist_ok=True)
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(scratch / "unsloth")
    if device == "cpu":
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
    points: list[dict[str, Any]] = []
    for folder in map(Path, models):
        for row in CONFIGURATIONS:
            if row.shape.name != folder.name:
                continue
            for point in measure_row(row, model=folder, folder=scratch, device=device):
                points.append(point)
                print(json.dumps(point), flush=True)
            # After every configuration: a machine that is taken away leaves the points so far.
            Path(answer).write_text(json.dumps({"points": points}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
