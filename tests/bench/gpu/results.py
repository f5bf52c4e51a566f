"""From what was seen to what is reported: speeds, verdicts on losses, JSON and a Markdown table. Pure.

Used by `run`. A row whose loss is not that of its twin under stock TRL is void: whatever it did fast
was not the training that was asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.bench.gpu.jobs import Measured
from tests.bench.gpu.shapes import estimate_mfu
from tests.bench.gpu.suite import TARGET_NAMES, EngineName, Row

FIRST_LOSS_TOLERANCE = 0.005
"""Relative. Before the first update every engine computes the base model on the same documents; bf16
engines differ by 1e-3 at most on random weights (0.2 % of a loss of 12, docs/performance.md)."""
LOSS_TOLERANCE = 0.01
"""Relative, of the last common steps. The engines draw different adapters to start from."""
QUANTIZED_TOLERANCE = 0.02
"""The first loss of 4-bit weights against that of 16-bit ones."""
LAST_STEPS = 3
"""Steps whose mean loss is compared."""
GIB = 2**30
NOT_COMPARED = ""


@dataclass(frozen=True)
class Result:
    """A row and what was seen of it, or why nothing was."""

    row: Row
    measured: Measured | None
    failure: str = ""
    gpu: int = 0
    """Which GPU of the machine it ran on."""


def build_speed(row: Row, measured: Measured) -> dict[str, float]:
    """Return tokens per second and step times over the steps after the warm-up."""
    ends, first = measured.step_ends, row.warm_up
    seconds = [end - start for start, end in zip(ends[first - 1 :], ends[first:], strict=False)]
    tokens = sum(measured.step_tokens[first : len(ends)])
    return {
        "tok_s": round(tokens / (ends[-1] - ends[first - 1]), 1),
        "step_p50_s": round(median(seconds), 4),
        "step_p95_s": round(find_percentile(seconds, 95), 4),
        "setup_s": round(ends[0], 1),
    }


def find_percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least `percent` of all do not exceed."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def judge_loss(result: Result, results: Sequence[Result]) -> str:
    """Return why a row is void; empty where its losses are those of stock TRL."""
    stock = [
        each
        for each in results
        if each.measured
        and each.row.engine is EngineName.TRL
        and each.row.shape == result.row.shape
    ]
    if result.measured is None or not stock or result.row.engine is EngineName.TRL:
        return NOT_COMPARED
    reference = stock[0].measured
    assert reference is not None
    tolerance = FIRST_LOSS_TOLERANCE if result.row.method == "LoRA" else QUANTIZED_TOLERANCE
    ours, theirs = result.measured.losses[0], reference.losses[0]
    if not abs(ours - theirs) <= tolerance * theirs:
        return f"first loss {ours:.4f}, stock TRL's {theirs:.4f}: more than {tolerance:.1%} apart"
    if not result.row.is_twin_of(stock[0].row):
        return NOT_COMPARED
    ours, theirs = _mean_last(result.measured, reference), _mean_last(reference, result.measured)
    if not abs(ours - theirs) <= LOSS_TOLERANCE * theirs:
        return f"loss {ours:.4f}, stock TRL's {theirs:.4f}: more than {LOSS_TOLERANCE:.1%} apart"
    return ""


def build_rows(results: Sequence[Result], *, card: str) -> list[dict[str, Any]]:
    """Return the rows of the JSON file."""
    return [_build_row(each, results, card=card) for each in results]


def _build_row(result: Result, results: Sequence[Result], *, card: str) -> dict[str, Any]:
    row, measured = result.row, result.measured
    reported: dict[str, Any] = {
        "shape": row.shape.name,
        "engine": row.engine.value,
        "method": row.method,
        "targets": TARGET_NAMES[row.targets],
        "dropout": row.dropout,
        "rank": row.rank,
        "batch": row.batch,
        "gpu": result.gpu,
        "gpus": row.gpus,
    }
    if measured is None:
        return reported | {"failure": result.failure}
    speed = build_speed(row, measured)
    void = judge_loss(result, results)
    common = _count_common(result, results)
    mfu = estimate_mfu(row.shape, tokens_per_s=speed["tok_s"] / row.gpus, card=card)
    return reported | {
        **speed,
        "mfu": None if mfu is None else round(mfu, 4),
        "peak_gib": _in_gib(measured.peak_bytes),
        "predicted_gib": _in_gib(measured.predicted_bytes),
        "loss": round(_mean(measured.losses[:common][-LAST_STEPS:]), 4),
        "loss_after_steps": common,
        "first_loss": round(measured.losses[0], 4),
        "losses": [round(each, 4) for each in measured.losses],
        "tokens_a_step": round(_mean(measured.step_tokens)),
        "step_tokens": list(measured.step_tokens[: len(measured.step_ends)]),
        "step_ends_s": [round(each, 3) for each in measured.step_ends],
        "largest_step_tokens": max(measured.step_tokens),
        "steps": len(measured.step_ends),
        "warm_up": row.warm_up,
        "void": void,
        "choices": list(measured.choices),
        "note": measured.note,
    }


def build_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    head = (
        "| shape | engine | method, targets, dropout | tok/s | MFU | peak GiB | step p50 / p95 s |"
        " setup s | loss (after steps) |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(_build_line(row) for row in rows)


def _build_line(row: Mapping[str, Any]) -> str:
    what = f"{row['method']}, {row['targets']}, {row['dropout']:g}"
    if row["gpus"] > 1:
        what += f", {row['gpus']} GPUs, {row['batch']} a step"
    start = f"| {row['shape']} | {row['engine']} | {what} |"
    if "failure" in row:
        return f"{start} not measured: {row['failure']} | | | | | |\n"
    if row["void"]:
        return f"{start} void: {row['void']} | | | | | |\n"
    mfu = "" if row["mfu"] is None else f"{row['mfu']:.1%}"
    peak = "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
    return (
        f"{start} {row['tok_s']:,.0f} | {mfu} | {peak} |"
        f" {row['step_p50_s']:.3f} / {row['step_p95_s']:.3f} | {row['setup_s']:.0f} |"
        f" {row['loss']:.3f} ({row['loss_after_steps']}) |\n"
    )


def _count_common(result: Result, results: Sequence[Result]) -> int:
    """Return the steps that every twin of a row did, its own included."""
    counts = [
        len(each.measured.losses)
        for each in results
        if each.measured and result.row.is_twin_of(each.row)
    ]
    return min(counts)


def _mean_last(measured: Measured, other: Measured) -> float:
    common = min(len(measured.losses), len(other.losses))
    return _mean(measured.losses[:common][-LAST_STEPS:])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _in_gib(count: int | None) -> float | None:
    return None if count is None else round(count / GIB, 2)
