"""Before training: the text is measured where parameters wait for it, by a Job of its own.

`decide` asks this of a resource that may run and has no training Job. The course of a Measure Job is
that of any Job (`course`); here it is said of the measurement instead of the run. What was found is
no answer of this module: once there is a profile, `decide` goes on to the plan. A measurement that was
lost with its pod is made again, a few times. Pure.
"""

from dataclasses import replace
from typing import Final

from finetune_api.measure_plan import MeasurePlan
from finetune_operator.decide.job.run_state import decide_course
from finetune_operator.decide.job.run_view import FAILED, STALLED, SUSPENDED, Course, Run
from finetune_operator.decide.manifests.job import build_objects
from finetune_operator.decide.manifests.pod_task import PodTask
from finetune_operator.decide.plan.accept import Admitted
from finetune_operator.decide.plan.measurement import next_attempt
from finetune_operator.decide.status.build_status import Report
from finetune_operator.decide.steps.reconcile_state import Situation
from finetune_operator.decide.steps.reporting import (
    ACCEPTED,
    Why,
    build_report,
    delete_of,
    why_not_created,
    write,
)
from finetune_operator.decide.values import conditions as words
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.conditions import Claim
from finetune_operator.decide.values.observation import ObservedJob

MEASURING: Final = "Measuring"
"""Phase of a resource whose text is measured."""
WHYS_TOLD: Final = 2
"""Needs whose sentence is told; a third adds nothing for a reader."""
ORDINARY: Final = frozenset({words.POD_STARTING, words.TRAINING, words.FINISHED})
"""Steps of a Measure Job that takes its course."""
AGAIN_AFTER_S: Final = (60.0, 300.0)
"""From the end of a Job whose result was lost until the next one, for each that may follow. Assumption:
a node that went away is seen in the first minute, and what deletes pods on purpose is worth no fourth
Job. Each costs little: what the first one found is still cached in the bucket."""


def decide_measurement(situation: Situation, *, admitted: Admitted) -> Actions | None:
    """Return what the measurement asks for, or None where no parameter waits for one."""
    measured = situation.measured
    if not measured.is_missing or measured.plan is None:
        return None
    if measured.job is None:
        return _begin(situation, admitted=admitted, plan=measured.plan)
    course = _course(situation, job=measured.job)
    if not _is_lost(situation, job=measured.job, course=course):
        return _follow(situation, job=measured.job, course=course)
    left = _seconds_until_again(situation, job=measured.job)
    if left is None:
        return write(situation, report=_report_given_up(situation))
    if left > 0:
        report = _report_lost(situation, job=measured.job)
        return write(situation, report=report, requeue_after_s=left)
    return _begin(situation, admitted=admitted, plan=measured.plan)


def _is_lost(situation: Situation, *, job: ObservedJob, course: Course) -> bool:
    """Return whether a Job has measured, and its pod went before anybody read what it found."""
    if course.phase != FAILED or course.failed_for != words.OUTCOME_MISSING:
        return False
    return not any(pod.ended for pod in situation.pods_of(job))


def _seconds_until_again(situation: Situation, *, job: ObservedJob) -> float | None:
    """Return how long the next Job waits after this lost one, or None where none follows."""
    tries = len(situation.measured.lost)
    if tries > len(AGAIN_AFTER_S):
        return None
    if job.complete is None or job.complete.time is None:
        return 0.0
    passed = (situation.now - job.complete.time).total_seconds()
    return max(AGAIN_AFTER_S[tries - 1] - passed, 0.0)


def _begin(situation: Situation, *, admitted: Admitted, plan: MeasurePlan) -> Actions:
    """Create measure plan and Job, or say why the last try to do so failed."""
    why = why_not_created(situation)
    if why is not None:
        return _not_created(situation, why=why)
    objects = build_objects(
        admitted.resource,
        task=PodTask.to_measure(plan),
        attempt=next_attempt(situation.measure_jobs),
        context=situation.context,
    )
    job = ObservedJob.from_object(objects.job)
    followed = _follow(situation, job=job, course=_course(situation, job=job))
    return replace(followed, creates=(objects.config_map, objects.job))


