"""Two real ranks with a model of one matrix: what a group does, without loading what a model needs.

`run_pair` starts them; each runs every scenario in turn and writes what it saw. The same scenarios run
by one process alone are what they must equal.
"""

import json
import multiprocessing
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from finetune_trainer.errors import NotFinite
from finetune_trainer.model.loaded_model import LoadedModel
from finetune_trainer.ranks.process_group import SINGLE, ProcessGroup
from finetune_trainer.ranks.torch_process_group import DistributedGroup, join
from finetune_trainer.steps.micro_batches import (
    BatchLayout,
    MicroBatch,
    TokenBudget,
    count_supervised,
)
from finetune_trainer.training.evaluate import evaluate
from finetune_trainer.training.optimizer_step import Stepper
from tests.unit_trainer.tiny import build_plan, build_rows

CPU = torch.device("cpu")
WORDS = 30
STEPS = 4


class OneMatrix(torch.nn.Module):
    """Predicts a token from the one before it."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.table = torch.nn.Parameter(torch.randn(WORDS, WORDS, generator=draw))


@dataclass
class OneMatrixEngine:
    """Its loss; a test makes it fail in one process."""

    network: OneMatrix
    name: str = "one-matrix"
    layout: BatchLayout = BatchLayout.PACKED
    base_only: Callable[[], Any] = nullcontext
    factor: float = 1.0
    memory: int = 1_000_000
    """Tokens of a micro-batch that fit."""
    micro_batches: list[int] = field(default_factory=list)
    prepared: list[int] = field(default_factory=list)
    """Tokens of the micro-batches that were laid out before their step."""

    def prepare(self, micro_batch: MicroBatch) -> MicroBatch:
        self.prepared.append(sum(micro_batch.lengths))
        return micro_batch

    def sum_of_losses(self, micro_batch: MicroBatch, *, divisor: int) -> torch.Tensor:
        if sum(micro_batch.lengths) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.micro_batches.append(sum(micro_batch.lengths))
        losses = [
            torch.nn.functional.cross_entropy(
                self.network.table[torch.tensor(row.input_ids[:-1])],
                torch.tensor(row.labels[1:]),
                reduction="sum",
                ignore_index=-100,
            )
            for row in micro_batch.sequences
        ]
        return torch.stack(losses).sum() / divisor * self.factor

    def release(self) -> None: ...


def build(**changes: Any) -> LoadedModel:
    network = OneMatrix()
    return LoadedModel(
        network=network,
        device=CPU,
        dtype=torch.float32,
        attention="none",
        trainable_parameters=WORDS * WORDS,
        total_parameters=WORDS * WORDS,
        target_modules=("table",),
        engine=OneMatrixEngine(network, **changes),
    )


def do_steps(group: ProcessGroup, *, rows: int, **engine: Any) -> dict[str, Any]:
    """Do a few steps of so many rows; return what each showed and the matrix."""
    loaded, tokens = build(**engine), TokenBudget(10_000)
    plan = build_plan(training__learning_rate=1e-2)
    stepper = Stepper(loaded, training=plan.training, budget=tokens, group=group)
    corpus, found = build_rows(rows * STEPS, vocabulary=WORDS), []
    batches = [corpus[first : first + rows] for first in range(0, len(corpus), rows)]
    fault = ""
    for step, batch in enumerate(batches):
        supervised = max(1, sum(count_supervised(row) for row in batch))
        try:
            loss, norm, _ = stepper.do(
                batch,
                step=step,
                supervised=supervised,
                learning_rate=1e-2,
                following=partial(list, *batches[step + 1 : step + 2]),
            )
        except NotFinite as caught:
            fault = caught.message
            break
        found.append((loss, norm))
    engine_of: Any = loaded.engine
    return {
        "fault": fault,
        "steps": found,
        "matrix": loaded.network.table.detach().flatten().tolist(),
        "budget": (tokens.tokens, tokens.halvings),
        "micro_batches": engine_of.micro_batches,
        "prepared": engine_of.prepared,
    }


def run_scenarios(group: ProcessGroup) -> dict[str, Any]:
    """Return what each scenario shows in this process; what is wrong is wrong in the second alone."""
    second = group.rank == 1
    loaded, examples = build(), build_rows(21, seed=1, vocabulary=WORDS)
    measured = evaluate(loaded, examples, budget=TokenBudget(100), group=group)
    return {
        "odd": do_steps(group, rows=7),
        "one row": do_steps(group, rows=1),
        "not finite": do_steps(group, rows=4, factor=float("nan") if second else 1.0),
        "memory": do_steps(group, rows=8, memory=60 if second else 1_000_000),
        "held out": [measured.nats, measured.tokens, measured.examples],
        "smallest": group.all_reduce_min(5 - group.rank),
    }


def _work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    join(folder / "rendezvous", rank=rank, world_size=2, device=CPU)
    group = DistributedGroup(rank=rank, world_size=2)
    found = run_scenarios(group)
    torch.manual_seed(rank)
    drawn = torch.nn.Parameter(torch.rand(3))
    group.broadcast_parameters([drawn])
    (folder / f"{rank}.json").write_text(json.dumps(found | {"drawn": drawn.tolist()}))


def run_pair(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return what the first process saw, what the second saw, and what one alone sees."""
    starting = multiprocessing.get_context("spawn")
    pair = [starting.Process(target=_work, args=(rank, folder)) for rank in range(2)]
    for process in pair:
        process.start()
    alone = run_scenarios(SINGLE)
    for process in pair:
        process.join(120)
        assert process.exitcode == 0
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))
    return first, second, json.loads(json.dumps(alone))
