"""Which values of a resource may reach its pods: one table over every field of the spec.

`accept` checks it before anything is created. A field that shapes a pod is in `RESTRICTED`, with the
allow-list that the administrator sets for it, or in `UNRESTRICTED`, with the reason why it needs none.
A test compares both with the fields of the CRD, so that a new field cannot be forgotten.

An allow-list is a tuple of patterns in which `*` stands for any text. Names that Kubernetes reserves
for itself are never matched by a wildcard: the administrator has to write their prefix.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from finetune_api.resource import LanguageFinetuneSpec, SecretRef, Toleration
from finetune_operator.decide.values.operator_config import DecisionContext
from finetune_operator.decide.values.pod_policy import ALL_TAINTS

Uses = Iterator[tuple[str, str]]
"""Path in the resource, and the value there."""

CLAIM_SCHEME: Final = "pvc://"
SETTING_PREFIX: Final = "FINETUNE_"
"""Prefix of the operator's environment variables, as in `settings`."""
SHOWN_VALUE: Final = 120
"""Characters of a refused value that a message shows."""
KUBERNETES_TAINTS: Final = (
    "node.kubernetes.io/",
    "node-role.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
)
CONTROL_PLANE_LABELS: Final = (
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
)


@dataclass(frozen=True, kw_only=True)
class RestrictedField:
    """A field of the spec whose values need the administrator's permission."""

    paths: tuple[str, ...]
    """Paths in the CRD; `[]` stands for any index."""
    uses: Callable[[LanguageFinetuneSpec], Uses]
    """Yields every value that a resource asks for."""
    allowed: Callable[[DecisionContext], tuple[str, ...]]
    """Returns the allow-list."""
    setting: str
    """The field of the operator's settings."""
    value: str
    """The chart's value."""
    reserved: tuple[str, ...] = ()
    """Prefixes that no wildcard matches."""
    because: str = ""
    """Why the value is refused, where a list of what is allowed would not say it."""
    instead: str = "Leave it out"


def find_refused(spec: LanguageFinetuneSpec, *, context: DecisionContext) -> str | None:
    """Return one sentence about the first value that is not allowed, or None."""
    for field in RESTRICTED:
        allowed = field.allowed(context)
        for path, value in field.uses(spec):
            if not is_allowed(value, patterns=allowed, reserved=field.reserved):
                return _message(field, path=path, value=value, allowed=allowed)
    return None


def is_allowed(value: str, *, patterns: tuple[str, ...], reserved: tuple[str, ...] = ()) -> bool:
    """Return whether a pattern matches `value`, or its part before `=`.

    A value that begins with a reserved prefix is matched only by patterns that begin with it too.
    """
    prefix = next((one for one in reserved if value.startswith(one)), "")
    forms = (value, value.partition("=")[0])
    return any(
        pattern.startswith(prefix) and any(fnmatchcase(form, pattern) for form in forms)
        for pattern in patterns
    )


def _message(field: RestrictedField, *, path: str, value: str, allowed: tuple[str, ...]) -> str:
    shown = value if len(value) <= SHOWN_VALUE else f"{value[:SHOWN_VALUE]}…"
    if value == ALL_TAINTS:
        shown = f"{value} (it has no key)"
    names = f"{SETTING_PREFIX}{field.setting.upper()} (chart value {field.value})"
    if field.because:
        return (
            f"{path} is {shown}, and {field.because}. {field.instead}, or ask the administrator to "
            f"set {names}."
        )
    listed = ", ".join(allowed) or "none"
    but = ""
    if any(value.startswith(prefix) for prefix in field.reserved) and allowed:
        but = f" (a * never includes {', '.join(map(_as_pattern, field.reserved))})"
    return (
        f"{path} is {shown}; allowed are: {listed}{but}. {field.instead}, or ask the administrator "
        f"to add it to {names}."
    )


def _as_pattern(prefix: str) -> str:
    return f"{prefix}*" if prefix.endswith(("-", "/")) else prefix


# --- The values of each field ------------------------------------------------------------------------


def _remote_code(spec: LanguageFinetuneSpec) -> Uses:
    if spec.model.trust_remote_code:
        yield "spec.model.trustRemoteCode", "true"


