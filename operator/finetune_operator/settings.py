"""What the administrator sets, by environment variables that begin with FINETUNE_.

The chart writes them, `__main__` reads them once. Wrong ones end the process with one sentence and
exit code 2, before anything is asked of the cluster. Nothing here is read again later.
"""

import json
import os
import socket
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from finetune_api.quantity import parse_quantity
from finetune_operator.errors import SettingsError

PREFIX = "FINETUNE_"

CommaList = Annotated[tuple[str, ...], NoDecode]
JsonMap = Annotated[dict[str, str], NoDecode]


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
    """Seconds for a step, a checkpoint and its upload after a pod is told to stop."""
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
        "trainer_image_pull_secrets", "namespaces", "allowed_service_accounts", mode="before"
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
