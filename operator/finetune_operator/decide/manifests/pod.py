"""The pod of a Job as a plain dict: environment, volumes, credentials, what it may use and where.

`manifests` puts it into the Job. The pod satisfies Pod Security `restricted` and holds no token but
the one for its progress. One that measures asks for less, and tells nothing of the run's progress.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api import wire
from finetune_api.quantity import parse_quantity
from finetune_api.resource import (
    ComputeResources,
    DeadlinePolicy,
    LanguageFinetune,
    Scheduling,
    SecretRef,
    Toleration,
)
from finetune_operator.decide.manifests.pod_task import PodTask
from finetune_operator.decide.values.operator_config import DecisionContext
from finetune_operator.decide.values.pod_policy import PodPolicy

TOKEN_LIFETIME_S = 3600
"""The kubelet renews it at four fifths; the shortest that the API server grants is 600."""
TOKEN_MOUNT = {"name": "token", "mountPath": wire.TOKEN_DIR, "readOnly": True}
CLAIM_PREFIX = "pvc://"
SHARED_MEMORY = "shared-memory"
"""The volume of what GPUs of one pod share."""


def build_pod(
    resource: LanguageFinetune,
    *,
    task: PodTask,
    attempt: int,
    config_map: str,
    context: DecisionContext,
) -> dict[str, Any]:
    """Return the pod of one attempt; `config_map` holds its plan."""
    claims = sorted(set(_claims(task)))
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_period_s(task, context=context),
        "securityContext": _security_context(context.pods),
        "imagePullSecrets": [{"name": name} for name in context.image_pull_secrets] or None,
        "containers": [
            _trainer(resource, task=task, attempt=attempt, claims=claims, context=context)
        ],
        "volumes": _volumes(resource, task=task, config_map=config_map, claims=claims),
    }
    return present(pod | _scheduling(resource, task=task, context=context))


def _security_context(policy: PodPolicy) -> dict[str, Any]:
    """Return what Pod Security `restricted` asks for; ids that are None are assigned by the cluster."""
    return present(
        {
            "runAsNonRoot": True,
            "runAsUser": policy.run_as_user,
            "runAsGroup": policy.run_as_group,
            "fsGroup": policy.fs_group,
            # A claim may hold millions of files; walking them all would delay every start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    )


def _scheduling(
    resource: LanguageFinetune, *, task: PodTask, context: DecisionContext
) -> dict[str, Any]:
    """Return where the pod may run: one that measures must not make an autoscaler buy a GPU node."""
    scheduling = resource.spec.scheduling or Scheduling()
    trains = task.trains
    selector = scheduling.node_selector if trains else dict(context.measure_node_selector)
    # Measuring may start at once beside a run of another tenant; it must not preempt that run.
    has_priority = trains or context.pods.measure_inherits_priority
    return {
        "serviceAccountName": scheduling.service_account_name,
        "priorityClassName": scheduling.priority_class_name if has_priority else None,
        "runtimeClassName": scheduling.runtime_class_name if trains else None,
        "nodeSelector": selector or None,
        "tolerations": [_toleration(one) for one in scheduling.tolerations or ()] or None,
    }


def _trainer(
    resource: LanguageFinetune,
    *,
    task: PodTask,
    attempt: int,
    claims: list[str],
    context: DecisionContext,
) -> dict[str, Any]:
    image = resource.spec.image or context.trainer_image
    return present(
        {
            "name": wire.TRAINER_CONTAINER,
            "image": image,
            "imagePullPolicy": context.image_pull_policy,
            # Libraries write caches beside where they are started; the root is read-only.
            "workingDir": wire.WORK_DIR,
            "args": list(task.arguments) or None,
            "env": _environment(resource, task=task, attempt=attempt, image=image, context=context),
            "envFrom": list(_credentials(resource, task=task)) or None,
            "resources": _resources(resource, task=task, context=context),
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "terminationMessagePath": wire.TERMINATION_PATH,
            # Not FallbackToLogsOnError: a traceback in a condition helps no user and may leak.
            "terminationMessagePolicy": "File",
            "volumeMounts": [
                {"name": wire.PLAN_VOLUME, "mountPath": wire.PLAN_DIR, "readOnly": True},
                *([TOKEN_MOUNT] if task.trains else []),
                {"name": "work", "mountPath": wire.WORK_DIR},
                {"name": "tmp", "mountPath": wire.TMP_DIR},
                *(
                    [{"name": SHARED_MEMORY, "mountPath": wire.SHARED_MEMORY_DIR}]
                    if _needs_shared_memory(resource, task=task)
                    else []
                ),
                *(
                    {
                        "name": f"claim-{index}",
                        "mountPath": f"{wire.CLAIM_DIR}/{claim}",
                        "readOnly": True,
                    }
                    for index, claim in enumerate(claims)
                ),
            ],
        }
    )


def _environment(
    resource: LanguageFinetune,
    *,
    task: PodTask,
    attempt: int,
    image: str,
    context: DecisionContext,
) -> list[dict[str, Any]]:
    values = {
        "HOME": wire.WORK_DIR,
        **context.trainer_env,
        **(_status_server(resource, run=task.run, context=context) if task.trains else {}),
        wire.ENV_ATTEMPT: str(attempt),
        **_deadline(resource),
        wire.ENV_GRACE_SECONDS: str(grace_period_s(task, context=context)),
        wire.ENV_PLAN_SHA256: sha256(task.plan_json),
        wire.ENV_IMAGE: image,
    }
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        {
            "name": wire.ENV_POD_UID,
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}},
        },
    ]


def _deadline(resource: LanguageFinetune) -> dict[str, str]:
    """Return the deadline of a run that publishes at it; of another the trainer need not know."""
    spec = resource.spec
    if spec.deadline_policy is not DeadlinePolicy.PUBLISH_BEST:
        return {}
    return {wire.ENV_DEADLINE_SECONDS: str(spec.active_deadline_seconds)}


def grace_period_s(task: PodTask, *, context: DecisionContext) -> int:
    """Return the seconds between SIGTERM and SIGKILL: the administrator's, or what is known to be needed."""
    return max(context.termination_grace_s, task.grace_s or 0)


