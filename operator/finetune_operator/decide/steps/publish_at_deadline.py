"""`deadlinePolicy: PublishBest`: a run that reached its deadline ends with the best that it saved.

The Job controller ends the Job at the deadline, and its pod leaves a checkpoint as for any other stop.
One more Job, attempt 3, then takes the newest checkpoint and publishes the adapter that the run would
publish if it had ended there; it does no step. So a pod that hangs at its deadline, or was lost with its
node, costs no more than a checkpoint's interval. Without a checkpoint the run fails as ever. Pure.
"""

from collections.abc import Mapping
from dataclasses import replace

from finetune_api.resource import DeadlinePolicy
from finetune_operator.decide.job.active_deadline import build_active_time
from finetune_operator.decide.job.checkpoint_status import find_checkpoint
from finetune_operator.decide.job.job_limits import deadline_of
from finetune_operator.decide.job.retry_policy import AT_DEADLINE, WITH_MORE_MEMORY
from finetune_operator.decide.job.run_view import PENDING, SUSPENDED
from finetune_operator.decide.manifests.job import RunObjects, build_closing
from finetune_operator.decide.plan.accept import ResolvedPlan, SpecRefusal
from finetune_operator.decide.status.build_status import build_attempts
from finetune_operator.decide.steps.pinned_plan import read_begun
from finetune_operator.decide.steps.reconcile_state import Situation
from finetune_operator.decide.steps.reporting import ACCEPTED, build_report, why_not_created, write
from finetune_operator.decide.steps.suspend import is_held, keep_known
from finetune_operator.decide.values import conditions as words
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.conditions import Claim
from finetune_operator.decide.values.observation import ObservedJob
from finetune_operator.raw_object import RawObject


def publishes_best(body: RawObject) -> bool:
    """Return whether the resource wants the best published at its deadline, however broken the rest is."""
    spec = body.get("spec")
    asked = isinstance(spec, Mapping) and spec.get("deadlinePolicy") == DeadlinePolicy.PUBLISH_BEST
    return asked and deadline_of(body) is not None


def decide_closing(situation: Situation) -> Actions | RunObjects | None:
    """Return what a run that reached its deadline waits for, or the Job that publishes what it had.

    None where it just fails, and of every other run.
    """
    job = situation.job
    if job is None or not _is_over_deadline(situation, job=job):
        return None
    admitted = situation.admitted  # no earlier: no other run that is followed needs it
    if isinstance(admitted, SpecRefusal):
        return None
    stopping = sorted(pod.name for pod in situation.training_pods if not pod.ended)
    if stopping:
        why = (
            f"Pod {', '.join(stopping)} is told to stop, because the run's deadline is reached; then the "
            "best adapter is published."
        )
        return _report(situation, job=job, reason=words.POD_STOPPING, message=why)
    # Asked once the pod has ended: its last word names the checkpoint that it saved while it stopped.
    saved = find_checkpoint(situation.before, pods=situation.training_pods, run=situation.run)
    if saved is None:
        return None
    if is_held(situation.observed.body):
        held = (
            f"The run reached its deadline and is suspended; set spec.suspend to false, and what it saved "
            f"at step {saved.step:,} is published."
        )
        return _report(situation, job=job, reason=words.SUSPENDED_BY_SPEC, message=held)
    if situation.observed.begun_plan is None:
        told = f"The run reached its deadline; what it saved at step {saved.step:,} is published."
        waiting = _report(situation, job=job, reason=words.PUBLISHING_BEST, message=told)
        return replace(waiting, needs_begun_plan=job.plan_config_map)
    begun = read_begun(situation, resource=admitted.resource, plan_hash=job.plan_hash)
    return None if begun is None else _build(situation, job=job, begun=begun)


def _is_over_deadline(situation: Situation, *, job: ObservedJob) -> bool:
    failure = job.failure
    if failure is None or failure.reason != words.DEADLINE_EXCEEDED or job.attempt == AT_DEADLINE:
        return False
    return publishes_best(situation.observed.body)


def _build(situation: Situation, *, job: ObservedJob, begun: ResolvedPlan) -> Actions | RunObjects:
    """Return the Job that publishes, or why the last try to create it failed."""
    why = why_not_created(situation)
    if why is not None:
        refused = _report(situation, job=job, reason=why.reason, message=why.message)
        return replace(refused, requeue_after_s=why.retry_s)
    # What the attempt with more memory needed, publishing needs as well.
    memory = job.memory_limit if job.attempt == WITH_MORE_MEMORY else None
    return build_closing(begun.resource, plan=begun.plan, memory=memory, context=situation.context)


def _report(situation: Situation, *, job: ObservedJob, reason: str, message: str) -> Actions:
    claims, plan = keep_known(situation, proposal=None)
    is_suspended = reason == words.SUSPENDED_BY_SPEC
    state = words.SUSPENDED if is_suspended else words.RECONCILING
    report = build_report(
        situation,
        phase=SUSPENDED if is_suspended else PENDING,
        message=message,
        claims=(
            ACCEPTED,
            *claims,
            Claim(words.RUNNING, "False", reason, message),
            Claim(state, "True", reason, message),
        ),
        plan=plan,
        active=build_active_time(situation.before.active_time, job=job, now=situation.now),
        attempts=build_attempts(situation.training_pods, job=job, failed=words.DEADLINE_EXCEEDED),
    )
    return write(situation, report=report)
