"""Plain transformers with PEFT, document by document: in fp32 the truth, in bf16 what is usual.

    python -m tests.bench.gpu.numerics_reference DEVICE FOLDER MODEL [CURVES.json]

Started by `numerics`. Writes fp32.pt and stock.pt (one pass over a batch each) and curves.json (losses
of 50 steps: fp32, bf16, and bf16 with dropout from two seeds) below FOLDER.
"""

import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.bench.gpu.memory import Document
from tests.bench.gpu.numerics_case import (
    EXTENTS,
    Case,
    Seen,
    build_case,
    build_row,
    collect,
    set_adapter,
)
from tests.bench.gpu.shapes import SHAPES

CURVES = {
    "fp32 dropout 0": (0.0, 0),
    "stock dropout 0": (0.0, 0),
    "stock dropout 0.1": (0.1, 1),
    "stock again": (0.1, 2),
}
"""Name to dropout and seed; all but the first as usual, in bf16 on a GPU. The two with dropout differ in their masks alone: what they differ by is
what any two engines with dropout may differ by."""


def load(folder: Path, case: Case, *, dtype: torch.dtype, dropout: float, device: str) -> Any:
    """Load the model with its adapter, ready to train."""
    base = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, attn_implementation="sdpa", device_map={"": device}
    )
    row = build_row(case.shape)
    adapter = LoraConfig(
        r=row.rank,
        lora_alpha=row.rank,
        lora_dropout=dropout,
        target_modules=list(row.targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, adapter).train()


def step(
    network: Any, batch: Sequence[Document], *, supervised: int, keep: list[torch.Tensor] | None
) -> float:
    """Leave the batch's gradient in the parameters, one document a pass; return the loss."""
    device, dtype = next(network.parameters()).device, network.get_base_model().dtype
    total = 0.0
    for document in batch:
        ids = torch.tensor([document.input_ids], device=device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(input_ids=ids, use_cache=False).logits
        # Shape: (length, vocabulary).
        scores = logits[0].float()
        if keep is not None:
            keep.append(scores.detach())
        loss = torch.nn.functional.cross_entropy(scores[:-1], ids[0, 1:], reduction="sum")
        (loss / supervised).backward()
        total += loss.item() / supervised
    return total


def see(network: Any, case: Case) -> Seen:
    """Pass once over the first batch with a drawn adapter."""
    adapter = set_adapter(network, fresh=False)
    kept: list[torch.Tensor] = []
    loss = step(network, case.batches[0], supervised=case.supervised[0], keep=kept)
    picked = case.picked().to(kept[0].device)
    return Seen(loss, torch.cat(kept)[picked].cpu(), collect(adapter))


def draw_curve(network: Any, case: Case, *, seed: int) -> list[float]:
    """Train a fresh adapter and return the loss of each step."""
    extent = EXTENTS[case.shape.name]
    adapter = set_adapter(network, fresh=True)
    parameters = list(adapter.values())
    optimizer = torch.optim.AdamW(parameters, lr=extent.learning_rate, weight_decay=0.0)
    torch.manual_seed(seed)
    losses = []
    for number in range(extent.steps):
        place = number % len(case.batches)
        optimizer.zero_grad()
        losses.append(
            step(network, case.batches[place], supervised=case.supervised[place], keep=None)
        )
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return losses


def main() -> int:
    """Write what plain PEFT computes."""
    device, folder, model, *known_at = sys.argv[1], *map(Path, sys.argv[2:])
    folder.mkdir(parents=True, exist_ok=True)
    if device == "cpu":
        # Tiny products: a second thread only waits, and on a shared machine it waits long.
        torch.set_num_threads(1)
    case = build_case(SHAPES[model.name])
    usual = torch.float32 if device == "cpu" else torch.bfloat16
    known: dict[str, list[float]] = json.loads(known_at[0].read_text()) if known_at else {}
    curves = {}
    for name, (dropout, seed) in CURVES.items():
        if dropout not in EXTENTS[case.shape.name].dropouts:
            continue
        if dropout and name in known:
            curves[name] = known[name]
            continue
        dtype = torch.float32 if name.startswith("fp32") else usual
        network = load(model, case, dtype=dtype, dropout=dropout, device=device)
        if not dropout:
            see(network, case).save(folder / f"{name.partition(' ')[0]}.pt")
        curves[name] = known.get(name) or draw_curve(network, case, seed=seed)
        print(name, curves[name], flush=True)
        del network
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
    (folder / "curves.json").write_text(json.dumps(curves))
    return 0


if __name__ == "__main__":
    sys.exit(main())
