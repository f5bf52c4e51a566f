"""Step: under `deadlinePolicy: PublishBest` a run that reached its deadline publishes its best checkpoint.

The Job controller ends the Job at the deadline, and its pod saves a checkpoint as for any other stop. One
more Job, attempt 3, takes the newest checkpoint and publishes the adapter that the run would publish if it
had ended there; it does no step. So a pod that hangs at its deadline, or was lost with its node, costs no
more than a checkpoint's interval. Without a checkpoint the run fails. Pure.
"""

from collections.abc import Mapping
from dataclasses import replace

from finetune_api.resource import DeadlinePolicy
from finetune_operator.decide.job.active_deadline import build_active_time
from finetune_operator.decide.job.checkpoint_status import find_checkpoint
from finetune_operator.decide.job.job_limits import deadline_of
from finetune_operator.decide.job.retry_policy import AT_DEADLINE, WITH_MORE_MEMORY
from finetune_operator.decide.job.run_view import PENDING, SUSPENDED
from finetune_operator.decide.job.suspend_request import is_held
from finetune_operator.decide.manifests.job import build_closing
from finetune_operator.decide.plan.accept import ResolvedPlan, SpecRefusal
from finetune_operator.decide.state.job_report import create_job_of
from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.state.reporting import (
    build_pending_report,
    find_create_block,
    keep_known_plan,
    write,
)
from finetune_operator.decide.status.build_status import build_attempts
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions, Lookups
from finetune_operator.decide.values.observation import ObservedJob
from finetune_operator.raw_object import RawObject


def publishes_best(body: RawObject) -> bool:
    """Return whether the resource wants the best published at its deadline, however broken the rest is."""
    spec = body.get("spec")
    asked = isinstance(spec, Mapping) and spec.get("deadlinePolicy") == DeadlinePolicy.PUBLISH_BEST
    return asked and deadline_of(body) is not None


def publish_at_deadline(state: ReconcileState) -> Actions | None:
    """Publish the best checkpoint of a run that reached its deadline under `PublishBest`."""
    job = state.job
    if job is None or not _is_over_deadline(state, job=job):
        return None
    admitted = state.admitted  # no earlier: no other run that is followed needs it
    if isinstance(admitted, SpecRefusal):
        return None
    stopping = sorted(pod.name for pod in state.training_pods if not pod.ended)
    if stopping:
        why = (
            f"Pod {', '.join(stopping)} is stopped, because the run's deadline is reached; then the "
            "best adapter is published."
        )
        return _report(state, job=job, reason=conditions.POD_STOPPING, message=why)
    # Asked once the pod has ended: its last word names the checkpoint that it saved while it stopped.
    saved = find_checkpoint(state.before, pods=state.training_pods, run=state.run)
    if saved is None:
        return None
    if is_held(state.observed.body):
        held = (
            f"The run reached its deadline and is suspended; set spec.suspend to false, and what it saved "
            f"at step {saved.step:,} is published."
        )
        return _report(state, job=job, reason=conditions.SUSPENDED_BY_SPEC, message=held)
    if state.observed.pinned_plan is None:
        reported = (
            f"The run reached its deadline; what it saved at step {saved.step:,} is published."
        )
        waiting = _report(state, job=job, reason=conditions.PUBLISHING_BEST, message=reported)
        return replace(waiting, lookups=Lookups(pinned_plan=job.plan_config_map))
    begun = state.read_plan(wanted=job.plan_hash)
    return None if begun is None else _build(state, job=job, begun=begun)


def _is_over_deadline(state: ReconcileState, *, job: ObservedJob) -> bool:
    failure = job.failure
    if (
        failure is None
        or failure.reason != conditions.DEADLINE_EXCEEDED
        or job.attempt == AT_DEADLINE
    ):
        return False
    return publishes_best(state.observed.body)


def _build(state: ReconcileState, *, job: ObservedJob, begun: ResolvedPlan) -> Actions:
    """Return the Job that publishes, or why the last try to create it failed."""
    why = find_create_block(state)
    if why is not None:
        refused = _report(state, job=job, reason=why.reason, message=why.message)
        return replace(refused, requeue_after_s=why.retry_s)
    # What the attempt with more memory needed, publishing needs as well.
    memory = job.memory_limit if job.attempt == WITH_MORE_MEMORY else None
    objects = build_closing(begun.resource, plan=begun.plan, memory=memory, context=state.context)
    return create_job_of(state, objects=objects)


def _report(state: ReconcileState, *, job: ObservedJob, reason: str, message: str) -> Actions:
    updates, plan = keep_known_plan(state, proposal=None)
    report = build_pending_report(
        state,
        reason=reason,
        message=message,
        updates=updates,
        phase=SUSPENDED if reason == conditions.SUSPENDED_BY_SPEC else PENDING,
        plan=plan,
        active=build_active_time(state.before.active_time, job=job, now=state.now),
        attempts=build_attempts(state.training_pods, job=job, failed=conditions.DEADLINE_EXCEEDED),
    )
    return write(state, report=report)
