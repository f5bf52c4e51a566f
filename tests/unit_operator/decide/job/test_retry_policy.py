"""Another attempt: memory, excused failures, and the clock of the deadline."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.quantity import parse_quantity
from finetune_api.status import ActiveTime, Attempt
from finetune_operator.decide.job.active_deadline import build_active_time, seconds_left
from finetune_operator.decide.job.job_limits import BudgetUsed, decide_patches, retries_left
from finetune_operator.decide.job.retry_policy import excused_failures, raise_memory
from finetune_operator.decide.values.observation import ObservedJob
from tests.unit_operator.decide.story import CASES, START, build_raw_job, read_yaml

BODY = read_yaml(CASES / "new/resource.yaml")
JOB = "swahili-assistant-1-train-1"


def job(**special: Any) -> ObservedJob:
    return ObservedJob.from_object(build_raw_job(special))


def stopped(number: int, *, reason: str = "JobSuspended", of: str = JOB) -> Attempt:
    return Attempt(job_name=of, uid=f"u{number}", reason=reason)


@pytest.mark.parametrize(
    ("limit", "most", "raised"),
    [
        ("8Gi", "64Gi", "16Gi"),
        ("32Gi", "48Gi", "48Gi"),
        ("48Gi", "48Gi", None),
        ("64Gi", "48Gi", None),
        ("8Gi", "", None),
        ("", "64Gi", None),
        ("500Mi", "64Gi", "1000Mi"),
        ("1000", "64Gi", "2000"),
    ],
    ids=str,
)
def test_memory_doubles_up_to_the_administrators_ceiling(
    limit: str, most: str, raised: str | None
) -> None:
    assert raise_memory(limit, most=most) == raised


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from(["Mi", "Gi", "M", ""]))
def test_more_memory_is_more_and_never_over_the_ceiling(limit: int, most: int, unit: str) -> None:
    raised = raise_memory(f"{limit}{unit}", most=f"{most}{unit}")
    if raised is None:
        assert limit >= most
    else:
        assert limit < parse_quantity(raised) / parse_quantity(f"1{unit}") <= most


def test_a_pod_that_was_only_stopped_with_its_job_is_excused() -> None:
    attempts = [stopped(1), stopped(2, reason="OOMKilled"), stopped(3, of="another")]
    assert excused_failures(job(status={"failed": 2}), attempts=attempts) == 1
    assert excused_failures(job(status={"failed": 0}), attempts=attempts) == 0


def test_an_excused_failure_gives_the_job_another_try() -> None:
    (patch,) = decide_patches(BODY, job=job(), used=BudgetUsed(excused=2))
    assert patch.spec == {"backoffLimit": 5}


def test_the_job_of_a_later_attempt_has_what_is_left_of_the_tries() -> None:
    assert [retries_left(3, attempt=one) for one in (0, 1, 2, 5)] == [3, 3, 2, 0]


def at(minutes: int) -> str:
    return (START + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


def running(since: int) -> ObservedJob:
    return job(status={"active": 1, "startTime": at(since)})


def suspended(since: int) -> ObservedJob:
    reported = {"type": "Suspended", "status": "True", "lastTransitionTime": at(since)}
    return job(spec={"suspend": True}, status={"conditions": [reported]})


def test_the_clock_stands_still_while_the_run_is_suspended() -> None:
    clock = build_active_time(None, job=running(0), now=START)
    for minutes, seen in ((30, suspended(20)), (60, suspended(20)), (61, running(61))):
        clock = build_active_time(clock, job=seen, now=START + timedelta(minutes=minutes))
    assert clock == ActiveTime(seconds=20 * 60, since=at(61))
    assert seconds_left(3600, active=clock) == 40 * 60


def test_the_clock_goes_on_with_another_job() -> None:
    clock = build_active_time(ActiveTime(seconds=100, since=at(0)), job=running(10), now=START)
    assert clock is not None
    assert clock.since == at(10)


def test_a_used_up_deadline_leaves_the_second_that_a_job_takes_at_least() -> None:
    assert seconds_left(60, active=ActiveTime(seconds=600)) == 1


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=8))
def test_the_clock_counts_every_active_minute_once(states: list[bool]) -> None:
    """Looked at every minute, whatever the Job was in the minutes before."""
    clock = None
    for minute, is_active in enumerate(states):
        changes = (one for one in range(minute, 0, -1) if states[one - 1] != is_active)
        since = next(changes, 0)
        seen = running(since) if is_active else suspended(since)
        clock = build_active_time(clock, job=seen, now=START + timedelta(minutes=minute))
    end = suspended(len(states)) if states and states[-1] else suspended(0)
    clock = build_active_time(clock, job=end, now=START + timedelta(minutes=len(states)))
    assert (clock.seconds if clock is not None else 0) == 60 * sum(states)
