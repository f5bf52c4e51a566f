"""Before a GPU is asked for: was this very plan trained before?

A resource that was deleted and applied again, or restored from a backup without its status, looks like a
new one; only S3 knows, and the operator has no keys to it. So a small pod on CPU looks for the finished
manifest of the plan, once, before the first Job of a run that wants a GPU. A run on CPU looks by itself,
in its first second. A probe never stands in the way: one that cannot answer is passed over. Pure.
"""

from dataclasses import replace
from typing import Final

from finetune_api import wire
from finetune_api.outcome import NOTHING_FINISHED, Outcome
from finetune_operator.decide.job.retry_policy import FIRST_ATTEMPT
from finetune_operator.decide.job.run_state import decide_course
from finetune_operator.decide.job.run_view import COMPLETE, FAILED, PENDING, Course, Run
from finetune_operator.decide.job.terminated_pod import exit_code, proved_outcome, read_outcome
from finetune_operator.decide.manifests.job import build_objects
from finetune_operator.decide.manifests.pod import secret_environment_prefixes
from finetune_operator.decide.manifests.pod_task import PodTask
from finetune_operator.decide.plan.accept import ResolvedPlan
from finetune_operator.decide.status.build_status import Report, build_attempts, find_condition
from finetune_operator.decide.steps.reconcile_state import Situation
from finetune_operator.decide.steps.reporting import (
    ACCEPTED,
    build_report,
    delete_of,
    measured_claims,
    plan_report,
    resolved_claim,
    why_not_created,
    write,
)
from finetune_operator.decide.values import conditions as words
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.conditions import Claim
from finetune_operator.decide.values.observation import ObservedJob, ObservedPod

ORDINARY: Final = frozenset({words.POD_STARTING, words.TRAINING, words.FINISHED})
"""Steps of a probe that takes its course."""
NO_FAULT_OF_THE_RUN: Final = frozenset({wire.ExitCode.ENVIRONMENT_UNFIT})
"""Exit codes that say something of the probe's node and nothing of the run."""


def decide_probe(situation: Situation, *, proposal: ResolvedPlan) -> Actions | None:
    """Return what looking for finished work asks for, or None where the run may begin."""
    if not _is_worthwhile(situation, proposal=proposal):
        return None
    job = _probe_of(situation, proposal=proposal)
    if job is None:
        return _begin(situation, proposal=proposal)
    pods = situation.pods_of(job)
    if _found_nothing(job, pods=pods):
        return None
    course = decide_course(
        Run(
            job=job,
            pods=pods,
            events=situation.observed.job_events,
            now=situation.now,
            context=situation.context,
        )
    )
    if course.phase == FAILED and not _is_runs_fault(pods):
        return None
    return _follow(situation, proposal=proposal, job=job, course=course)


def _is_worthwhile(situation: Situation, *, proposal: ResolvedPlan) -> bool:
    """Return whether to look: a GPU is at stake, and nothing of this run was begun."""
    if not situation.context.probes or proposal.plan.resources.gpus == 0:
        return False
    created = find_condition(situation.before.conditions, words.JOB_CREATED)
    return created is None or created.status != "True"


def _probe_of(situation: Situation, *, proposal: ResolvedPlan) -> ObservedJob | None:
    """Return the probe of this plan with these keys; another `secretRef` is no other plan."""
    keys = secret_environment_prefixes(proposal.resource, role=wire.ROLE_PROBE)
    wanted = (proposal.plan.hash, keys)
    jobs = (job for job in situation.probe_jobs if (job.plan_hash, job.secrets) == wanted)
    return max(jobs, key=lambda one: (not one.deleting, one.attempt), default=None)


def _begin(situation: Situation, *, proposal: ResolvedPlan) -> Actions | None:
    """Create the probe; where that is refused the run goes on to be refused, or begins."""
    if why_not_created(situation) is not None:
        return None
    attempt = max((job.attempt for job in situation.probe_jobs), default=0) + FIRST_ATTEMPT
    objects = build_objects(
        proposal.resource,
        task=PodTask.to_probe(proposal.plan),
        attempt=attempt,
        context=situation.context,
    )
    job = ObservedJob.from_object(objects.job)
    report = _report_looking(situation, proposal=proposal, job=job)
    stale = tuple(delete_of(one) for one in situation.probe_jobs if not one.finished)
    actions = write(situation, report=report, deletes=stale)
    return replace(actions, creates=(objects.config_map, objects.job))


def _found_nothing(job: ObservedJob, *, pods: tuple[ObservedPod, ...]) -> bool:
    return any(_says_nothing(read_outcome(pod), job=job) for pod in pods if exit_code(pod) == 0)


def _says_nothing(outcome: Outcome | None, *, job: ObservedJob) -> bool:
    if outcome is None or outcome.exit_code != wire.ExitCode.DONE:
        return False
    return outcome.reason == NOTHING_FINISHED and outcome.plan_hash == job.plan_hash


def _is_runs_fault(pods: tuple[ObservedPod, ...]) -> bool:
    """Return whether the run itself would meet the same end: denied, no such bucket, a wrong plan."""
    codes = {
        exit_code(pod)
        for pod in pods
        if (outcome := read_outcome(pod)) is not None and outcome.exit_code == exit_code(pod)
    }
    return bool(codes & set(wire.USELESS_TO_RETRY) - NO_FAULT_OF_THE_RUN)


def _follow(
    situation: Situation, *, proposal: ResolvedPlan, job: ObservedJob, course: Course
) -> Actions:
    pods = situation.pods_of(job)
    if course.phase in {COMPLETE, FAILED}:
        report = _report_end(situation, proposal=proposal, job=job, course=course, pods=pods)
    else:
        report = _report_looking(situation, proposal=proposal, job=job, course=course)
    return write(
        situation,
        report=report,
        requeue_after_s=course.requeue_after_s,
        needs_job_events=course.needs_job_events,
    )


def _report_end(
    situation: Situation,
    *,
    proposal: ResolvedPlan,
    job: ObservedJob,
    course: Course,
    pods: tuple[ObservedPod, ...],
) -> Report:
    proved = any(proved_outcome(pod, job=job) for pod in pods)
    message = f"Job {job.name} looked for finished work of this plan before a GPU was asked for."
    created = Claim(words.JOB_CREATED, "True", words.PROBED, message)
    counted = any(claim.type == words.CORPUS_MEASURED for claim in course.claims)
    return build_report(
        situation,
        phase=course.phase,
        message=course.message,
        claims=(
            ACCEPTED,
            *(() if counted else measured_claims(situation)),
            resolved_claim(proposal),
            *((created,) if proved else ()),
            *course.claims,
        ),
        plan=plan_report(situation, proposal=proposal),
        attempts=build_attempts(pods, job=job, failed=course.failed_for),
        outcome=course.outcome,
    )


def _report_looking(
    situation: Situation, *, proposal: ResolvedPlan, job: ObservedJob, course: Course | None = None
) -> Report:
    reason = words.PROBING
    message = f"Job {job.name} looks for finished work of this plan before a GPU is asked for."
    if course is not None:
        said = next(claim.reason for claim in course.claims if claim.type == words.RUNNING)
        if said not in ORDINARY:
            reason, message = said, course.message
    return build_report(
        situation,
        phase=PENDING,
        message=message,
        claims=(
            ACCEPTED,
            *measured_claims(situation),
            resolved_claim(proposal),
            Claim(words.JOB_CREATED, "False", reason, message),
            Claim(words.RECONCILING, "True", reason, message),
        ),
        plan=plan_report(situation, proposal=proposal),
    )
