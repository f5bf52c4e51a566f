"""Before training: the text is measured where parameters wait for it, by a Job of its own.

`decide` asks this of a resource that may run and has no training Job. The course of a Measure Job is
that of any Job (`course`); here it is said of the measurement instead of the run. What was found is
no answer of this module: once there is a profile, `decide` goes on to the plan. Pure.
"""

from dataclasses import replace
from typing import Final

from finetune_api.measure_plan import MeasurePlan
from finetune_operator import conditions as words
from finetune_operator.actions import Actions
from finetune_operator.admission import Admitted
from finetune_operator.answering import (
    ACCEPTED,
    Why,
    build_report,
    delete_of,
    why_not_created,
    write,
)
from finetune_operator.assignment import Assignment
from finetune_operator.conditions import Claim
from finetune_operator.course import decide_course
from finetune_operator.manifests import build_objects
from finetune_operator.measured import next_attempt
from finetune_operator.observation import ObservedJob
from finetune_operator.run import FAILED, STALLED, SUSPENDED, Course, Run
from finetune_operator.situation import Situation
from finetune_operator.status import Report

MEASURING: Final = "Measuring"
"""Phase of a resource whose text is measured."""
WHYS_TOLD: Final = 2
"""Needs whose sentence is told; a third adds nothing for a reader."""
ORDINARY: Final = frozenset({words.POD_STARTING, words.TRAINING, words.FINISHED})
"""Steps of a Measure Job that takes its course."""


def decide_measurement(situation: Situation, *, admitted: Admitted) -> Actions | None:
    """Return what the measurement asks for, or None where no parameter waits for one."""
    measured = situation.measured
    if not measured.is_missing or measured.plan is None:
        return None
    if measured.job is not None:
        return _follow(situation, job=measured.job)
    return _begin(situation, admitted=admitted, plan=measured.plan)


def _begin(situation: Situation, *, admitted: Admitted, plan: MeasurePlan) -> Actions:
    """Create measure plan and Job, or say why the last try to do so failed."""
    why = why_not_created(situation)
    if why is not None:
        return _not_created(situation, why=why)
    objects = build_objects(
        admitted.resource,
        assignment=Assignment.to_measure(plan),
        attempt=next_attempt(situation.measure_jobs),
        context=situation.context,
    )
    followed = _follow(situation, job=ObservedJob.from_object(objects.job))
    return replace(followed, creates=(objects.config_map, objects.job))


def _not_created(situation: Situation, *, why: Why) -> Actions:
    state = words.STALLED if why.phase == STALLED else words.RECONCILING
    claims = (*_waiting(why.reason, why.message), Claim(state, "True", why.reason, why.message))
    report = build_report(situation, phase=why.phase, message=why.message, claims=claims)
    return write(situation, report=report, requeue_after_s=why.retry_s)


def _follow(situation: Situation, *, job: ObservedJob) -> Actions:
    course = decide_course(
        Run(
            job=job,
            pods=situation.pods_of(job),
            events=situation.observed.job_events,
            now=situation.now,
            context=situation.context,
        )
    )
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
    has_pod = any(pod.ended for pod in situation.pods_of(job))
    if course.failed_for == words.OUTCOME_MISSING and not has_pod:
        return _report_lost(situation, job=job)
    failed = "The text could not be measured."
    return build_report(
        situation,
        phase=FAILED,
        message=course.message,
        claims=(
            *_waiting(words.FINISHED, failed),
            *(claim for claim in course.claims if claim.type != words.RUNNING),
        ),
    )


def _report_under_way(situation: Situation, *, job: ObservedJob, course: Course) -> Report:
    reason = next(claim.reason for claim in course.claims if claim.type == words.RUNNING)
    message = course.message
    if reason in ORDINARY:
        # One sentence for all that is ordinary, so that the status of a new resource is written once.
        needs = situation.measured.needs[:WHYS_TOLD]
        whys = " ".join(f"{need.why[:1].upper()}{need.why[1:]}" for need in needs)
        message = f"Job {job.name} measures the text. {whys}"
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
    message = (
        f"Job {job.name} is complete and its pod is gone, so what it measured is lost; delete the Job, "
        "and the text is measured again."
    )
    return build_report(
        situation,
        phase=STALLED,
        message=message,
        claims=(
            *_waiting(words.OUTCOME_MISSING, message),
            Claim(words.STALLED, "True", words.OUTCOME_MISSING, message),
        ),
    )


def _waiting(reason: str, message: str) -> tuple[Claim, Claim, Claim]:
    waits = "The parameters wait for what is measured of the text."
    return (
        ACCEPTED,
        Claim(words.CORPUS_MEASURED, "False", reason, message),
        Claim(words.RESOLVED, "False", words.AWAITING_MEASUREMENT, waits),
    )
