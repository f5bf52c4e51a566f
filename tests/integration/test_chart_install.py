"""The chart on a real API server: admitted as restricted, with these rights, safe to upgrade."""

import base64
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.fixtures import Lab

CHART = Path(__file__).parents[2] / "charts/language-finetune"


@dataclass(frozen=True)
class Release:
    """An installed chart, of which no pod ever runs: its image does not exist."""

    lab: Lab
    name: str
    namespace: str

    def helm(self, *arguments: str) -> None:
        """Run helm on this release."""
        program = str(self.lab.helm_program)
        where = (f"--kubeconfig={self.lab.kubeconfig}", f"--namespace={self.namespace}")
        done = subprocess.run(
            [program, *arguments, *where], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def upgrade(self, *values: str) -> None:
        """Install or upgrade; the definition is left to its installer."""
        settings = [f"--set={value}" for value in ("crds.enabled=false", *values)]
        self.helm("upgrade", "--install", self.name, str(CHART), *settings)

    def may(self, verb: str, what: str, *, namespace: str) -> bool:
        """Tell whether the operator may do `verb` to `what`, as the API server sees it.

        Args:
            verb: Such as get.
            what: `jobs`, `secrets/NAME` for one object, `pods:exec` for a subresource.
            namespace: Where.
        """
        what, _, part = what.partition(":")
        who = f"--as=system:serviceaccount:{self.namespace}:{self.name}"
        question = ("auth", "can-i", verb, what, f"--subresource={part}", who, f"-n={namespace}")
        return self.lab.kubectl(*question, check=False).strip() == "yes"


@pytest.fixture
def release(control_plane: Lab, namespace: str) -> Iterator[Release]:
    installed = Release(
        lab=control_plane, name=f"language-finetune-{namespace}", namespace=namespace
    )
    installed.upgrade()
    yield installed
    installed.helm("uninstall", installed.name)


@pytest.mark.cluster
def test_a_restricted_namespace_takes_the_pod_of_the_operator(release: Release) -> None:
    label = f"--selector=app.kubernetes.io/instance={release.name}"
    where = f"--namespace={release.namespace}"

    release.lab.kubectl("wait", "pod", label, where, "--for=create", "--timeout=30s")


@pytest.mark.cluster
def test_the_operator_may_do_its_work_and_no_more(release: Release) -> None:
    own, certificate = release.namespace, f"secrets/{release.name}-certificate"
    allowed = [
        ("watch", "languagefinetunes", "default"),
        ("patch", "languagefinetunes:status", "default"),
        ("create", "jobs", "default"),
        ("delete", "jobs", "default"),
        ("watch", "pods", "default"),
        ("create", "configmaps", "default"),
        ("create", "events.events.k8s.io", "default"),
        ("list", "events", "default"),
        ("create", "tokenreviews", "default"),
        ("create", "leases", own),
        ("update", f"leases/{release.name}", own),
        ("get", certificate, own),
        ("update", certificate, own),
    ]
    forbidden = [
        ("patch", "languagefinetunes", "default"),
        ("get", "secrets/s3-credentials", "default"),
        ("get", "secrets/another", own),
        ("list", "secrets", own),
        ("create", "secrets", own),
        ("create", "pods", "default"),
        ("create", "pods:exec", "default"),
        ("get", "pods:log", "default"),
        ("delete", "configmaps", "default"),
        ("update", "leases/another", own),
        ("create", "leases", "kube-system"),
        ("patch", "customresourcedefinitions", "default"),
    ]

    answers = {one: release.may(one[0], one[1], namespace=one[2]) for one in allowed + forbidden}

    assert [one for one in allowed if not answers[one]] == []
    assert [one for one in forbidden if answers[one]] == []


@pytest.mark.cluster
def test_an_upgrade_leaves_the_certificate_alone(release: Release) -> None:
    name, written = f"{release.name}-certificate", base64.b64encode(b"pem").decode()
    where = f"--namespace={release.namespace}"
    release.lab.kubectl(
        "patch", "secret", name, where, f'--patch={{"data":{{"tls.crt":"{written}"}}}}'
    )

    release.upgrade("replicas=2")

    stored = release.lab.get("secret", name, namespace=release.namespace)
    assert stored["data"] == {"tls.crt": written}
