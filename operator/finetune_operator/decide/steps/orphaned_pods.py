"""Pods that outlive their Job: whoever deletes a Job by hand takes it away at once, its pod only later.

That pod still saves its checkpoint and still holds its GPU, so the next Job waits for it: a resource never
has two running pods. `gather` finds such a pod by the attempts in status, which know its uid. Pure.
"""

from typing import Final

from finetune_operator.decide.job.run_view import PENDING
from finetune_operator.decide.plan.accept import ResolvedPlan
from finetune_operator.decide.steps.reconcile_state import ReconcileState
from finetune_operator.decide.steps.reporting import ACCEPTED, build_report, write
from finetune_operator.decide.steps.suspend import keep_known_plan
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions
from finetune_operator.decide.values.conditions import ConditionUpdate

LOOK_AGAIN_S: Final = 5.0
"""Nobody tells of a pod whose Job is gone; its grace period is minutes."""


def await_strays(state: ReconcileState, *, proposal: ResolvedPlan) -> Actions | None:
    """Return that a pod without a Job must stop first, or None where there is none."""
    known = {job.uid for job in state.observed.jobs}
    alive = (pod for pod in state.observed.pods if not pod.ended and pod.job_uid not in known)
    names = sorted(pod.name for pod in alive)
    if not names:
        return None
    message = f"Pod {', '.join(names)} outlives its deleted Job and is being stopped; another Job follows."
    updates, plan = keep_known_plan(state, proposal=proposal)
    report = build_report(
        state,
        phase=PENDING,
        message=message,
        updates=(
            ACCEPTED,
            *updates,
            ConditionUpdate(conditions.RUNNING, "False", conditions.POD_STOPPING, message),
            ConditionUpdate(conditions.RECONCILING, "True", conditions.POD_STOPPING, message),
        ),
        plan=plan,
    )
    return write(state, report=report, requeue_after_s=LOOK_AGAIN_S)
