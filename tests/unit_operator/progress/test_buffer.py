"""Progress: the latest wins, it never falls, and the API server is spared."""

import pytest

from finetune_api.checkpoint import SavedCheckpoint
from finetune_api.progress import Metric, TrainerStatus
from finetune_api.status import CheckpointStatus, ProgressStatus
from finetune_operator.decide.status.build_progress import build_progress
from finetune_operator.progress.buffer import ProgressBuffer, RunKey
from finetune_operator.progress.writer import has_ended, is_done, is_stale
from finetune_operator.watch.store import Key

RUN = RunKey(key=Key("ml", "sw"), uid="u", run=1)
NOON = "2026-01-01T12:00:00Z"


@pytest.fixture
def buffer() -> ProgressBuffer:
    return ProgressBuffer(jitter=lambda: 0.0)


def report(percent: int | None, **metrics: str) -> TrainerStatus:
    named = tuple(Metric(name=name, value=value) for name, value in metrics.items())
    return TrainerStatus(progress_percentage=percent, metrics=named)


def put(
    buffer: ProgressBuffer, percent: int, *, now: float, run: RunKey = RUN, **more: str
) -> bool:
    return buffer.put(run, report=report(percent, **more), time=NOON, now=now)


def percents(buffer: ProgressBuffer, *, now: float) -> list[int | None]:
    return [status.percent for _, status in buffer.take_due(now=now, limit=10)]


def test_the_first_report_is_written_at_once(buffer: ProgressBuffer) -> None:
    put(buffer, 0, now=0)
    assert percents(buffer, now=0) == [0]


def test_of_many_reports_the_latest_is_written_once(buffer: ProgressBuffer) -> None:
    for percent in (1, 2, 3):
        put(buffer, percent, now=0)
    assert percents(buffer, now=0) == [3]
    assert percents(buffer, now=100) == []


def test_one_percent_more_is_written_after_two_seconds(buffer: ProgressBuffer) -> None:
    put(buffer, 1, now=0)
    percents(buffer, now=0)
    put(buffer, 2, now=0.5)
    assert percents(buffer, now=1.9) == []
    assert percents(buffer, now=2) == [2]


def test_the_same_percentage_is_written_after_thirty_seconds(buffer: ProgressBuffer) -> None:
    put(buffer, 1, now=0, step="10")
    percents(buffer, now=0)
    put(buffer, 1, now=5, step="11")
    put(buffer, 1, now=29, step="12")
    assert percents(buffer, now=29.9) == []
    [(_, status)] = buffer.take_due(now=30, limit=10)
    assert status.step == 12


def saved(step: int) -> SavedCheckpoint:
    return SavedCheckpoint(step=step, uri=f"s3://b/step-{step}", time=NOON)


def put_saved(buffer: ProgressBuffer, percent: int, *, step: int, now: float) -> bool:
    reported = report(percent).model_copy(update={"checkpoint": saved(step)})
    return buffer.put(RUN, report=reported, time=NOON, now=now)


def test_a_new_checkpoint_does_not_wait_for_thirty_seconds(buffer: ProgressBuffer) -> None:
    put_saved(buffer, 1, step=100, now=0)
    percents(buffer, now=0)
    put_saved(buffer, 1, step=200, now=3)
    [(_, status)] = buffer.take_due(now=3, limit=10)
    assert status.checkpoint == CheckpointStatus(step=200, uri="s3://b/step-200", time=NOON)


def test_a_checkpoint_is_kept_while_later_reports_tell_of_none(buffer: ProgressBuffer) -> None:
    put_saved(buffer, 1, step=100, now=0)
    put(buffer, 2, now=5)
    [(_, status)] = buffer.take_due(now=5, limit=10)
    assert (status.percent, status.checkpoint and status.checkpoint.step) == (2, 100)


def test_a_resumed_pod_that_is_behind_tells_of_its_newer_checkpoint_alone(
    buffer: ProgressBuffer,
) -> None:
    put_saved(buffer, 50, step=100, now=0)
    assert put_saved(buffer, 40, step=150, now=5)
    assert not put_saved(buffer, 40, step=150, now=6)
    [(_, status)] = buffer.take_due(now=10, limit=10)
    assert (status.percent, status.checkpoint and status.checkpoint.step) == (50, 150)


def test_another_stage_does_not_wait_for_thirty_seconds(buffer: ProgressBuffer) -> None:
    put(buffer, 1, now=0, stage="Train")
    percents(buffer, now=0)
    put(buffer, 1, now=3, stage="Evaluate")
    assert percents(buffer, now=3) == [1]


def test_a_resumed_pod_does_not_throw_the_run_back(buffer: ProgressBuffer) -> None:
    put(buffer, 40, now=0)
    percents(buffer, now=0)
    assert not put(buffer, 0, now=10)
    assert put(buffer, 41, now=50)
    assert percents(buffer, now=50) == [41]


def test_a_report_without_a_loss_does_not_hide_the_last_one(buffer: ProgressBuffer) -> None:
    put(buffer, 1, now=0, loss="2.5", step="10")
    put(buffer, 2, now=1, step="20")
    [(_, status)] = buffer.take_due(now=5, limit=10)
    assert (status.percent, status.step, status.loss) == (2, 20, "2.5")


def test_a_new_run_begins_at_zero(buffer: ProgressBuffer) -> None:
    put(buffer, 90, now=0)
    second = RunKey(key=RUN.key, uid="u", run=2)
    assert put(buffer, 0, now=1, run=second)


