"""What the administrator sets, by environment variables that begin with FINETUNE_.

The chart writes them, `__main__` reads them once. Wrong ones end the process with one sentence and
exit code 2, before anything is asked of the cluster. Nothing here is read again later.
"""

import json
import os
import socket
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from finetune_api import wire
from finetune_api.quantity import parse_quantity
from finetune_operator.decide.values.pod_policy import (
    ANY,
    DEFAULT_USER,
    GPU_RUNTIME_CLASSES,
    GPU_TAINTS,
)
from finetune_operator.errors import SettingsError

PREFIX = "FINETUNE_"

CommaList = Annotated[tuple[str, ...], NoDecode]
JsonMap = Annotated[dict[str, str], NoDecode]
LIMITED = ("cpu", "memory", "ephemeral-storage")
PATTERN = r"^[A-Za-z0-9*]([A-Za-z0-9._/:@=*-]*[A-Za-z0-9*=])?$"
"""A name of Kubernetes, an image, or `key=value`, in which `*` stands for any text."""
Patterns = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=PATTERN, max_length=512)], ...], NoDecode
]
OptionalId = Annotated[
    Annotated[int, Field(ge=1, le=2**31 - 1)] | None,
    BeforeValidator(lambda value: None if value == "" else value),
]
"""A user or group id; root would not satisfy Pod Security `restricted`."""
OWN_PREFIXES = (f"{wire.GROUP}/", "app.kubernetes.io/")
"""Labels and annotations that the operator finds its pods by."""


def default_identity() -> str:
    """Return a name that no other process has, where the Downward API gives none."""
    return f"{socket.gethostname()}-{os.getpid()}"


