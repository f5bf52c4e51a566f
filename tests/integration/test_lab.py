"""What the project relies on in a cluster, shown to work on the lab's node."""

import base64
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.fixtures import S3, Lab
from tests.cluster.layout import Layout
from tests.cluster.node import set_gpus

pytestmark = pytest.mark.cluster

Object = dict[str, Any]

RESTRICTED_POD = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESTRICTED_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True)
class ClaimedFolder:
    """A folder of this host and the persistent volume claim through which pods see it."""

    path: Path
    claim: str

    @property
    def source(self) -> Object:
        """The volume of a pod spec."""
        return {"persistentVolumeClaim": {"claimName": self.claim}}


@pytest.fixture
def claimed_folder(lab: Lab, namespace: str) -> Iterator[ClaimedFolder]:
    """A folder on the node, which is this host, bound to a claim in the test's namespace."""
    folder = lab.volumes / namespace
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeMode": "Filesystem"}
    claim_reference = {"namespace": namespace, "name": namespace}
    source = {"hostPath": {"path": str(folder)}, "claimRef": claim_reference}
    volume = {**common, **source, "capacity": {"storage": "1Gi"}}
    claim = {**common, "resources": {"requests": {"storage": "1Gi"}}, "volumeName": namespace}
    metadata = {"name": namespace, "namespace": namespace}
    named = {"name": namespace}
    lab.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": named, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim},
    )
    lab.wait(f"pvc/{namespace}", until="jsonpath={.status.phase}=Bound", namespace=namespace)
    yield ClaimedFolder(path=folder, claim=namespace)
    lab.kubectl("delete", "persistentvolume", namespace, "--wait=false")
    shutil.rmtree(folder)


def pod_spec(lab: Lab, script: str, *, volumes: dict[str, Object] | None = None) -> Object:
    """Return the spec of a restricted pod that runs a shell script; each volume is at /NAME."""
    volumes = volumes or {}
    container = {
        "name": "main",
        "image": lab.busybox_image,
        "command": ["sh", "-ec", script],
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in volumes],
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": RESTRICTED_POD,
        "containers": [container],
        "volumes": [{"name": name, **source} for name, source in volumes.items()],
    }


def run_pod(lab: Lab, spec: Object, *, namespace: str) -> Object:
    """Run a pod to its end and return what became of its container."""
    name = f"pod-{uuid.uuid4().hex[:8]}"
    metadata = {"name": name, "namespace": namespace}
    lab.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    ended = "jsonpath={.status.containerStatuses[0].state.terminated.reason}"
    lab.wait(f"pod/{name}", until=ended, namespace=namespace)
    status = lab.get("pod", name, namespace=namespace)["status"]
    terminated: Object = status["containerStatuses"][0]["state"]["terminated"]
    return terminated


def test_node_is_ready(lab: Lab) -> None:
    conditions = lab.get("node", lab.node)["status"]["conditions"]
    assert {one["type"]: one["status"] for one in conditions}["Ready"] == "True"


def test_restricted_pod_writes_its_termination_message(lab: Lab, namespace: str) -> None:
    ended = run_pod(lab, pod_spec(lab, "id -u > /dev/termination-log"), namespace=namespace)
    assert (ended["exitCode"], ended["message"]) == (0, "65532\n")


def test_pod_that_is_not_restricted_is_refused(lab: Lab, namespace: str) -> None:
    container = {"name": "main", "image": lab.busybox_image}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root", "namespace": namespace}}
    given = json.dumps({**pod, "spec": {"containers": [container]}})
    lab.kubectl("create", "--filename=-", given=given, check=False)
    names = lab.kubectl("get", "pods", f"--namespace={namespace}", "--output=name")
    assert names == ""