def _image(spec: LanguageFinetuneSpec) -> Uses:
    if spec.image is not None:
        yield "spec.image", spec.image


def _service_account(spec: LanguageFinetuneSpec) -> Uses:
    if spec.scheduling is not None and spec.scheduling.service_account_name is not None:
        yield "spec.scheduling.serviceAccountName", spec.scheduling.service_account_name


def _priority_class(spec: LanguageFinetuneSpec) -> Uses:
    if spec.scheduling is not None and spec.scheduling.priority_class_name is not None:
        yield "spec.scheduling.priorityClassName", spec.scheduling.priority_class_name


def _runtime_class(spec: LanguageFinetuneSpec) -> Uses:
    if spec.scheduling is not None and spec.scheduling.runtime_class_name is not None:
        yield "spec.scheduling.runtimeClassName", spec.scheduling.runtime_class_name


def _queue(spec: LanguageFinetuneSpec) -> Uses:
    if spec.scheduling is not None and spec.scheduling.queue_name is not None:
        yield "spec.scheduling.queueName", spec.scheduling.queue_name


def _node_selector(spec: LanguageFinetuneSpec) -> Uses:
    selector = spec.scheduling.node_selector if spec.scheduling is not None else None
    for key, value in (selector or {}).items():
        yield f"spec.scheduling.nodeSelector[{key}]", f"{key}={value}"


def _tolerations(spec: LanguageFinetuneSpec) -> Uses:
    tolerations = spec.scheduling.tolerations if spec.scheduling is not None else None
    for index, toleration in enumerate(tolerations or ()):
        yield f"spec.scheduling.tolerations[{index}]", _taint(toleration)


def _taint(toleration: Toleration) -> str:
    if not toleration.key:
        return ALL_TAINTS
    # With Exists every value of the key is tolerated: an entry for one value does not allow that.
    if toleration.operator == "Exists":
        return toleration.key
    return f"{toleration.key}={toleration.value or ''}"


def _secrets(spec: LanguageFinetuneSpec) -> Uses:
    hub = spec.output.hub
    references: list[tuple[str, SecretRef | None]] = [
        ("spec.model.secretRef.name", spec.model.secret_ref),
        *(
            (f"spec.languages[{index}].dataset.secretRef.name", language.dataset.secret_ref)
            for index, language in enumerate(spec.languages)
        ),
        ("spec.output.secretRef.name", spec.output.secret_ref),
        ("spec.output.hub.secretRef.name", hub.secret_ref if hub is not None else None),
    ]
    for path, reference in references:
        if reference is not None:
            yield path, reference.name


def _claims(spec: LanguageFinetuneSpec) -> Uses:
    addresses: list[tuple[str, str | None]] = [("spec.model.uri", spec.model.uri)]
    for index, language in enumerate(spec.languages):
        dataset, path = language.dataset, f"spec.languages[{index}].dataset"
        addresses.append((f"{path}.uri", dataset.uri))
        if dataset.validation is not None:
            addresses.append((f"{path}.validation.uri", dataset.validation.uri))
    addresses.append(("spec.output.uri", spec.output.uri))
    for path, uri in addresses:
        if uri is not None and uri.startswith(CLAIM_SCHEME):
            yield path, uri.removeprefix(CLAIM_SCHEME).partition("/")[0]


# --- The table ---------------------------------------------------------------------------------------