class Settings(BaseSettings):
    """The operator's settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    trainer_image: str = Field(min_length=1)
    """Image of the training pods."""
    trainer_image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the node pulls it."""
    trainer_image_pull_secrets: CommaList = ()
    """Names of pull Secrets in the resource's namespace, separated by commas."""
    trainer_env: JsonMap = Field(default_factory=dict)
    """Environment of every trainer, as a JSON object; such as a proxy or HF_ENDPOINT."""
    default_requests: JsonMap = Field(default_factory=dict)
    """Requests of the trainer where the resource names none, as a JSON object."""
    default_limits: JsonMap = Field(default_factory=dict)
    """Limits of the trainer where the resource names none, as a JSON object."""
    measure_requests: JsonMap = Field(default_factory=dict)
    """Requests of the pods that measure text, as a JSON object."""
    measure_limits: JsonMap = Field(default_factory=dict)
    """Limits of the pods that measure text, as a JSON object."""
    measure_node_selector: JsonMap = Field(default_factory=dict)
    """Labels of the nodes where text is measured, as a JSON object."""
    probe: bool = True
    """Whether a pod on CPU looks for finished work of the same plan before a GPU is asked for."""
    memory_ceiling: str = ""
    """Most memory that a run gets which is tried again after it was killed for memory; empty: none more."""
    termination_grace_s: int = Field(default=300, ge=1, le=86_400)
    """Seconds for a step, a checkpoint and its upload after a pod is asked to stop."""
    image_pull_timeout_s: int = Field(default=600, ge=30, le=86_400)
    """Seconds after which a run whose image still cannot be pulled has failed."""

    namespaces: CommaList = ()
    """Namespaces to serve, separated by commas; empty serves all."""
    pod_namespace: str = ""
    """Namespace of the operator; empty takes the kubeconfig's, or `default`."""
    pod_name: str = Field(default_factory=default_identity)
    """Name of this replica; it holds the lease under it."""

    status_service: str = "localhost"
    """Host name or address under which training pods reach the status server."""
    status_port: int = Field(default=8443, ge=0, le=65_535)
    """Port of the status server."""
    probe_port: int = Field(default=8080, ge=0, le=65_535)
    """Port of /livez, /readyz and /metrics."""
    certificate_secret: str = "language-finetune-certificate"  # noqa: S105 - a name
    """Secret in the operator's namespace that holds the self-managed certificate."""
    certificate_dir: str = ""
    """Folder with tls.crt, tls.key and ca.crt that somebody else renews; empty: self-managed."""
    lease_name: str = "language-finetune-operator"
    """Lease in the operator's namespace; who holds it leads."""

    allow_trust_remote_code: bool = False
    """Whether a resource may run Python from a model repository."""
    allow_image_override: bool = False
    """Whether a resource may name its trainer image."""
    allowed_service_accounts: CommaList = ()
    """Service accounts that a resource may name, separated by commas; empty allows none."""
    allowed_images: Patterns = ()
    """Trainer images that a resource may name, as patterns separated by commas."""
    allowed_priority_classes: Patterns = ANY
    """PriorityClasses that a resource may name; `system-` has to be written out."""
    allowed_tolerations: Patterns = GPU_TAINTS
    """Taints that a resource may tolerate, `key` or `key=value`; AllTaints: a toleration without a key."""
    allowed_node_selectors: Patterns = ANY
    """Node labels that a resource may select, `key` or `key=value`."""
    allowed_runtime_classes: Patterns = GPU_RUNTIME_CLASSES
    """RuntimeClasses that a resource may name."""
    allowed_queues: Patterns = ANY
    """Kueue LocalQueues that a resource may name."""
    allowed_secrets: Patterns = ANY
    """Secrets that a resource may hand to its pods."""
    allowed_claims: Patterns = ANY
    """PersistentVolumeClaims that a resource may mount."""

    run_as_user: OptionalId = DEFAULT_USER
    """User id of training pods; empty leaves it to the cluster."""
    run_as_group: OptionalId = DEFAULT_USER
    """Group id of training pods; empty leaves it to the cluster."""
    fs_group: OptionalId = DEFAULT_USER
    """Group id that owns the volumes of training pods; empty leaves it to the cluster."""
    required_limits: JsonMap = Field(default_factory=dict)
    """Limits that every training pod carries, for quotas that ask for them, as a JSON object."""
    pod_labels: JsonMap = Field(default_factory=dict)
    """Labels of every training pod, as a JSON object."""
    pod_annotations: JsonMap = Field(default_factory=dict)
    """Annotations of every training pod, as a JSON object."""
    measure_deadline_s: int = Field(default=21_600, ge=60, le=31_536_000)
    """Seconds that measuring a text may take."""
    measure_inherits_priority: bool = False
    """Whether pods that measure take the PriorityClass of the resource."""

    log_format: Literal["json", "console"] = "json"
    """How log lines look."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least urgent log line that is written."""
    workers: int = Field(default=64, ge=1, le=512)
    """Resources looked at at once."""
    api_qps: float = Field(default=50.0, gt=0, le=10_000)
    """Requests to the API server in a second, watches apart."""
    api_burst: int = Field(default=100, ge=1, le=20_000)
    """Requests at once after a rest."""
    sweep_s: float = Field(default=600.0, ge=1)
    """Seconds between two sweeps for resources whose change or deletion was missed."""

    @field_validator(
        "trainer_image_pull_secrets",
        "namespaces",
        "allowed_service_accounts",
        "allowed_images",
        "allowed_priority_classes",
        "allowed_tolerations",
        "allowed_node_selectors",
        "allowed_runtime_classes",
        "allowed_queues",
        "allowed_secrets",
        "allowed_claims",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator(
        "trainer_env",
        "default_requests",
        "default_limits",
        "measure_requests",
        "measure_limits",
        "measure_node_selector",
        "required_limits",
        "pod_labels",
        "pod_annotations",
        mode="before",
    )
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value or "{}")
        except json.JSONDecodeError as error:
            raise ValueError('it must be a JSON object such as {"NAME": "value"}') from error

    @field_validator("memory_ceiling")
    @classmethod
    def _is_quantity(cls, value: str) -> str:
        if value:
            parse_quantity(value)
        return value

    @field_validator("required_limits")
    @classmethod
    def _are_quantities(cls, value: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(value.keys() - LIMITED):
            raise ValueError(f"{unknown[0]} cannot be limited; allowed are: {', '.join(LIMITED)}")
        for quantity in value.values():
            parse_quantity(quantity)
        return value

    @field_validator("pod_labels", "pod_annotations")
    @classmethod
    def _are_not_our_own(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if key.startswith(OWN_PREFIXES):
                raise ValueError(f"{key} is set by the operator itself; leave it out")
        return value

    @model_validator(mode="after")
    def _bound_by_burst(self) -> Self:
        if self.api_burst < self.api_qps:
            raise ValueError("API_BURST must be at least API_QPS")
        return self


def load_settings() -> Settings:
    """Return the settings of the environment.

    Raises:
        SettingsError: one sentence with each variable that is wrong and why.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    faults = []
    for fault in error.errors():
        name = PREFIX + str(fault["loc"][0]).upper() if fault["loc"] else "they"
        if fault["type"] == "missing":
            faults.append(f"{name} is not set")
        elif fault["loc"]:
            faults.append(f"{name} is {fault['input']!r}: {fault['msg']}")
        else:
            faults.append(fault["msg"])
    listed = "; ".join(faults)
    return f"The operator's settings are wrong: {listed}. Correct the environment and start again."
