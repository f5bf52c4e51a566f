"""etcd, API server, controller manager and scheduler: enough for whatever needs no pod to run."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from tests.cluster.credentials import make_credentials
from tests.cluster.layout import (
    API_PORT,
    LOOPBACK,
    NODE_ADDRESS,
    SERVICE_SUBNET,
    Layout,
)
from tests.cluster.processes import Program, build_flags, check_running, start
from tests.cluster.steps import run, step, wait_until

ETCD_URL = f"http://{LOOPBACK}:2379"
ETCD_PEER_URL = f"http://{LOOPBACK}:2380"
READY_TIMEOUT_S = 60

AWAITED_ROLES = (
    "system::extension-apiserver-authentication-reader",
    "system::leader-locking-kube-controller-manager",
    "system::leader-locking-kube-scheduler",
)
"""The default roles appear a moment after /readyz, and a controller manager started before them exits."""


def start_control_plane(*, binary: Path, layout: Layout) -> None:
    """Start what is not running of the control plane and wait until it serves."""
    make_credentials(layout)
    policy = layout.state / "audit-policy.json"
    policy.write_text(json.dumps(build_audit_policy()))
    start(build_etcd(binary, layout), layout=layout)
    start(build_api_server(binary, layout), layout=layout)
    with step("starts etcd and the API server"):
        _wait_for_api(layout)
    start(build_controller_manager(binary, layout), layout=layout)
    start(build_scheduler(binary, layout), layout=layout)
    with step("starts the controller manager and the scheduler"):
        _wait_for_controllers(layout)


def build_audit_policy() -> dict[str, object]:
    """Return the audit policy: who did what to which object and when, for every request once."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }


def build_etcd(binary: Path, layout: Layout) -> Program:
    """Return etcd's command. Without fsync: right for tests, wrong for anything else."""
    urls = {
        "listen-client-urls": ETCD_URL,
        "advertise-client-urls": ETCD_URL,
        "listen-peer-urls": ETCD_PEER_URL,
        "initial-advertise-peer-urls": ETCD_PEER_URL,
        "initial-cluster": f"default={ETCD_PEER_URL}",
    }
    flags = {"data-dir": layout.state / "etcd", "log-level": "warn", **urls}
    command = [binary, "etcd", "--unsafe-no-fsync", *build_flags(flags)]
    return Program(name="etcd", command=command)


def build_api_server(binary: Path, layout: Layout) -> Program:
    """Return the API server's command."""
    keys = layout.keys
    flags = {
        "etcd-servers": ETCD_URL,
        "bind-address": NODE_ADDRESS,
        "advertise-address": NODE_ADDRESS,
        "secure-port": API_PORT,
        "service-cluster-ip-range": SERVICE_SUBNET,
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": keys / "service-accounts.pub",
        "service-account-signing-key-file": keys / "service-accounts.key",
        "client-ca-file": keys / "ca.crt",
        "tls-cert-file": keys / "apiserver.crt",
        "tls-private-key-file": keys / "apiserver.key",
        "kubelet-client-certificate": keys / "kubelet-client.crt",
        "kubelet-client-key": keys / "kubelet-client.key",
        "kubelet-preferred-address-types": "InternalIP",
        "token-auth-file": keys / "tokens.csv",
        "authorization-mode": "Node,RBAC",
        "allow-privileged": "true",
        "audit-policy-file": layout.state / "audit-policy.json",
        "audit-log-path": layout.audit_log,
        # Tests read the log to its beginning, so let it grow: 1 GB is a million requests.
        "audit-log-maxsize": 2000,
    }
    command = [binary, "kube-apiserver", *build_flags(flags)]
    return Program(name="apiserver", command=command)


def build_controller_manager(binary: Path, layout: Layout) -> Program:
    """Return the controller manager's command."""
    flags = {
        "service-account-private-key-file": layout.keys / "service-accounts.key",
        "root-ca-file": layout.keys / "ca.crt",
        "cluster-signing-cert-file": layout.keys / "ca.crt",
        "cluster-signing-key-file": layout.keys / "ca.key",
        "use-service-account-credentials": "true",
        # At its default of 20 requests a second the start alone takes 5 s, and 1,000 Jobs get their pods
        # in minutes: tests would measure this limit.
        "kube-api-qps": 1000,
        "kube-api-burst": 2000,
        **_client_flags("controller-manager", layout),
    }
    command = [binary, "kube-controller-manager", *build_flags(flags)]
    return Program(name="controller-manager", command=command)


def build_scheduler(binary: Path, layout: Layout) -> Program:
    """Return the scheduler's command."""
    flags = _client_flags("scheduler", layout)
    command = [binary, "kube-scheduler", *build_flags(flags)]
    return Program(name="scheduler", command=command)


def is_api_ready(layout: Layout) -> bool:
    """Tell whether the API server answers and has made its default roles."""
    roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings"
    paths = ("/readyz", *(f"{roles}/{role}" for role in AWAITED_ROLES))
    return all(answers(path, layout=layout) for path in paths)


def answers(path: str, *, layout: Layout) -> bool:
    """Tell whether the API server answers a GET of the administrator with success."""
    if not layout.kubeconfig.exists():
        return False
    config = json.loads(layout.kubeconfig.read_text())
    server = config["clusters"][0]["cluster"]["server"]
    token = config["users"][0]["user"]["token"]
    request = urllib.request.Request(server + path, headers={"Authorization": f"Bearer {token}"})
    trust = ssl.create_default_context(cafile=str(layout.keys / "ca.crt"))
    # A machine's HTTP proxy has no business between host and bridge.
    direct = urllib.request.ProxyHandler({})
    opener = urllib.request.build_opener(direct, urllib.request.HTTPSHandler(context=trust))
    try:
        with opener.open(request, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def kubectl(*arguments: str, layout: Layout, program: Path, given: str = "") -> str:
    """Run kubectl as the administrator and return what it printed."""
    return run([program, f"--kubeconfig={layout.kubeconfig}", *arguments], given=given)


def _client_flags(user: str, layout: Layout) -> dict[str, str]:
    kubeconfig = str(layout.kubeconfig_of(user))
    return {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": LOOPBACK,
        "leader-elect": "false",
    }


def _wait_for_api(layout: Layout) -> None:
    def is_ready() -> bool:
        check_running("etcd", layout=layout)
        check_running("apiserver", layout=layout)
        return is_api_ready(layout)

    wait_until(is_ready, what="the API server to be ready", timeout_s=READY_TIMEOUT_S)


def _wait_for_controllers(layout: Layout) -> None:
    # The default service account is made by the controller manager; no pod is admitted before.
    account = "/api/v1/namespaces/default/serviceaccounts/default"

    def is_ready() -> bool:
        check_running("controller-manager", layout=layout)
        check_running("scheduler", layout=layout)
        return answers(account, layout=layout)

    wait_until(is_ready, what="the default service account", timeout_s=READY_TIMEOUT_S)