def test_nothing_is_taken_after_the_end(buffer: ProgressBuffer) -> None:
    put(buffer, 99, now=0)
    buffer.close(RUN)
    assert not put(buffer, 100, now=1)
    assert percents(buffer, now=100) == []


def test_the_longest_overdue_are_written_first_and_the_rest_waits(buffer: ProgressBuffer) -> None:
    runs = [RunKey(key=Key("ml", str(number)), uid=str(number), run=1) for number in range(3)]
    for second, run in enumerate(reversed(runs)):
        put(buffer, 1, now=second, run=run)
    taken = [run.key.name for run, _ in buffer.take_due(now=10, limit=2)]
    assert taken == ["2", "1"]
    assert [run.key.name for run, _ in buffer.take_due(now=10, limit=2)] == ["0"]


def test_a_failed_write_is_tried_again_with_the_newest(buffer: ProgressBuffer) -> None:
    put(buffer, 1, now=0)
    percents(buffer, now=0)
    buffer.postpone(RUN, until=10)
    put(buffer, 2, now=5)
    assert percents(buffer, now=10) == [2]


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf", "soon", ""])
def test_what_is_no_number_is_left_out(loss: str) -> None:
    status = build_progress(report(5, loss=loss), run=1, time=NOON)
    assert status.loss is None


def test_known_metrics_are_shown_as_they_were_sent() -> None:
    sent = report(5, loss="2.25", step="7", total_steps="30.0", tokens_per_second="812.5")
    status = build_progress(sent, run=3, time=NOON)
    assert status == ProgressStatus(
        percent=5,
        step=7,
        total_steps=30,
        loss="2.25",
        tokens_per_second="812.5",
        updated_at=NOON,
        run=3,
    )


@pytest.mark.parametrize(
    ("shown", "ahead"),
    [
        ({"run": 1, "progress": {"percent": 50, "run": 1}}, True),
        ({"run": 1, "progress": {"percent": 30, "run": 1}}, False),
        ({"run": 2, "progress": {"percent": 0, "run": 2}}, True),
        ({"run": 1, "progress": {}}, False),
        ({}, False),
        ({"run": 2, "progress": {"percent": "half"}}, True),
        ({"run": "2", "progress": {"stage": "x" * 129}}, True),
        ({"run": [], "progress": []}, False),
    ],
    ids=[
        "further on",
        "behind",
        "newer run",
        "no progress",
        "no status",
        "progress of another schema",
        "run of another schema",
        "nothing that can be read",
    ],
)
def test_after_a_restart_the_resource_says_how_far_the_run_is(
    shown: dict[str, object], ahead: bool
) -> None:
    status = ProgressStatus(percent=40, run=1)
    assert is_stale({"status": shown}, run=1, report=status) is ahead


@pytest.mark.parametrize(
    ("kind", "value", "ended"),
    [("Complete", "True", True), ("Failed", "True", True), ("Failed", "False", False)],
)
def test_a_run_ends_with_complete_or_failed(kind: str, value: str, ended: bool) -> None:
    condition = {
        "type": kind,
        "status": value,
        "reason": "R",
        "message": "m",
        "lastTransitionTime": NOON,
    }
    status = {"run": 1, "conditions": [condition]}
    assert has_ended({"status": status}, run=1) is ended


@pytest.mark.parametrize(
    ("progress", "kind", "done"),
    [
        ({"percent": 100, "run": 1}, "Complete", True),
        ({"percent": 99, "run": 1}, "Complete", False),
        ({"percent": 100, "run": 2}, "Complete", False),
        ({"percent": 100, "run": 1}, "Running", False),
        (None, "Complete", False),
    ],
    ids=["all of it", "not all", "another run", "not over", "nothing"],
)
def test_what_is_shown_whole_and_over_is_done(
    progress: dict[str, object] | None, kind: str, done: bool
) -> None:
    condition = {"type": kind, "status": "True", "reason": "R", "message": "m"}
    conditions = [condition | {"lastTransitionTime": NOON}]
    status = {"run": 1, "conditions": conditions} | ({"progress": progress} if progress else {})
    assert is_done({"status": status}, run=1) is done


def waiting(percent: int, *, stage: str, wait: str | None) -> TrainerStatus:
    since = None if wait is None else NOON
    return report(percent, stage=stage).model_copy(
        update={"waiting_for": wait, "waiting_since": since}
    )


def test_a_wait_is_written_at_once_and_ends_with_the_next_report(buffer: ProgressBuffer) -> None:
    output = "the output at s3://adapters/"
    buffer.put(RUN, report=waiting(97, stage="Publish", wait=output), time=NOON, now=0)
    (_, first), *_ = buffer.take_due(now=10, limit=1)
    assert (first.stage, first.waiting_for, first.waiting_since) == ("Publish", output, NOON)
    buffer.put(RUN, report=waiting(97, stage="Publish", wait=None), time=NOON, now=20)
    (_, second), *_ = buffer.take_due(now=30, limit=1)
    assert (second.stage, second.waiting_for, second.waiting_since) == ("Publish", None, None)


def test_a_resumed_pod_that_waits_is_shown_beside_the_progress_of_the_previous_one(
    buffer: ProgressBuffer,
) -> None:
    buffer.put(RUN, report=report(60, stage="Train", step="30"), time=NOON, now=0)
    buffer.take_due(now=10, limit=1)
    sent = waiting(1, stage="Fetch", wait="the model at s3://models/base/")
    buffer.put(RUN, report=sent, time=NOON, now=20)
    (_, shown), *_ = buffer.take_due(now=30, limit=1)
    assert (shown.percent, shown.step, shown.stage) == (60, 30, "Fetch")
    assert shown.waiting_for == "the model at s3://models/base/"
