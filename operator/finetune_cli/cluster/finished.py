"""Whether a run has ended, and the lines that say where it is. Pure."""

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

from finetune_api.status import LanguageFinetuneStatus, short_duration


class WaitEnd(IntEnum):
    """How waiting for a run ended, as an exit code."""

    COMPLETE = 0
    FAILED = 1
    TIMED_OUT = 124
    """As timeout(1) of coreutils has it."""


def read_status(body: Mapping[str, Any]) -> LanguageFinetuneStatus:
    """Return the status of an object; an empty one where the operator has not looked at it yet."""
    return LanguageFinetuneStatus.model_validate(body.get("status") or {})


def find_end(body: Mapping[str, Any]) -> WaitEnd | None:
    """Return how the run of this generation ended, or None while it goes on.

    The end of an older generation says nothing of a spec that was changed since.
    """
    status = read_status(body)
    if status.observed_generation != (body.get("metadata") or {}).get("generation"):
        return None
    true = {one.type for one in status.conditions if one.status == "True"}
    if "Complete" in true:
        return WaitEnd.COMPLETE
    return WaitEnd.FAILED if "Failed" in true else None


def describe_progress(body: Mapping[str, Any]) -> str:
    """Return where a run is, in one line."""
    status = read_status(body)
    parts = [status.phase or "Pending"]
    progress = status.progress
    if progress is not None and status.phase == "Running":
        parts += [progress.stage] if progress.stage else []
        if progress.step is not None:
            parts.append(f"step {progress.step:,} of {progress.total_steps or 0:,}")
        parts += [f"loss {progress.loss}"] if progress.loss else []
        if progress.eta_seconds is not None:
            parts.append(f"{short_duration(progress.eta_seconds)} left")
        return ", ".join(parts)
    return f"{parts[0]}: {status.message}" if status.message else parts[0]


def describe_resource(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of `status`: phase, figures with their scale, output, warnings."""
    status, metadata = read_status(body), body.get("metadata") or {}
    yield f"{metadata.get('namespace', 'default')}/{metadata.get('name', '')}  {describe_progress(body)}"
    for result in status.evaluation:
        yield (
            f"  held-out loss {result.base_loss} → {result.adapter_loss} nats per token, "
            f"{result.base_bits_per_byte} → {result.adapter_bits_per_byte} bits per byte, on "
            f"{result.examples:,} examples (lower is better)"
        )
    if status.checkpoint is not None:
        yield f"  checkpoint    step {status.checkpoint.step:,}, {status.checkpoint.uri}"
    if status.output is not None:
        yield f"  adapter       {status.output.uri}"
    for warning in status.warnings:
        about = f"{warning.parameter}: " if warning.parameter else ""
        yield f"  {warning.severity:<4}  {about}{warning.message}"
