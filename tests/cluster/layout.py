"""Where the lab keeps what it makes: addresses, ports, folders. Values only; nothing here has effects.

Everything that belongs to one running lab stands below its state folder and is removed by `down`. What
is slow to make (binaries, the image store) stands in the cache and outlives it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

NODE_NAME = "lab"
BRIDGE = "lf-lab"
"""The bridge of the pods. The host's end of it is the node's address."""

NODE_ADDRESS = "10.213.0.1"
"""On the bridge, so that pods and host reach it and no outside address of the machine is listened on."""

NODE_PREFIX = 16
POD_SUBNET = "10.213.0.0/16"
SERVICE_SUBNET = "10.214.0.0/16"
API_SERVICE_ADDRESS = "10.214.0.1"
DNS_SERVICE_ADDRESS = "10.214.0.10"

LOOPBACK = "127.213.0.1"
"""For what pods must not reach (etcd has no password). Not 127.0.0.1: another etcd may listen there."""

API_PORT = 6443
S3_PORT = 8333
S3_REGION = "us-east-1"

KUBERNETES_NAMESPACE = "k8s.io"
"""The containerd namespace in which the kubelet looks for images and keeps its containers."""

IMAGE_PREFIX = "localhost/language-finetune"
PAUSE_IMAGE = f"{IMAGE_PREFIX}/pause:1"
BUSYBOX_IMAGE = f"{IMAGE_PREFIX}/busybox:1"
BASE_IMAGE = f"{IMAGE_PREFIX}/base:bookworm"


def cache_folder() -> Path:
    """Return the folder for what is slow to make and safe to delete."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "language-finetune"


@dataclass(frozen=True)
class Layout:
    """The folders and files of one lab."""

    state: Path

    @classmethod
    def from_environment(cls) -> "Layout":
        """Return the layout of the lab that LAB_STATE names, or of the default one."""
        state = os.environ.get("LAB_STATE") or "/var/lib/language-finetune-lab"
        return cls(state=Path(state).absolute())

    @property
    def record(self) -> Path:
        """What the lab started and changed, so that `down` undoes just that."""
        return self.state / "record.json"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def pod_logs(self) -> Path:
        """What containers print, in a folder for each pod: NAMESPACE_NAME_UID."""
        return self.state / "pod-logs"

    @property
    def keys(self) -> Path:
        return self.state / "keys"

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of the cluster's administrator."""
        return self.kubeconfig_of("admin")

    @property
    def audit_log(self) -> Path:
        """Every request to the API server, one JSON event a line, Metadata level."""
        return self.logs / "audit.jsonl"

    @property
    def containerd_socket(self) -> Path:
        return self.state / "containerd.sock"

    @property
    def s3_identities(self) -> Path:
        return self.state / "s3.json"

    @property
    def volumes(self) -> Path:
        """A folder on the node for hostPath and local volumes of tests."""
        return self.state / "volumes"

    def kubeconfig_of(self, user: str) -> Path:
        """Return the path of one user's kubeconfig."""
        return self.state / f"{user}.kubeconfig"
