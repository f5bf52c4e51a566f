"""The published adapter in other hands: plain transformers and PEFT load it and compute its loss again.

    python -m tests.bench.gpu.reload DEVICE ANSWER.json MODEL OUTCOME.json

Started by `bench` after the row whose outcome it reads. Nothing of the trainer's engines takes part: the
files come from S3, the held-out documents are the row's own.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.outcome import Outcome
from tests.bench.gpu.own import read_published

TOLERANCE = {"cpu": 1e-5, "cuda": 2e-3}
"""Relative, of a held-out loss: fp32 on a CPU, another bf16 engine's rounding on a GPU."""


def load_published(outcome: Outcome, folder: Path, *, model: Path, device: str) -> Any:
    """Fetch the run's folder and put its adapter on the base model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in read_published(outcome, endpoint=os.environ["BENCH_S3"]).items():
        (folder / name).write_bytes(content)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    base = AutoModelForCausalLM.from_pretrained(
        str(model), dtype=dtype, attn_implementation="sdpa", device_map={"": device}
    )
    return PeftModel.from_pretrained(base, str(folder)).eval()


def read_held_out(model: Path, *, tokenizer: Any) -> list[list[int]]:
    """Return the held-out documents as the trainer tokenised them, each with its end."""
    path = model.parent / f"{model.name}-text" / "held-out" / "held-out.jsonl"
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]


@torch.no_grad()
def measure_loss(network: Any, documents: Sequence[Sequence[int]]) -> float:
    """Return the loss in nats per predicted token."""
    device = next(network.parameters()).device
    total, tokens = 0.0, 0
    for document in documents:
        ids = torch.tensor([document], device=device)
        # Shape: (length, vocabulary).
        scores = network(input_ids=ids, use_cache=False).logits[0].float()
        total += float(torch.nn.functional.cross_entropy(scores[:-1], ids[0, 1:], reduction="sum"))
        tokens += len(document) - 1
    return total / tokens


def main() -> int:
    """Compare the losses that the trainer reported with those that plain PEFT computes."""
    device, answer, model, reported = sys.argv[1], *map(Path, sys.argv[2:])
    if device == "cpu":
        torch.set_num_threads(1)
    outcome = Outcome.from_termination_message(reported.read_text())
    assert outcome is not None
    assert outcome.evaluation is not None
    network = load_published(outcome, answer.parent / "published", model=model, device=device)
    documents = read_held_out(model, tokenizer=AutoTokenizer.from_pretrained(str(model)))
    adapter = measure_loss(network, documents)
    with network.disable_adapter():
        base = measure_loss(network, documents)
    pairs = {
        "base": (base, outcome.evaluation.base_loss),
        "adapter": (adapter, outcome.evaluation.adapter_loss),
    }
    found: dict[str, Any] = {
        name: {"plain_peft": ours, "trainer": theirs} for name, (ours, theirs) in pairs.items()
    }
    apart = max(abs(ours - theirs) / theirs for ours, theirs in pairs.values())
    found["apart"] = apart
    if not apart <= TOLERANCE[device]:
        found["failure"] = f"plain PEFT's loss is {apart:.2%} beside the trainer's"
    answer.write_text(json.dumps(found))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