def test_service_answers_another_pod_under_its_name(lab: Lab, namespace: str) -> None:
    server = pod_spec(lab, "echo hello > /www/greeting; httpd -f -p 8080 -h /www")
    server["volumes"] = [{"name": "www", "emptyDir": {}}]
    server["containers"][0]["volumeMounts"] = [{"name": "www", "mountPath": "/www"}]
    server["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    metadata = {"name": "web", "namespace": namespace, "labels": {"app": "web"}}
    service = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    lab.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": server},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    )
    lab.wait("pod/web", until="condition=Ready", namespace=namespace)
    # Endpoints reach the proxy a moment after the pod is ready.
    ask = f"wget -qO- http://web.{namespace}.svc.cluster.local/greeting > /dev/termination-log"
    script = f"for try in 1 2 3 4 5 6 7 8 9; do {ask} && exit 0; sleep 0.5; done; exit 1"
    assert run_pod(lab, pod_spec(lab, script), namespace=namespace)["message"] == "hello\n"


def test_projected_token_has_its_own_audience(lab: Lab, namespace: str) -> None:
    source = {
        "serviceAccountToken": {"path": "token", "audience": "finetune", "expirationSeconds": 600}
    }
    volumes: dict[str, Object] = {"progress": {"projected": {"sources": [source]}}}
    # A token's middle part holds its claims, base64 without padding.
    script = "cut -d. -f2 /progress/token | tr _- /+ > /dev/termination-log"
    message = run_pod(lab, pod_spec(lab, script, volumes=volumes), namespace=namespace)["message"]
    assert claims_of(message)["aud"] == ["finetune"]


def claims_of(part: str) -> Object:
    """Return the claims in the middle part of a token."""
    claims: Object = json.loads(base64.b64decode(part.strip() + "=="))
    return claims


@pytest.mark.parametrize(
    ("exit_code", "action", "condition", "reason"),
    [
        pytest.param(2, "FailJob", "Failed", "PodFailurePolicy", id="an exit code fails the Job"),
        pytest.param(3, "Ignore", "Complete", "CompletionsReached", id="another is not counted"),
    ],
)
def test_job_obeys_its_pod_failure_policy(
    lab: Lab,
    claimed_folder: ClaimedFolder,
    exit_code: int,
    action: str,
    condition: str,
    reason: str,
) -> None:
    namespace = claimed_folder.claim
    once = f"test -e /seen/mark && exit 0; touch /seen/mark; exit {exit_code}"
    volumes: dict[str, Object] = {"seen": claimed_folder.source}
    rule = {"action": action, "onExitCodes": {"operator": "In", "values": [exit_code]}}
    spec = {
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [rule]},
        "template": {"spec": pod_spec(lab, once, volumes=volumes)},
    }
    metadata = {"name": "job", "namespace": namespace}
    lab.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})
    lab.wait("job/job", until=f"condition={condition}", namespace=namespace)
    conditions = lab.get("job", "job", namespace=namespace)["status"]["conditions"]
    assert {one["type"]: one["reason"] for one in conditions}[condition] == reason


def test_persistent_volume_is_a_folder_of_the_host(
    lab: Lab, namespace: str, claimed_folder: ClaimedFolder
) -> None:
    (claimed_folder.path / "corpus.txt").write_text("habari\n")
    script = "cat /data/corpus.txt > /dev/termination-log; echo done > /data/result"
    spec = pod_spec(lab, script, volumes={"data": claimed_folder.source})
    assert run_pod(lab, spec, namespace=namespace)["message"] == "habari\n"
    assert (claimed_folder.path / "result").read_text() == "done\n"


def test_pod_reaches_s3_and_not_what_asks_for_no_password(lab: Lab, s3: S3, namespace: str) -> None:
    script = (
        f"wget -qO- {s3.pod_endpoint} 2>&1 | grep -o 403 > /dev/termination-log;"
        "wget -qO- http://127.213.0.1:8888 || echo closed >> /dev/termination-log"
    )
    ended = run_pod(lab, pod_spec(lab, script), namespace=namespace)
    assert ended["message"] == "403\nclosed\n"


def test_pod_asking_for_a_claimed_gpu_runs(lab: Lab, namespace: str) -> None:
    if "nvidia.com/gpu" not in lab.get("node", lab.node)["status"]["allocatable"]:
        set_gpus(1, layout=Layout.from_environment())
    spec = pod_spec(lab, "echo ran > /dev/termination-log")
    spec["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    assert run_pod(lab, spec, namespace=namespace)["message"] == "ran\n"


def test_audit_log_tells_who_wrote_what(control_plane: Lab, namespace: str) -> None:
    metadata = {"name": "written", "namespace": namespace}
    control_plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    assert ("create", "configmaps", "written") in audited(control_plane, namespace=namespace)


def audited(lab: Lab, *, namespace: str) -> list[tuple[str, str, str]]:
    """Return verb, resource and name of every request of a namespace so far."""
    time.sleep(0.2)  # the log is written after the answer
    found = []
    for line in lab.audit_log.read_text().splitlines():
        event = json.loads(line)
        target = event.get("objectRef", {})
        if target.get("namespace") == namespace:
            found.append((event["verb"], target["resource"], target.get("name", "")))
    return found
