"""Predicted against observed peak memory: a table, and a picture where matplotlib is installed.

    python -m tests.bench.gpu.memory_fit RESULTS.json… [--png FILE]

Reads what `run` wrote, on any machine. Predicted is what `finetune_resolver.memory.estimate` says of the same
engine, micro-batch and layers; observed is what torch reserved. The CUDA context, which torch does not
count, is in neither.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.resource import Method, Optimizer
from finetune_resolver.memory.estimate import FIXED_BYTES, TrainingEngine, Workload, estimate_memory
from finetune_resolver.memory.model_shape import shape_from_config
from tests.bench.gpu.shapes import SHAPES
from tests.bench.gpu.suite import TARGET_NAMES

GIB = 2**30
CONTEXT_BYTES = 0.5 * GIB
"""Of the formula's fixed part: the CUDA context, which no counter of torch holds (assumption)."""
BAR = 0.10
"""What the estimate must hold."""
TARGETS = {name: modules for modules, name in TARGET_NAMES.items()}


@dataclass(frozen=True)
class Point:
    """One micro-batch size of one configuration."""

    shape: str
    what: str
    engine: str
    tokens: int
    layers_kept: int
    predicted_bytes: float
    observed_bytes: float

    @property
    def error(self) -> float:
        """Relative, positive where too much was predicted."""
        return self.predicted_bytes / self.observed_bytes - 1


def predict(reported: dict[str, Any]) -> float:
    """Return the peak that the memory model gives for a measured point."""
    config = SHAPES[reported["shape"]].config() | {"model_type": "llama"}
    fused = reported["engine"] == "fused"
    workload = Workload(
        method=Method(reported["method"]),
        rank=reported["rank"],
        modules=tuple(reported["targets"]),
        engine=TrainingEngine.FUSED if fused else TrainingEngine.UNSLOTH,
        optimizer=Optimizer.ADAMW,
        dropout=reported["dropout"] > 0,
        offloads_inputs=reported["layers_kept"] == 0 and not fused,
    )
    estimate = estimate_memory(
        shape_from_config(config),
        workload,
        tokens_per_micro_batch=reported["tokens"],
        layers_kept=reported["layers_kept"],
    )
    return estimate.total_bytes - min(CONTEXT_BYTES, FIXED_BYTES)


def read_points(results: dict[str, Any]) -> Iterator[Point]:
    """Yield the points of one results.json: those of the memory extras, and the trainer's own rows."""
    for name, extra in results.items():
        if name.startswith("memory") and "points" in extra:
            yield from (build_point(each) for each in extra["points"] if each.get("reserved_bytes"))
    for row in results["rows"]:
        if row["engine"] == "language-finetune" and row.get("peak_gib"):
            yield build_point(read_row(row))


def build_point(reported: dict[str, Any]) -> Point:
    """Return one measured micro-batch with its prediction."""
    targets = TARGET_NAMES[tuple(reported["targets"])]
    return Point(
        shape=reported["shape"],
        what=f"{reported['method']} r {reported['rank']}, {targets}, dropout {reported['dropout']:g}",
        engine=reported["engine"],
        tokens=reported["tokens"],
        layers_kept=reported["layers_kept"],
        predicted_bytes=predict(reported),
        observed_bytes=reported["reserved_bytes"] - reported.get("left_by_earlier_bytes", 0),
    )


def read_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the suite as a measured micro-batch: the largest, each step split as the trainer did."""
    chosen = dict(re.findall(r"^(\w+) (\S+):", "\n".join(row["choices"]), re.MULTILINE))
    budget = int(chosen["tokensPerMicroBatch"])
    # The first results knew the largest step alone, and one GPU.
    steps = row.get("step_tokens", [row["largest_step_tokens"]])
    shards = [tokens / row.get("gpus", 1) for tokens in steps]
    return row | {
        "targets": TARGETS[row["targets"]],
        "engine": chosen["engine"],
        "tokens": max(shard / -(-shard // budget) for shard in shards),
        "layers_kept": int(chosen["layersKept"]),
        "reserved_bytes": row["peak_gib"] * GIB,
    }


def build_table(points: list[Point]) -> str:
    """Return the points as Markdown."""
    head = (
        "| shape | configuration | engine | tokens a micro-batch | layers kept | predicted GiB |"
        " observed GiB | error |\n|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {each.shape} | {each.what} | {each.engine} | {each.tokens:,.0f} | {each.layers_kept} |"
        f" {each.predicted_bytes / GIB:.2f} | {each.observed_bytes / GIB:.2f} | {each.error:+.1%} |\n"
        for each in points
    )


def draw(points: list[Point], path: Path) -> None:
    """Write predicted over observed as a picture."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 6), dpi=150)
    most = max(max(each.predicted_bytes, each.observed_bytes) for each in points) / GIB * 1.05
    ends = [0.0, most]
    axes.plot(ends, ends, color="0.3", linewidth=1)
    axes.fill_between(
        ends,
        [end * (1 - BAR) for end in ends],
        [end * (1 + BAR) for end in ends],
        color="0.9",
        label=f"within {BAR:.0%}",
    )
    for (shape, engine), marker in zip(
        sorted({(each.shape, each.engine) for each in points}), "os^D", strict=False
    ):
        chosen = [each for each in points if (each.shape, each.engine) == (shape, engine)]
        axes.scatter(
            [each.observed_bytes / GIB for each in chosen],
            [each.predicted_bytes / GIB for each in chosen],
            marker=marker,
            label=f"{shape}, {engine}",
        )
    axes.set(xlim=(0, most), ylim=(0, most), xlabel="observed peak, GiB", ylabel="predicted, GiB")
    axes.set_aspect("equal")
    axes.legend(loc="upper left", frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> int:
    """Print the table; return 1 where a point is further off than the bar."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--png", type=Path)
    chosen = parser.parse_args()
    points = [
        point for path in chosen.results for point in read_points(json.loads(path.read_text()))
    ]
    print(build_table(points))
    errors = [abs(each.error) for each in points]
    print(
        f"{len(points)} points, mean error {sum(errors) / len(errors):.1%}, worst {max(errors):.1%}"
    )
    if chosen.png:
        draw(points, chosen.png)
    return 1 if max(errors) > BAR else 0


if __name__ == "__main__":
    sys.exit(main())
