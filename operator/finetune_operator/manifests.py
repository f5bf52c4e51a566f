"""The objects of a run as plain dicts that read like the YAML they become: plan ConfigMap and Job.

After `planning`, before the shell that creates them. One Job is one attempt; what may be tried again
within it is the Job controller's business, told by `podFailurePolicy`. The pod satisfies Pod Security
`restricted` and holds no token but the one for its progress. Nothing here decides whether to create.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api import wire
from finetune_api.plan import TrainingPlan
from finetune_api.resource import ComputeResources, LanguageFinetune, SecretRef, Toleration
from finetune_operator.actions import Manifest
from finetune_operator.context import DecisionContext
from finetune_operator.names import job_name, label_value, plan_name

USER_ID = 65532
"""`nonroot` of the common minimal images; any number but 0 would do."""
TOKEN_LIFETIME_S = 3600
"""The kubelet renews it at four fifths; the shortest that the API server grants is 600."""
CLAIM_PREFIX = "pvc://"


@dataclass(frozen=True)
class RunObjects:
    """What one attempt consists of, in the order of creation."""

    config_map: Manifest
    job: Manifest


def build_run(
    resource: LanguageFinetune, *, plan: TrainingPlan, attempt: int, context: DecisionContext
) -> RunObjects:
    """Return the ConfigMap and the Job of one attempt."""
    config_map = build_config_map(resource, plan=plan, context=context)
    job = build_job(
        resource,
        plan=plan,
        attempt=attempt,
        config_map=str(config_map["metadata"]["name"]),
        context=context,
    )
    return RunObjects(config_map=config_map, job=job)


def build_config_map(
    resource: LanguageFinetune, *, plan: TrainingPlan, context: DecisionContext
) -> Manifest:
    """Return the immutable ConfigMap with the plan and the certificates of the status server."""
    data = {wire.PLAN_FILE: plan.to_json(), wire.CA_FILE: context.ca_pem}
    content = _sha256("\0".join(data.values()))
    name = plan_name(name=resource.metadata.name, run=plan.identity.run, content_sha256=content)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(resource, name=name, plan=plan, labels={}),
        "immutable": True,
        "data": data,
    }


def build_job(
    resource: LanguageFinetune,
    *,
    plan: TrainingPlan,
    attempt: int,
    config_map: str,
    context: DecisionContext,
) -> Manifest:
    """Return the Job of one attempt; `config_map` holds its plan."""
    spec, run = resource.spec, plan.identity.run
    name = job_name(name=resource.metadata.name, run=run, role=wire.ROLE_TRAIN, attempt=attempt)
    labels = {wire.LABEL_ROLE: wire.ROLE_TRAIN, wire.LABEL_ATTEMPT: str(attempt)}
    queue = {wire.LABEL_QUEUE: spec.scheduling.queue_name} if spec.scheduling else {}
    template_labels = _labels(resource, run=run) | labels
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(resource, name=name, plan=plan, labels=labels | _present(queue)),
        "spec": _present(
            {
                "backoffLimit": spec.backoff_limit,
                "activeDeadlineSeconds": spec.active_deadline_seconds,
                "ttlSecondsAfterFinished": spec.ttl_seconds_after_finished,
                # Never two pods of one run at once: both would publish, and the GPU may be one.
                "podReplacementPolicy": "Failed",
                "podFailurePolicy": {"rules": _pod_failure_rules()},
                "template": {
                    "metadata": {
                        "labels": template_labels,
                        "annotations": {wire.ANNOTATION_FINETUNE: resource.metadata.name},
                    },
                    "spec": _pod(
                        resource,
                        plan=plan,
                        attempt=attempt,
                        config_map=config_map,
                        context=context,
                    ),
                },
            }
        ),
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
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
    ]


def _pod(
    resource: LanguageFinetune,
    *,
    plan: TrainingPlan,
    attempt: int,
    config_map: str,
    context: DecisionContext,
) -> dict[str, Any]:
    scheduling = resource.spec.scheduling
    claims = sorted(set(_claims(plan)))
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": context.termination_grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # A claim may hold millions of files; walking them all would delay every start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "imagePullSecrets": [{"name": name} for name in context.image_pull_secrets] or None,
        "containers": [
            _trainer(resource, plan=plan, attempt=attempt, claims=claims, context=context)
        ],
        "volumes": _volumes(resource, plan=plan, config_map=config_map, claims=claims),
    }
    if scheduling is not None:
        pod |= {
            "serviceAccountName": scheduling.service_account_name,
            "priorityClassName": scheduling.priority_class_name,
            "runtimeClassName": scheduling.runtime_class_name,
            "nodeSelector": scheduling.node_selector,
            "tolerations": [_toleration(one) for one in scheduling.tolerations or ()] or None,
        }
    return _present(pod)


def _trainer(
    resource: LanguageFinetune,
    *,
    plan: TrainingPlan,
    attempt: int,
    claims: list[str],
    context: DecisionContext,
) -> dict[str, Any]:
    image = resource.spec.image or context.trainer_image
    return _present(
        {
            "name": wire.TRAINER_CONTAINER,
            "image": image,
            "imagePullPolicy": context.image_pull_policy,
            # Libraries write caches beside where they are started; the root is read-only.
            "workingDir": wire.WORK_DIR,
            "env": _environment(plan=plan, attempt=attempt, image=image, context=context),
            "envFrom": list(_credentials(resource)) or None,
            "resources": _resources(resource, context=context),
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "terminationMessagePath": wire.TERMINATION_PATH,
            # Not FallbackToLogsOnError: a traceback in a condition helps nobody and may leak.
            "terminationMessagePolicy": "File",
            "volumeMounts": [
                {"name": wire.PLAN_VOLUME, "mountPath": wire.PLAN_DIR, "readOnly": True},
                {"name": "token", "mountPath": wire.TOKEN_DIR, "readOnly": True},
                {"name": "work", "mountPath": wire.WORK_DIR},
                {"name": "tmp", "mountPath": wire.TMP_DIR},
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
    *, plan: TrainingPlan, attempt: int, image: str, context: DecisionContext
) -> list[dict[str, Any]]:
    identity = plan.identity
    path = wire.progress_path(identity.namespace, identity.name, identity.run)
    values = {
        "HOME": wire.WORK_DIR,
        **context.trainer_env,
        wire.ENV_SERVER_URL: context.status_url + path,
        wire.ENV_SERVER_CA: wire.CA_PATH,
        wire.ENV_SERVER_TOKEN: wire.TOKEN_PATH,
        wire.ENV_ATTEMPT: str(attempt),
        wire.ENV_PLAN_SHA256: _sha256(plan.to_json()),
        wire.ENV_IMAGE: image,
    }
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        {
            "name": wire.ENV_POD_UID,
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}},
        },
    ]


def _credentials(resource: LanguageFinetune) -> Iterator[dict[str, Any]]:
    """Yield a source of environment for each use of a Secret.

    The Secret is not optional: the kubelet then names it in the pod's status while it is missing,
    and starts the container by itself when it appears.
    """
    for use, reference in secret_uses(resource):
        yield {
            "prefix": wire.credentials_prefix(use),
            "secretRef": {"name": reference.name},
        }


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


def _resources(resource: LanguageFinetune, *, context: DecisionContext) -> dict[str, Any]:
    wanted = resource.spec.resources
    limits = dict(context.default_limits) | _compute(wanted.limits)
    # Where only a limit is declared, the API server takes it as the request too; a default of ours
    # beside it could exceed it and make the pod invalid.
    declared = _compute(wanted.limits)
    defaults = {
        key: value for key, value in context.default_requests.items() if key not in declared
    }
    requests = defaults | _compute(wanted.requests)
    # The same the other way round: a request above a default limit takes the limit's place.
    for key in _compute(wanted.requests).keys() - declared.keys():
        limits.pop(key, None)
    if wanted.gpus:
        limits[wire.RESOURCE_GPU] = str(wanted.gpus)
    return _present({"requests": requests or None, "limits": limits or None})


def _compute(declared: ComputeResources | None) -> dict[str, str]:
    return declared.model_dump(by_alias=True, exclude_none=True) if declared else {}


def _volumes(
    resource: LanguageFinetune, *, plan: TrainingPlan, config_map: str, claims: list[str]
) -> list[dict[str, Any]]:
    token = {
        "audience": wire.token_audience(resource.metadata.uid, plan.identity.run),
        "expirationSeconds": TOKEN_LIFETIME_S,
        "path": wire.TOKEN_FILE,
    }
    return [
        {"name": wire.PLAN_VOLUME, "configMap": {"name": config_map}},
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "work", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        *(
            {
                "name": f"claim-{index}",
                "persistentVolumeClaim": {"claimName": claim, "readOnly": True},
            }
            for index, claim in enumerate(claims)
        ),
    ]


def _claims(plan: TrainingPlan) -> Iterator[str]:
    """Yield the PersistentVolumeClaims that the plan reads from."""
    uris = [plan.model.uri]
    for dataset in plan.datasets:
        uris += [dataset.uri, dataset.validation.uri or ""]
    for uri in uris:
        if uri.startswith(CLAIM_PREFIX):
            yield uri.removeprefix(CLAIM_PREFIX).partition("/")[0]


def _toleration(toleration: Toleration) -> dict[str, Any]:
    return toleration.model_dump(by_alias=True, exclude_none=True)


def _metadata(
    resource: LanguageFinetune, *, name: str, plan: TrainingPlan, labels: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": resource.metadata.namespace,
        "labels": _labels(resource, run=plan.identity.run) | dict(labels),
        "annotations": {
            wire.ANNOTATION_FINETUNE: resource.metadata.name,
            wire.ANNOTATION_PLAN_HASH: plan.hash,
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


def _present(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that have a value; an absent field of Kubernetes is left out, never null."""
    return {key: value for key, value in mapping.items() if value is not None}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
