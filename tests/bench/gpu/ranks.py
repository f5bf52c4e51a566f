"""Two ranks against one, by the trainer's own steps alone: no files, no Unsloth, a minute at 8B.

    python -m tests.bench.gpu.ranks cuda|cpu ANSWER.json

The rows of the suite go through the entry point and take longer to begin. Here a model is drawn on each
GPU and the fused engine, the step and the process group of the trainer run on it: on one GPU, then on
two with the step of one, then on two with twice the documents.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.gpu.suite import ALL, DRY, OWN_8B, WARM_UP, Row

ENV_RANK = "BENCH_RANK"
WORLD_SIZE = 2


def main() -> int:
    """Run as rank 0, which starts rank 1, or as that one; rank 0 writes the answer."""
    device, answer = sys.argv[1], Path(sys.argv[2])
    rank = int(os.environ.get(ENV_RANK, "0"))
    # Before torch: each rank sees its own GPU, and both meet on the loopback address.
    os.environ |= {"CUDA_VISIBLE_DEVICES": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    meeting = answer.with_suffix(".rendezvous")
    if rank:
        measure_all(device, rank=rank, rendezvous=meeting)
        return 0
    meeting.unlink(missing_ok=True)
    environ = os.environ | {ENV_RANK: "1"}
    other = subprocess.Popen([sys.executable, "-m", __spec__.name, *sys.argv[1:]], env=environ)
    found = measure_all(device, rank=0, rendezvous=meeting)
    answer.write_text(json.dumps({"rows": found}, indent=1) + "\n")
    print(answer.read_text())
    return other.wait()


def choose_rows(device: str) -> tuple[Row, Row, Row]:
    """Return the step of one GPU on one and on two, and twice the step on two."""
    alone = replace(OWN_8B, steps=10) if device == "cuda" else replace(DRY[-1], steps=WARM_UP + 1)
    return (
        alone,
        replace(alone, gpus=2),
        replace(alone, gpus=2, batch=2 * alone.batch, steps=WARM_UP + 1 + alone.steps // 2),
    )


def measure_all(device: str, *, rank: int, rendezvous: Path) -> list[dict[str, Any]]:
    """Return what each row showed; the first runs on rank 0 alone while the other waits."""
    from finetune_trainer.ranks.process_group import SINGLE
    from finetune_trainer.ranks.torch_process_group import DistributedGroup, join

    rows = choose_rows(device)
    loaded = build_model(rows[0], device)
    join(rendezvous, rank=rank, world_size=WORLD_SIZE, device=loaded.device)
    group = DistributedGroup(rank=rank, world_size=WORLD_SIZE)
    group.broadcast_parameters(loaded.trainable())
    first = loaded.adapter_state()
    found = []
    for row in rows:
        if row.gpus > 1 or rank == 0:
            loaded.restore_adapter(first)
            found.append(measure(row, loaded, SINGLE if row.gpus == 1 else group))
    return found


def build_model(row: Row, device: str) -> Any:
    """Return a model of the row's shape with random weights and an adapter, on the fused engine."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from finetune_trainer.fused.engine import FusedEngine
    from finetune_trainer.model.loaded_model import LoadedModel

    place = torch.device(device, 0) if device == "cuda" else torch.device(device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with place:
        base = LlamaForCausalLM(LlamaConfig(**row.shape.config()))
    torch.set_default_dtype(torch.float32)
    adapter = LoraConfig(
        r=row.rank, lora_alpha=row.rank, target_modules=list(ALL), task_type="CAUSAL_LM"
    )
    network = get_peft_model(base, adapter).to(place)
    trained = [each for each in network.parameters() if each.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    network.train()
    return LoadedModel(
        network=network,
        device=place,
        dtype=dtype,
        attention="",
        trainable_parameters=sum(each.numel() for each in trained),
        total_parameters=0,
        target_modules=ALL,
        engine=FusedEngine(network, device=place),
    )


def measure(row: Row, loaded: Any, group: Any) -> dict[str, Any]:
    """Do the row's steps; return its speed after the warm-up, and its losses."""
    from finetune_trainer.steps.micro_batches import TokenBudget, count_supervised
    from finetune_trainer.training.optimizer_step import Stepper
    from tests.bench.gpu.jobs import Measured
    from tests.bench.gpu.results import build_speed
    from tests.bench.gpu.stock import build_row_corpus, order_documents
    from tests.unit_trainer.tiny import TinyRow, build_plan

    corpus = build_row_corpus(row, row.steps)
    documents = [TinyRow(each, each) for each in order_documents(corpus, row=row, steps=row.steps)]
    training = build_plan(training__learning_rate=row.learning_rate).training
    stepper = Stepper(loaded, training=training, budget=TokenBudget(20_000), group=group)
    ends, tokens, losses = [], [], []
    for step in range(row.steps):
        batch = documents[step * row.batch : (step + 1) * row.batch]
        supervised = sum(count_supervised(each) for each in batch)
        loss, _, _ = stepper.do(
            batch, step=step, supervised=supervised, learning_rate=row.learning_rate
        )
        ends.append(time.monotonic())
        tokens.append(sum(len(each.input_ids) for each in batch))
        losses.append(loss)
    measured = Measured(tuple(ends), tuple(tokens), tuple(losses), peak_bytes=None)
    speed = build_speed(row, measured)
    kept = {name: speed[name] for name in ("tok_s", "step_p50_s")}
    return {"gpus": row.gpus, "documents_a_step": row.batch, **kept, "losses": losses}


if __name__ == "__main__":
    sys.exit(main())
