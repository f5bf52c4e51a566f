"""pytest fixtures of the lab, for every test that needs a cluster or S3.

The lab is never started here: `python -m tests.cluster up` takes seconds to minutes and belongs to the one who
runs the tests. Without it a developer's tests are skipped with the reason; in CI that is a failure.
"""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import tools
from tests.cluster.lab import Health, check_health
from tests.cluster.layout import BASE_IMAGE, BUSYBOX_IMAGE, NODE_NAME, S3_REGION, Layout
from tests.cluster.s3 import ENDPOINT, Keys, load_keys

COMMAND_TIMEOUT_S = 120


@dataclass(frozen=True)
class S3:
    """Where S3 is and who may use it."""

    host_endpoint: str
    """As programs on this host reach it."""

    pod_endpoint: str
    """As pods reach it."""

    admin: Keys
    reader: Keys
    region: str = S3_REGION


@dataclass(frozen=True)
class Lab:
    """A running lab."""

    kubeconfig: Path
    audit_log: Path
    volumes: Path
    """A folder on the node for hostPath volumes; the node is this very host."""

    health: Health
    kubectl_program: Path
    helm_program: Path
    busybox_image: str = BUSYBOX_IMAGE
    base_image: str = BASE_IMAGE
    node: str = NODE_NAME

    def kubectl(self, *arguments: str, given: str = "", check: bool = True) -> str:
        """Run kubectl as the administrator and return what it printed."""
        done = subprocess.run(
            [str(self.kubectl_program), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
        if check and done.returncode != 0:
            pytest.fail(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create or change objects."""
        whole = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--filename=-", given=json.dumps(whole))

    def get(self, kind: str, name: str, *, namespace: str = "") -> dict[str, Any]:
        """Return one object."""
        where = [f"--namespace={namespace}"] if namespace else []
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "--output=json", *where))
        return found

    def wait(self, target: str, *, until: str, namespace: str, timeout_s: int = 60) -> None:
        """Wait until `kubectl wait --for=` holds, like `condition=Ready`."""
        where = (f"--namespace={namespace}", f"--timeout={timeout_s}s")
        self.kubectl("wait", target, f"--for={until}", *where)


@pytest.fixture(scope="session")
def control_plane() -> Lab:
    """A lab whose API server serves; its node may be missing (`up --control-plane`)."""
    layout = Layout.from_environment()
    health = check_health(layout)
    if not health.control_plane:
        _give_up("the lab's control plane is down")
    return _describe(layout, health)


@pytest.fixture(scope="session")
def lab(control_plane: Lab) -> Lab:
    """A whole lab, which runs pods."""
    if not control_plane.health.node:
        _give_up("the lab has no node")
    return control_plane


@pytest.fixture(scope="session")
def s3() -> S3:
    """The lab's S3; it may run without the rest (`s3 up`)."""
    layout = Layout.from_environment()
    if not check_health(layout).s3:
        _give_up("the lab's S3 is down")
    return S3(
        host_endpoint=ENDPOINT,
        pod_endpoint=ENDPOINT,
        admin=load_keys("admin", layout=layout),
        reader=load_keys("reader", layout=layout),
    )


@pytest.fixture
def namespace(control_plane: Lab) -> Iterator[str]:
    """A fresh namespace that enforces Pod Security `restricted`, deleted after the test."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    control_plane.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted}}
    )
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


def _describe(layout: Layout, health: Health) -> Lab:
    kubectl, helm = tools.command_folders()
    return Lab(
        kubeconfig=layout.kubeconfig,
        audit_log=layout.audit_log,
        volumes=layout.volumes,
        health=health,
        kubectl_program=kubectl / "kubectl",
        helm_program=helm / "helm",
    )


def _give_up(why: str) -> None:
    advice = f"{why}: run `python -m tests.cluster up` as root"
    if os.environ.get("CI") == "true":
        pytest.fail(advice)
    pytest.skip(advice)