def _status_server(
    resource: LanguageFinetune, *, run: int, context: DecisionContext
) -> dict[str, str]:
    """Return where progress goes; a pod that measures has none to tell of the run."""
    metadata = resource.metadata
    path = wire.progress_path(metadata.namespace, metadata.name, run)
    return {
        wire.ENV_SERVER_URL: context.status_url + path,
        wire.ENV_SERVER_CA: wire.CA_PATH,
        wire.ENV_SERVER_TOKEN: wire.TOKEN_PATH,
    }


def _credentials(resource: LanguageFinetune, *, task: PodTask) -> Iterator[dict[str, Any]]:
    """Yield a source of environment for each use of a Secret.

    The Secret is not optional: the kubelet then names it in the pod's status while it is missing,
    and starts the container by itself when it appears.
    """
    for prefix, name in _secrets(resource, role=task.role):
        yield {"prefix": prefix, "secretRef": {"name": name}}


def secret_environment_prefixes(
    resource: LanguageFinetune, *, role: str
) -> frozenset[tuple[str, str]]:
    """Return prefix and name of each Secret that a Job of a role gets; no plan knows the names."""
    return frozenset(_secrets(resource, role=role))


def _secrets(resource: LanguageFinetune, *, role: str) -> Iterator[tuple[str, str]]:
    for use, reference in secret_uses(resource):
        if role == wire.ROLE_PROBE and use != wire.CREDENTIALS_OUTPUT:
            continue  # it reads neither model nor text
        yield wire.credentials_prefix(use), reference.name


def secret_uses(resource: LanguageFinetune) -> Iterator[tuple[str, SecretRef]]:
    """Yield each place of the resource that names a Secret, by its credentials use."""
    spec = resource.spec
    if spec.model.secret_ref is not None:
        yield wire.CREDENTIALS_MODEL, spec.model.secret_ref
    for index, language in enumerate(spec.languages):
        if language.dataset.secret_ref is not None:
            yield wire.credentials_dataset(index), language.dataset.secret_ref
    if spec.output.secret_ref is not None:
        yield wire.CREDENTIALS_OUTPUT, spec.output.secret_ref
    if spec.output.hub is not None:
        yield wire.CREDENTIALS_HUB, spec.output.hub.secret_ref


