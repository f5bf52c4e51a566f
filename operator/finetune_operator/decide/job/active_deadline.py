"""How long a run was active, over all its attempts: what `activeDeadlineSeconds` is about.

A Job starts to count again whenever it is resumed, and another Job from nothing; the run's own clock goes on
where it stood, and stands still while the run is suspended or waits in a queue. It is kept in status,
only where there is a deadline. Pure; the time is passed in.
"""

from datetime import datetime

from finetune_api.status import ActiveTime
from finetune_operator.decide.values.conditions import format_time
from finetune_operator.decide.values.observation import ObservedJob, parse_time


def build_active_time(
    before: ActiveTime | None, *, job: ObservedJob, now: datetime
) -> ActiveTime | None:
    """Return the clock after `before`, or None where it never ran."""
    is_running = job.start is not None and not (job.suspended or job.is_stopped or job.finished)
    since = format_time(job.start) if is_running and job.start is not None else None
    if before is None:
        return ActiveTime(since=since) if since is not None else None
    if since == before.since:
        return before
    return ActiveTime(seconds=before.seconds + _stretch(before, job=job, now=now), since=since)


def seconds_left(deadline_s: int, *, active: ActiveTime | None) -> int:
    """Return what a Job that starts or is resumed may take; at least 1, the least that a Job takes."""
    return max(deadline_s - (active.seconds if active is not None else 0), 1)


def _stretch(before: ActiveTime, *, job: ObservedJob, now: datetime) -> int:
    """Return the seconds of the stretch that has ended, where one has."""
    since = parse_time(before.since)
    if since is None:
        return 0
    given_up = job.failure.time if job.failure is not None else None
    ended = (job.stopped if job.is_stopped else None) or job.end or given_up or now
    return max(int((ended - since).total_seconds()), 0)
