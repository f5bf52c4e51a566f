"""The objects of a run as plain dicts that read like the YAML they become: plan ConfigMap and Job.

After `planning`, before the shell that creates them; `pods` builds what runs in the Job. One Job is one
attempt; what may be tried again within it is the Job controller's business, as decided by
`podFailurePolicy`. Nothing here decides whether to create.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api import wire
from finetune_api.plan import TrainingPlan
from finetune_api.resource import LanguageFinetune, LanguageFinetuneSpec
from finetune_operator.decide.job.checkpoint_status import NEVER
from finetune_operator.decide.job.job_limits import retries_left
from finetune_operator.decide.job.retry_policy import (
    AT_DEADLINE,
    CLOSING_DEADLINE_S,
    CLOSING_TRIES,
    WITH_MORE_MEMORY,
    raise_memory,
)
from finetune_operator.decide.manifests.pod import build_pod, memory_limit, present, sha256
from finetune_operator.decide.manifests.pod_task import PodTask
from finetune_operator.decide.values.actions import Manifest
from finetune_operator.decide.values.names import job_name, label_value, plan_name
from finetune_operator.decide.values.observation import ObservedJob
from finetune_operator.decide.values.operator_config import DecisionContext
from finetune_operator.decide.values.pod_policy import PodPolicy

MEASURE_TTL_S = 3600
"""What a Job measured is in status seconds after its end; an hour is for reading its log."""
PROBE_TRIES = 2
PROBE_DEADLINE_S = 300
"""A probe must not hold up a run: by then an image of 6 GB is pulled, or the probe is passed over."""


@dataclass(frozen=True)
class RunObjects:
    """What one attempt consists of, in the order of creation."""

    config_map: Manifest
    job: Manifest
    observed: ObservedJob
    """The Job as the watch will show it, so that its status need not be written twice."""


def build_run(
    resource: LanguageFinetune,
    *,
    plan: TrainingPlan,
    attempt: int,
    context: DecisionContext,
    grace_s: int | None = None,
) -> RunObjects:
    """Return the ConfigMap and the Job of one attempt to train.

    `grace_s` is the grace period in seconds that earlier pods of the run measured to be needed.
    """
    memory = None
    if attempt == WITH_MORE_MEMORY:
        memory = raise_memory(memory_limit(resource, context=context), most=context.memory_ceiling)
    return build_objects(
        resource,
        task=PodTask.to_train(plan, memory=memory, grace_s=grace_s),
        attempt=attempt,
        context=context,
    )


def build_closing(
    resource: LanguageFinetune, *, plan: TrainingPlan, memory: str | None, context: DecisionContext
) -> RunObjects:
    """Return the ConfigMap and the Job that publish what a run had at its deadline."""
    return build_objects(
        resource,
        task=PodTask.to_publish(plan, memory=memory),
        attempt=AT_DEADLINE,
        context=context,
    )


def build_objects(
    resource: LanguageFinetune, *, task: PodTask, attempt: int, context: DecisionContext
) -> RunObjects:
    """Return the ConfigMap and the Job of one attempt at an task."""
    config_map = build_config_map(resource, task=task, context=context)
    job = build_job(
        resource,
        task=task,
        attempt=attempt,
        config_map=str(config_map["metadata"]["name"]),
        context=context,
    )
    return RunObjects(config_map=config_map, job=job, observed=ObservedJob.from_object(job))


def build_config_map(
    resource: LanguageFinetune, *, task: PodTask, context: DecisionContext
) -> Manifest:
    """Return the immutable ConfigMap with the plan and the certificates of the status server."""
    data = {task.plan_file: task.plan_json}
    if task.trains:
        data[wire.CA_FILE] = context.ca_pem
    content = sha256("\0".join(data.values()))
    name = plan_name(name=resource.metadata.name, run=task.run, content_sha256=content)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(resource, name=name, task=task, labels={}, annotations={}),
        "immutable": True,
        "data": data,
    }


def build_job(
    resource: LanguageFinetune,
    *,
    task: PodTask,
    attempt: int,
    config_map: str,
    context: DecisionContext,
) -> Manifest:
    """Return the Job of one attempt; `config_map` holds its plan."""
    spec, run, role = resource.spec, task.run, task.role
    name = job_name(name=resource.metadata.name, run=run, role=role, attempt=attempt)
    labels = {wire.LABEL_ROLE: role, wire.LABEL_ATTEMPT: str(attempt)}
    queued = spec.scheduling if task.trains else None
    queue = {wire.LABEL_QUEUE: queued.queue_name} if queued else {}
    safe = {wire.ANNOTATION_SAFE_TO_PREEMPT: NEVER} if task.trains else {}
    template_labels = dict(context.pods.labels) | _labels(resource, run=run) | labels
    template_annotations = {
        **context.pods.annotations,
        wire.ANNOTATION_FINETUNE: resource.metadata.name,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(
            resource,
            name=name,
            task=task,
            labels=labels | present(queue),
            annotations=safe,
        ),
        "spec": present(
            {
                **_job_limits(spec, role=role, attempt=attempt, policy=context.pods),
                # Never two pods of one run at once: both would publish, and the GPU may be one.
                "podReplacementPolicy": "Failed",
                "podFailurePolicy": {"rules": _pod_failure_rules()},
                "template": {
                    "metadata": {
                        "labels": template_labels,
                        "annotations": template_annotations,
                    },
                    "spec": build_pod(
                        resource,
                        task=task,
                        attempt=attempt,
                        config_map=config_map,
                        context=context,
                    ),
                },
            }
        ),
    }


def _job_limits(
    spec: LanguageFinetuneSpec, *, role: str, attempt: int, policy: PodPolicy
) -> dict[str, int | None]:
    """Return how often a Job is tried, how long, and how long it stays."""
    if role == wire.ROLE_PROBE:
        return {
            "backoffLimit": PROBE_TRIES - 1,
            "activeDeadlineSeconds": PROBE_DEADLINE_S,
            "ttlSecondsAfterFinished": MEASURE_TTL_S,
        }
    trains = role == wire.ROLE_TRAIN
    if trains and attempt == AT_DEADLINE:
        return {
            "backoffLimit": CLOSING_TRIES - 1,
            "activeDeadlineSeconds": CLOSING_DEADLINE_S,
            "ttlSecondsAfterFinished": spec.ttl_seconds_after_finished,
        }
    deadline_s = spec.active_deadline_seconds
    if not trains:
        deadline_s = min(deadline_s or policy.measure_deadline_s, policy.measure_deadline_s)
    return {
        "backoffLimit": retries_left(spec.backoff_limit, attempt=attempt if trains else 1),
        "activeDeadlineSeconds": deadline_s,
        "ttlSecondsAfterFinished": spec.ttl_seconds_after_finished if trains else MEASURE_TTL_S,
    }


def _pod_failure_rules() -> list[dict[str, Any]]:
    # The first rule that matches counts: a pod that was drained after it had found its data invalid
    # would meet the same end again, so the exit code comes first.
    return [
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": wire.TRAINER_CONTAINER,
                "operator": "In",
                "values": list(wire.USELESS_TO_RETRY),
            },
        },
        {
            # Stopped after a save: whatever stopped it, the next pod goes on from there.
            "action": "Ignore",
            "onExitCodes": {
                "containerName": wire.TRAINER_CONTAINER,
                "operator": "In",
                "values": [int(wire.ExitCode.INTERRUPTED)],
            },
        },
        {
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
    ]


def _metadata(
    resource: LanguageFinetune,
    *,
    name: str,
    task: PodTask,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": resource.metadata.namespace,
        "labels": _labels(resource, run=task.run) | dict(labels),
        "annotations": {
            wire.ANNOTATION_FINETUNE: resource.metadata.name,
            wire.ANNOTATION_PLAN_HASH: task.plan_hash,
            **annotations,
        },
        "ownerReferences": [
            {
                "apiVersion": wire.API_VERSION,
                "kind": wire.KIND,
                "name": resource.metadata.name,
                "uid": resource.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def _labels(resource: LanguageFinetune, *, run: int) -> dict[str, str]:
    name = label_value(resource.metadata.name)
    return {
        wire.LABEL_NAME: wire.APP_NAME,
        wire.LABEL_INSTANCE: name,
        wire.LABEL_COMPONENT: "trainer",
        wire.LABEL_MANAGED_BY: wire.APP_NAME,
        wire.LABEL_FINETUNE: name,
        wire.LABEL_RUN: str(run),
    }