def _resources(
    resource: LanguageFinetune, *, task: PodTask, context: DecisionContext
) -> dict[str, Any]:
    if not task.trains:
        # What the resource asks for is for training: measuring needs a fraction of it.
        requests, limits = dict(context.measure_requests), dict(context.measure_limits)
        return _with_required_limits(requests, limits, policy=context.pods)
    requests, limits = _declared(resource, context=context)
    if task.memory is not None:
        # The request as well: a pod that is known to need it must not be packed onto less.
        limits["memory"] = requests["memory"] = task.memory
    if resource.spec.resources.gpus:
        limits[wire.RESOURCE_GPU] = str(resource.spec.resources.gpus)
    return _with_required_limits(requests, limits, policy=context.pods)


def _declared(
    resource: LanguageFinetune, *, context: DecisionContext
) -> tuple[dict[str, str], dict[str, str]]:
    """Return requests and limits of a pod that trains: the resource's, completed by the defaults."""
    wanted = resource.spec.resources
    declared, asked = _compute(wanted.limits), _compute(wanted.requests)
    # Where only a limit is declared, the API server takes it as the request too; a default of ours
    # beside it could exceed it and make the pod invalid.
    defaults = {
        key: value for key, value in context.default_requests.items() if key not in declared
    }
    # The same the other way round: a request above a default limit takes the limit's place.
    limits = {
        key: value for key, value in context.default_limits.items() if key not in asked
    } | declared
    return defaults | asked, limits


def _with_required_limits(
    requests: dict[str, str], limits: dict[str, str], *, policy: PodPolicy
) -> dict[str, Any]:
    """Return the resources of a container, with the limits that the namespace's quota asks for.

    A limit below the request would make the pod invalid, so the greater of both is taken.
    """
    for name, limit in policy.required_limits.items():
        request = requests.get(name, limit)
        limits.setdefault(name, max(limit, request, key=parse_quantity))
    return present({"requests": requests or None, "limits": limits or None})


def memory_limit(resource: LanguageFinetune, *, context: DecisionContext) -> str:
    """Return the memory limit of a pod that trains, or an empty text if it has none."""
    requests, limits = _declared(resource, context=context)
    rendered = _with_required_limits(requests, limits, policy=context.pods)
    limit: str = rendered.get("limits", {}).get("memory", "")
    return limit


def _compute(declared: ComputeResources | None) -> dict[str, str]:
    return declared.model_dump(by_alias=True, exclude_none=True) if declared else {}


def _volumes(
    resource: LanguageFinetune, *, task: PodTask, config_map: str, claims: list[str]
) -> list[dict[str, Any]]:
    token = {
        "audience": wire.token_audience(resource.metadata.uid, task.run),
        "expirationSeconds": TOKEN_LIFETIME_S,
        "path": wire.TOKEN_FILE,
    }
    projected = {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}}
    return [
        {"name": wire.PLAN_VOLUME, "configMap": {"name": config_map}},
        *([projected] if task.trains else []),
        {"name": "work", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        *(
            # A container has 64 MiB otherwise. What is used of it counts as the container's memory.
            [{"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory"}}]
            if _needs_shared_memory(resource, task=task)
            else []
        ),
        *(
            {
                "name": f"claim-{index}",
                "persistentVolumeClaim": {"claimName": claim, "readOnly": True},
            }
            for index, claim in enumerate(claims)
        ),
    ]


def _needs_shared_memory(resource: LanguageFinetune, *, task: PodTask) -> bool:
    return task.trains and resource.spec.resources.gpus > 1


def _claims(task: PodTask) -> Iterator[str]:
    """Yield the PersistentVolumeClaims that the task reads from."""
    for uri in task.reads:
        if uri.startswith(CLAIM_PREFIX):
            yield uri.removeprefix(CLAIM_PREFIX).partition("/")[0]


def _toleration(toleration: Toleration) -> dict[str, Any]:
    return toleration.model_dump(by_alias=True, exclude_none=True)


def present(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that have a value; an absent field of Kubernetes is left out, never null."""
    return {key: value for key, value in mapping.items() if value is not None}


def sha256(text: str) -> str:
    """Return the SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
