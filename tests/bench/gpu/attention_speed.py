"""How long each implementation of attention takes for one layer of packed documents, and how far off it is.

    python -m tests.bench.gpu.attention_speed cuda|cpu ANSWER.json

Started by `bench` as an extra. HeadShape and documents are those of the suite's 8B and 1B; whole steps with either
are compared by the suite's rows and `FINETUNE_ATTENTION=flash2`.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.gpu.memory import build_documents
from tests.bench.gpu.numerics import find_attentions
from tests.bench.gpu.suite import DRY, OWN_1B, OWN_8B, Row

TIMES = 20
"""Each is measured, after two that are not."""


def main() -> int:
    """Measure every implementation that this machine can run."""
    device, answer = sys.argv[1], Path(sys.argv[2])
    rows = (OWN_8B, OWN_1B) if device == "cuda" else DRY[-1:]
    found = {
        row.shape.name: {
            attention.name: measure(attention, row, device=device)
            for attention in find_attentions(device)
        }
        for row in rows
    }
    answer.write_text(json.dumps(found))
    print(json.dumps(found, indent=1))
    return 0


def measure(attention: Any, row: Row, *, device: str) -> dict[str, float]:
    """Return microseconds of forward and backward, seconds of the first of both, and the relative error."""
    import torch

    from finetune_trainer.fused.attention import AttentionWindow, DocumentBounds, measure_error
    from finetune_trainer.fused.ops import HeadShape

    shape = row.shape
    size = shape.head_dim
    heads = HeadShape(shape.num_attention_heads, shape.num_key_value_heads, size)
    documents = build_documents(shape, tokens=row.batch * row.mean, row=row)
    lengths = [len(each.input_ids) for each in documents]
    ends = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
    packed, attention_window = (
        DocumentBounds(ends, max(lengths)),
        AttentionWindow(size**-0.5, window=shape.sliding_window),
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    q, k, v, gradient = (
        torch.randn(sum(lengths), count, size, device=device, dtype=dtype)
        for count in (heads.queries, heads.keys, heads.keys, heads.queries)
    )

    def forward() -> Any:
        return attention.forward(q, k, v, documents=packed, attention_window=attention_window)

    def both() -> None:
        attention.backward(
            gradient,
            q,
            k,
            v,
            attended=forward(),
            documents=packed,
            attention_window=attention_window,
        )

    first = measure_microseconds(both, device=device, times=1) / 1e6
    forward_us = measure_microseconds(forward, device=device)
    return {
        "tokens": sum(lengths),
        "first_s": round(first, 2),
        "forward_us": round(forward_us, 1),
        "backward_us": round(measure_microseconds(both, device=device) - forward_us, 1),
        "error": measure_error(
            attention,
            heads,
            attention_windows=[attention_window],
            device=torch.device(device),
            dtype=dtype,
        ),
    }


def measure_microseconds(work: Callable[[], Any], *, device: str, times: int = TIMES) -> float:
    """Return how long one takes, from the first being queued to the last being over."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(2 if times > 1 else 0):
        work()
    wait()
    started = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - started) / times * 1e6


if __name__ == "__main__":
    sys.exit(main())
