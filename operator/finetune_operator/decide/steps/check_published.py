"""Step: before a GPU is requested, look in S3 for a finished run of the same plan. Pure.

A resource that was deleted and applied again, or restored from a backup without its status, looks new;
only S3 knows better, and the operator has no keys to it. So a small pod on CPU looks for the manifest of
the plan, once, before the first Job of a run that requests a GPU. A run on CPU looks by itself in its
first second. This Job never blocks a run: if it cannot answer, the run begins.
"""

from dataclasses import replace
from typing import Final

from finetune_api import wire
from finetune_api.outcome import NOTHING_FINISHED, Outcome
from finetune_operator.decide.job.retry_policy import FIRST_ATTEMPT
from finetune_operator.decide.job.run_state import decide_run_state
from finetune_operator.decide.job.run_view import COMPLETE, FAILED, RunState, RunView
from finetune_operator.decide.job.terminated_pod import exit_code, proved_outcome, read_outcome
from finetune_operator.decide.manifests.job import build_objects
from finetune_operator.decide.manifests.pod import secret_environment_prefixes
from finetune_operator.decide.manifests.pod_task import PodTask
from finetune_operator.decide.plan.accept import ResolvedPlan
from finetune_operator.decide.state.job_report import job_lookups
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.state.reporting import (
    ACCEPTED,
    build_pending_report,
    build_report,
    find_create_block,
    measured_updates,
    plan_report,
    resolved_update,
    write,
)
from finetune_operator.decide.status.build_status import Report, build_attempts, find_condition
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions, delete_job
from finetune_operator.decide.values.conditions import ConditionUpdate
from finetune_operator.decide.values.observation import ObservedJob, ObservedPod

ORDINARY: Final = frozenset({conditions.POD_STARTING, conditions.TRAINING, conditions.FINISHED})
"""Steps of a probe that takes its course."""
NO_FAULT_OF_THE_RUN: Final = frozenset({wire.ExitCode.ENVIRONMENT_UNFIT})
"""Exit codes that say something of the probe's node and nothing of the run."""


def check_published(state: ReconcileState) -> Actions | None:
    """Look for a published adapter of this plan before a GPU is requested."""
    proposal = state.require_plan()
    if not _is_worthwhile(state, proposal=proposal):
        return None
    job = _probe_of(state, proposal=proposal)
    if job is None:
        return _begin(state, proposal=proposal)
    pods = state.pods_of(job)
    if _found_nothing(job, pods=pods):
        return None
    run_state = decide_run_state(
        RunView(
            job=job,
            pods=pods,
            events=state.observed.job_events or (),
            now=state.now,
            context=state.context,
        )
    )
    if run_state.phase == FAILED and not _is_runs_fault(pods):
        return None
    return _follow(state, proposal=proposal, job=job, run_state=run_state)


def _is_worthwhile(state: ReconcileState, *, proposal: ResolvedPlan) -> bool:
    """Return whether to look: a GPU is at stake, and nothing of this run was begun."""
    if not state.context.probes or proposal.plan.resources.gpus == 0:
        return False
    created = find_condition(state.before.conditions, conditions.JOB_CREATED)
    return created is None or created.status != "True"


def _probe_of(state: ReconcileState, *, proposal: ResolvedPlan) -> ObservedJob | None:
    """Return the probe of this plan with these keys; another `secretRef` is no other plan."""
    keys = secret_environment_prefixes(proposal.resource, role=wire.ROLE_PROBE)
    wanted = (proposal.plan.hash, keys)
    jobs = (job for job in state.probe_jobs if (job.plan_hash, job.secrets) == wanted)
    return max(jobs, key=lambda one: (not one.deleting, one.attempt), default=None)


def _begin(state: ReconcileState, *, proposal: ResolvedPlan) -> Actions | None:
    """Create the probe; where that is refused the run goes on to be refused, or begins."""
    if find_create_block(state) is not None:
        return None
    attempt = max((job.attempt for job in state.probe_jobs), default=0) + FIRST_ATTEMPT
    objects = build_objects(
        proposal.resource,
        task=PodTask.to_probe(proposal.plan),
        attempt=attempt,
        context=state.context,
    )
    job = objects.observed
    report = _report_looking(state, proposal=proposal, job=job)
    stale = tuple(delete_job(one) for one in state.probe_jobs if not one.finished)
    actions = write(state, report=report, deletes=stale)
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
    state: ReconcileState, *, proposal: ResolvedPlan, job: ObservedJob, run_state: RunState
) -> Actions:
    pods = state.pods_of(job)
    if run_state.phase in {COMPLETE, FAILED}:
        report = _report_end(state, proposal=proposal, job=job, run_state=run_state, pods=pods)
    else:
        report = _report_looking(state, proposal=proposal, job=job, run_state=run_state)
    return write(
        state,
        report=report,
        requeue_after_s=run_state.requeue_after_s,
        lookups=job_lookups(state, run_state=run_state),
    )


def _report_end(
    state: ReconcileState,
    *,
    proposal: ResolvedPlan,
    job: ObservedJob,
    run_state: RunState,
    pods: tuple[ObservedPod, ...],
) -> Report:
    proved = any(proved_outcome(pod, job=job) for pod in pods)
    message = f"Job {job.name} looked for finished work of this plan before a GPU was asked for."
    created = ConditionUpdate(conditions.JOB_CREATED, "True", conditions.PROBED, message)
    counted = any(update.type == conditions.CORPUS_MEASURED for update in run_state.updates)
    return build_report(
        state,
        phase=run_state.phase,
        message=run_state.message,
        updates=(
            ACCEPTED,
            *(() if counted else measured_updates(state)),
            resolved_update(proposal),
            *((created,) if proved else ()),
            *run_state.updates,
        ),
        plan=plan_report(state, proposal=proposal),
        attempts=build_attempts(pods, job=job, failed=run_state.failed_for),
        outcome=run_state.outcome,
    )


def _report_looking(
    state: ReconcileState,
    *,
    proposal: ResolvedPlan,
    job: ObservedJob,
    run_state: RunState | None = None,
) -> Report:
    reason = conditions.PROBING
    message = f"Job {job.name} looks for finished work of this plan before a GPU is asked for."
    if run_state is not None:
        said = next(
            update.reason for update in run_state.updates if update.type == conditions.RUNNING
        )
        if said not in ORDINARY:
            reason, message = said, run_state.message
    return build_pending_report(
        state,
        reason=reason,
        message=message,
        updates=(*measured_updates(state), resolved_update(proposal)),
        waits_on=conditions.JOB_CREATED,
        plan=plan_report(state, proposal=proposal),
    )
