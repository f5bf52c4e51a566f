"""`status.progress` from what a trainer reports: the names of Kubeflow's protocol become fields of status.

Used by the operator's progress buffer and by `kubectl finetune run`. Pure.
"""

from finetune_api import progress
from finetune_api.progress import TrainerStatus
from finetune_api.status import CheckpointStatus, ProgressStatus


def build_progress(report: TrainerStatus, *, run: int, time: str) -> ProgressStatus:
    """Return a report in the words of status; what is not a number is left out."""
    return ProgressStatus(
        percent=report.progress_percentage,
        step=_whole(report.metric(progress.STEP)),
        total_steps=_whole(report.metric(progress.TOTAL_STEPS)),
        epoch=_finite(report.metric(progress.EPOCH)),
        loss=_finite(report.metric(progress.LOSS)),
        eval_loss=_finite(report.metric(progress.EVAL_LOSS)),
        tokens_per_second=_finite(report.metric(progress.TOKENS_PER_SECOND)),
        eta_seconds=report.estimated_remaining_seconds,
        stage=report.metric(progress.STAGE),
        waiting_for=report.waiting_for,
        waiting_since=report.waiting_since,
        updated_at=time,
        checkpoint=_checkpoint(report),
        run=run,
    )


def _checkpoint(report: TrainerStatus) -> CheckpointStatus | None:
    saved = report.checkpoint
    if saved is None:
        return None
    return CheckpointStatus(
        step=saved.step, uri=saved.uri, time=saved.time, grace_seconds=report.grace_seconds_needed
    )


def with_previous_values(status: ProgressStatus, previous: ProgressStatus) -> ProgressStatus:
    """Return a report with the values that it leaves out taken from the previous one.

    A report need not repeat the loss. One that names no wait ends the wait.
    """
    known = {name: getattr(status, name) for name in ProgressStatus.model_fields}
    return previous.model_copy(
        update={name: value for name, value in known.items() if value is not None}
        | {"waiting_for": status.waiting_for, "waiting_since": status.waiting_since}
    )


def is_behind(status: ProgressStatus, other: ProgressStatus) -> bool:
    """Return whether a report is behind another one of the same run."""
    if status.percent is None or other.percent is None:
        return False
    return status.percent < other.percent


def _whole(text: str | None) -> int | None:
    number = _number(text)
    return int(number) if number is not None and 0 <= number < 2**53 else None


def _finite(text: str | None) -> str | None:
    return text if _number(text) is not None else None


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number - number == 0 else None  # neither NaN nor infinite