def _not_created(situation: Situation, *, why: Why) -> Actions:
    state = words.STALLED if why.phase == STALLED else words.RECONCILING
    claims = (*_waiting(why.reason, why.message), Claim(state, "True", why.reason, why.message))
    report = build_report(situation, phase=why.phase, message=why.message, claims=claims)
    return write(situation, report=report, requeue_after_s=why.retry_s)


def _course(situation: Situation, *, job: ObservedJob) -> Course:
    return decide_course(
        Run(
            job=job,
            pods=situation.pods_of(job),
            events=situation.observed.job_events,
            now=situation.now,
            context=situation.context,
        )
    )


def _follow(situation: Situation, *, job: ObservedJob, course: Course) -> Actions:
    return write(
        situation,
        report=_report(situation, job=job, course=course),
        deletes=(delete_of(job),) if course.delete_job else (),
        requeue_after_s=course.requeue_after_s,
        needs_job_events=course.needs_job_events,
    )


# --- What is said of it -----------------------------------------------------------------------------


def _report(situation: Situation, *, job: ObservedJob, course: Course) -> Report:
    if course.phase != FAILED:
        return _report_under_way(situation, job=job, course=course)
    claims = tuple(claim for claim in course.claims if claim.type != words.RUNNING)
    return _report_failed(situation, message=course.message, claims=claims)


def _report_failed(situation: Situation, *, message: str, claims: tuple[Claim, ...]) -> Report:
    failed = "The text could not be measured."
    return build_report(
        situation,
        phase=FAILED,
        message=message,
        claims=(*_waiting(words.FINISHED, failed), *claims),
    )


def _report_under_way(situation: Situation, *, job: ObservedJob, course: Course) -> Report:
    reason = next(claim.reason for claim in course.claims if claim.type == words.RUNNING)
    message = course.message
    if reason in ORDINARY:
        # One sentence for all that is ordinary, so that the status of a new resource is written once.
        needs = situation.measured.needs[:WHYS_TOLD]
        whys = " ".join(f"{need.why[:1].upper()}{need.why[1:]}" for need in needs)
        is_again = any(one.name != job.name for one in situation.measured.lost)
        again = " again, because what was measured before is lost" if is_again else ""
        message = f"Job {job.name} measures the text{again}. {whys}"
        reason = words.MEASURING
    is_held = course.phase == SUSPENDED
    state = words.SUSPENDED if is_held else words.RECONCILING
    return build_report(
        situation,
        phase=SUSPENDED if is_held else MEASURING,
        message=message,
        claims=(*_waiting(reason, message), Claim(state, "True", reason, message)),
    )


def _report_lost(situation: Situation, *, job: ObservedJob) -> Report:
    tries = len(situation.measured.lost)
    message = (
        f"Job {job.name} is complete and its pod is gone, so what it measured is lost; the text is measured "
        f"again {AGAIN_AFTER_S[tries - 1]:.0f} seconds after its end ({tries} of {len(AGAIN_AFTER_S)} times)."
    )
    return build_report(
        situation,
        phase=MEASURING,
        message=message,
        claims=(
            *_waiting(words.OUTCOME_MISSING, message),
            Claim(words.RECONCILING, "True", words.OUTCOME_MISSING, message),
        ),
    )


def _report_given_up(situation: Situation) -> Report:
    """Say that the text is not measured once more, and what to look for."""
    lost = ", ".join(job.name for job in situation.measured.lost)
    message = (
        f"Each of the Jobs {lost} measured the text, and each time its pod was gone before the result was "
        "read: pods must stay for a minute after their end. Find what deletes them (a policy, a script, "
        "nodes that are removed), then delete the resource and apply it again."
    )
    claims = tuple(
        Claim(kind, "True", words.OUTCOME_MISSING, message)
        for kind in (words.FAILED, words.STALLED)
    )
    return _report_failed(situation, message=message, claims=claims)


def _waiting(reason: str, message: str) -> tuple[Claim, Claim, Claim]:
    waits = "The parameters wait for what is measured of the text."
    return (
        ACCEPTED,
        Claim(words.CORPUS_MEASURED, "False", reason, message),
        Claim(words.RESOLVED, "False", words.AWAITING_MEASUREMENT, waits),
    )