RESTRICTED: Final = (
    RestrictedField(  # the model's own code would run with the pod's credentials
        paths=("spec.model.trustRemoteCode",),
        uses=_remote_code,
        allowed=lambda context: ("true",) if context.allow_trust_remote_code else (),
        setting="allow_trust_remote_code",
        value="trainer.allowTrustRemoteCode",
        because="this operator runs no code that models ship",
        instead="Leave it out, use a model that transformers knows",
    ),
    RestrictedField(  # any image would
        paths=("spec.image",),
        uses=_image,
        allowed=lambda context: (
            ("*",) if context.allow_image_override else context.pods.allowed_images
        ),
        setting="allowed_images",
        value="trainer.allowedImages",
    ),
    RestrictedField(  # rights that the pod would have on the cluster or the cloud
        paths=("spec.scheduling.serviceAccountName",),
        uses=_service_account,
        allowed=lambda context: tuple(sorted(context.allowed_service_accounts)),
        setting="allowed_service_accounts",
        value="trainer.allowedServiceAccounts",
    ),
    RestrictedField(  # a higher class preempts pods of other tenants and of the cluster
        paths=("spec.scheduling.priorityClassName",),
        uses=_priority_class,
        allowed=lambda context: context.pods.allowed_priority_classes,
        setting="allowed_priority_classes",
        value="trainer.allowedPriorityClasses",
        reserved=("system-",),
    ),
    RestrictedField(  # taints keep nodes for other tenants and for the control plane
        paths=tuple(
            f"spec.scheduling.tolerations[].{name}"
            for name in ("key", "operator", "value", "effect", "tolerationSeconds")
        ),
        uses=_tolerations,
        allowed=lambda context: context.pods.allowed_tolerations,
        setting="allowed_tolerations",
        value="trainer.allowedTolerations",
        reserved=(ALL_TAINTS, *KUBERNETES_TAINTS),
    ),
    RestrictedField(  # where taints are missing, a selector reaches the control plane
        paths=("spec.scheduling.nodeSelector",),
        uses=_node_selector,
        allowed=lambda context: context.pods.allowed_node_selectors,
        setting="allowed_node_selectors",
        value="trainer.allowedNodeSelectors",
        reserved=CONTROL_PLANE_LABELS,
    ),
    RestrictedField(  # a class may isolate less than the cluster's default runtime
        paths=("spec.scheduling.runtimeClassName",),
        uses=_runtime_class,
        allowed=lambda context: context.pods.allowed_runtime_classes,
        setting="allowed_runtime_classes",
        value="trainer.allowedRuntimeClasses",
    ),
    RestrictedField(  # a queue decides whose quota the run uses
        paths=("spec.scheduling.queueName",),
        uses=_queue,
        allowed=lambda context: context.pods.allowed_queues,
        setting="allowed_queues",
        value="trainer.allowedQueues",
    ),
    RestrictedField(  # a user who cannot read a Secret can run a pod with it: see SECURITY.md
        paths=(
            "spec.model.secretRef.name",
            "spec.languages[].dataset.secretRef.name",
            "spec.output.secretRef.name",
            "spec.output.hub.secretRef.name",
        ),
        uses=_secrets,
        allowed=lambda context: context.pods.allowed_secrets,
        setting="allowed_secrets",
        value="trainer.allowedSecrets",
        instead="Name another Secret",
    ),
    RestrictedField(  # claims of the namespace are mounted
        paths=(
            "spec.model.uri",
            "spec.languages[].dataset.uri",
            "spec.languages[].dataset.validation.uri",
            "spec.output.uri",
        ),
        uses=_claims,
        allowed=lambda context: context.pods.allowed_claims,
        setting="allowed_claims",
        value="trainer.allowedClaims",
        instead="Name another claim",
    ),
)
"""Fields whose values reach the pod, in the order in which they are checked."""

UNRESTRICTED: Final[Mapping[str, str]] = {
    "spec.model": "read by the trainer from the plan",
    "spec.languages[]": "read by the trainer from the plan",
    "spec.multilingual": "read by the trainer from the plan",
    "spec.stage": "read by the trainer from the plan",
    "spec.method": "read by the trainer from the plan",
    "spec.policy": "read by the resolver",
    "spec.parameters": "read by the trainer from the plan, within the bounds of the CRD",
    "spec.resources": "bounded by ResourceQuota and LimitRange of the namespace",
    "spec.output": "read by the trainer from the plan",
    "spec.checkpoints": "read by the trainer from the plan",
    "spec.mode": "read by the operator",
    "spec.suspend": "read by the operator",
    "spec.updatePolicy": "read by the operator",
    "spec.activeDeadlineSeconds": "only shortens a Job",
    "spec.deadlinePolicy": "read by the operator and the trainer",
    "spec.backoffLimit": "at most 20 pods, one after another",
    "spec.ttlSecondsAfterFinished": "only how long a finished Job stays",
}
"""Fields, with all that is below them, that need no permission, and why."""
