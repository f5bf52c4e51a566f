"""What the administrator decided: the settings that `decide` needs, as one frozen value.

The shell builds it once from its settings (and again when its certificate changes); the decisions
read it and never the environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_operator.decide.values.pod_policy import PodPolicy


@dataclass(frozen=True, kw_only=True)
class DecisionContext:
    """The administrator's choices, the same for every resource."""

    trainer_image: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets of the resource's namespace that hold registry credentials."""
    status_url: str
    """Where pods report: scheme, host and port, without a slash at the end."""
    ca_pem: str
    """Certificates that pods trust when they report."""
    allow_trust_remote_code: bool = False
    allow_image_override: bool = False
    allowed_service_accounts: frozenset[str] = frozenset()
    pods: PodPolicy = field(default_factory=PodPolicy)
    """What every pod carries, and which values of a resource may reach it."""
    default_requests: Mapping[str, str] = field(default_factory=dict)
    """Requests of the trainer where the resource names none, by resource name."""
    default_limits: Mapping[str, str] = field(default_factory=dict)
    """Limits of the trainer where the resource names none, by resource name."""
    measure_requests: Mapping[str, str] = field(default_factory=dict)
    """Requests of a pod that measures, by resource name."""
    measure_limits: Mapping[str, str] = field(default_factory=dict)
    """Limits of a pod that measures, by resource name."""
    measure_node_selector: Mapping[str, str] = field(default_factory=dict)
    """Where pods that measure may run; a resource's own selector is about GPUs."""
    trainer_env: Mapping[str, str] = field(default_factory=dict)
    """Environment of every trainer, such as a proxy or a mirror of the hub."""
    probes: bool = False
    """Whether finished work is looked for on CPU before a GPU is asked for."""
    memory_ceiling: str = ""
    """Most memory that the retry after an out-of-memory kill gets; empty: none is given more."""
    termination_grace_s: int = 300
    """For a step, a checkpoint and its upload after SIGTERM. Assumption: an 8B adapter needs 60."""
    image_pull_timeout_s: int = 600
    """A run whose image still cannot be pulled then has failed, and its GPU is freed."""
    pod_missing_after_s: int = 30
    """A Job without a pod is normal until then: the Job controller backs off by 10 and 20 s."""
    pod_stuck_after_s: int = 60
    """A pod may create its container as long as this before its events are read."""
    outcome_grace_s: int = 30
    """Jobs and Pods arrive on two watches: the end of a Job may be seen this long before its pod's."""
