"""Step: pods that outlive their Job must stop before the next Job is created. Pure.

Someone who deletes a Job by hand removes it at once and its pod only later. That pod still saves its
checkpoint and holds its GPU, and a resource never has two running pods. `gather` finds such a pod by the
attempts in status, which hold its uid.
"""

from typing import Final

from finetune_operator.decide.state.reconcile_state import ReconcileState
from finetune_operator.decide.state.reporting import build_pending_report, keep_known_plan, write
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.actions import Actions

LOOK_AGAIN_S: Final = 5.0
"""Seconds: no watch reports a pod whose Job is gone, and its grace period is minutes."""


def await_orphaned_pods(state: ReconcileState) -> Actions | None:
    """Wait until a pod has stopped whose Job is gone."""
    known = {job.uid for job in state.observed.jobs}
    alive = (pod for pod in state.observed.pods if not pod.ended and pod.job_uid not in known)
    names = sorted(pod.name for pod in alive)
    if not names:
        return None
    message = f"Pod {', '.join(names)} outlives its deleted Job and is being stopped; another Job follows."
    updates, plan = keep_known_plan(state, proposal=state.require_plan())
    report = build_pending_report(
        state, reason=conditions.POD_STOPPING, message=message, updates=updates, plan=plan
    )
    return write(state, report=report, requeue_after_s=LOOK_AGAIN_S)
