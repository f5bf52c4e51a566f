"""What the administrator allows and adds for the pods that the operator creates.

Part of `DecisionContext`. The allow-lists say which values of a resource may reach a pod
(`plan.allowed_fields` checks them); the rest is rendered into every pod by `manifests.pod`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

DEFAULT_USER: Final = 65532
"""`nonroot` of the common minimal images; any number but 0 satisfies Pod Security `restricted`."""

ANY: Final = ("*",)

ALL_TAINTS: Final = "AllTaints"
"""Entry of `allowed_tolerations` for a toleration without a key, which tolerates every taint."""

GPU_TAINTS: Final = (
    "nvidia.com/gpu",
    "amd.com/gpu",
    "gpu.intel.com/*",
    "cloud.google.com/gke-spot",
    "kubernetes.azure.com/scalesetpriority",
)
"""Taint keys of GPU and spot nodes, as the device plugins, GKE and AKS document them."""

GPU_RUNTIME_CLASSES: Final = ("nvidia", "nvidia-*", "gvisor", "kata", "kata-*")
"""RuntimeClasses that NVIDIA's GPU operator, gVisor and Kata Containers install."""


@dataclass(frozen=True, kw_only=True)
class PodPolicy:
    """The administrator's rules for training pods; `*` in a pattern stands for any text."""

    allowed_priority_classes: tuple[str, ...] = ANY
    """Patterns of PriorityClass names; `*` never includes `system-`."""
    allowed_tolerations: tuple[str, ...] = GPU_TAINTS
    """Patterns of taints, `key` or `key=value`; `*` never includes the taints of Kubernetes itself."""
    allowed_node_selectors: tuple[str, ...] = ANY
    """Patterns of node labels, `key` or `key=value`; `*` never includes the control plane's role."""
    allowed_runtime_classes: tuple[str, ...] = GPU_RUNTIME_CLASSES
    """Patterns of RuntimeClass names."""
    allowed_queues: tuple[str, ...] = ANY
    """Patterns of Kueue LocalQueue names."""
    allowed_images: tuple[str, ...] = ()
    """Patterns of trainer images."""
    allowed_secrets: tuple[str, ...] = ANY
    """Patterns of names of Secrets that a resource may hand to its pod."""
    allowed_claims: tuple[str, ...] = ANY
    """Patterns of names of PersistentVolumeClaims that a resource may mount."""
    run_as_user: int | None = DEFAULT_USER
    """User id of the container; None leaves it to the cluster, as OpenShift's `restricted-v2` wants."""
    run_as_group: int | None = DEFAULT_USER
    """Group id of the container; None leaves it to the cluster."""
    fs_group: int | None = DEFAULT_USER
    """Group id that owns the volumes; None leaves it to the cluster."""
    required_limits: Mapping[str, str] = field(default_factory=dict)
    """Limits that every container carries, by resource name: at least its request or this."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of every pod besides the operator's own."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Annotations of every pod besides the operator's own."""
    measure_deadline_s: int = 21_600
    """Seconds that a Measure Job may take."""
    measure_inherits_priority: bool = False
    """Whether pods that measure or probe take the PriorityClass of the training pod."""
