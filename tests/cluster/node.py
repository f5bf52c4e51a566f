"""The node: containerd, kubelet, kube-proxy and the cluster's DNS, on this very machine."""

import json
from pathlib import Path

from tests.cluster import tools
from tests.cluster.control_plane import answers, kubectl
from tests.cluster.layout import (
    BRIDGE,
    DNS_SERVICE_ADDRESS,
    LOOPBACK,
    NODE_ADDRESS,
    NODE_NAME,
    PAUSE_IMAGE,
    POD_SUBNET,
    Layout,
)
from tests.cluster.network import allow_forwarding
from tests.cluster.processes import Program, build_flags, check_running, start
from tests.cluster.record import load_record, save_record
from tests.cluster.static_images import is_containerd_serving, load_static_images
from tests.cluster.steps import LabError, step, wait_until

READY_TIMEOUT_S = 90

FOREIGN_FOLDERS = (
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
    "/run/containerd",
    "/run/netns",
)
"""Folders outside the state folder whose paths are compiled into containerd, libcni and the kubelet.
Those that were absent before are removed by `down`; the others keep what the lab left in them."""


def start_node(*, binary: Path, coredns: Path, layout: Layout) -> None:
    """Start what is not running of the node and wait until it is Ready."""
    _record_foreign_folders(layout)
    _write_configuration(layout)
    layout.volumes.mkdir(exist_ok=True)
    allow_forwarding(layout)
    with step("starts containerd and gives it the pause and busybox images"):
        start_containerd(layout)
        load_static_images(layout)
    with step("starts kubelet, kube-proxy and DNS; waits for the node"):
        start(build_kubelet(binary, layout), layout=layout)
        start(build_proxy(binary, layout), layout=layout)
        _expose_dns(layout)
        start(build_coredns(coredns, layout), layout=layout)
        _wait_for_node(layout)


def start_containerd(layout: Layout) -> None:
    """Start containerd unless it runs, and wait until it answers; containers that lived on are its again."""
    start(build_containerd(layout), layout=layout)

    def is_ready() -> bool:
        check_running("containerd", layout=layout)
        return is_containerd_serving(layout)

    wait_until(is_ready, what="containerd to answer")


def build_containerd(layout: Layout) -> Program:
    """Return containerd's command."""
    return Program(
        name="containerd", command=["containerd", f"--config={layout.state / 'containerd.toml'}"]
    )


def build_kubelet(binary: Path, layout: Layout) -> Program:
    """Return the kubelet's command."""
    flags = {
        "config": layout.state / "kubelet.json",
        "kubeconfig": layout.kubeconfig_of("kubelet"),
        "hostname-override": NODE_NAME,
        "node-ip": NODE_ADDRESS,
        "root-dir": layout.state / "kubelet",
        "cert-dir": layout.state / "kubelet-keys",
    }
    command = [binary, "kubelet", *build_flags(flags)]
    # Without /usr/sbin the kubelet finds no iptables and so makes no chains that `down` would have to
    # tell apart from other people's; kube-proxy here uses nftables.
    return Program(name="kubelet", command=command, environment={"PATH": "/usr/bin:/bin"})


def build_proxy(binary: Path, layout: Layout) -> Program:
    """Return kube-proxy's command."""
    config = f"--config={layout.state / 'proxy.json'}"
    return Program(name="proxy", command=[binary, "kube-proxy", config])


def build_coredns(binary: Path, layout: Layout) -> Program:
    """Return the DNS server's command."""
    return Program(name="coredns", command=[binary, "-conf", layout.state / "Corefile"])


def build_containerd_configuration(layout: Layout) -> str:
    """Return containerd's configuration, in TOML."""
    return f"""version = 2
root = "{layout.state}/containerd"
state = "{layout.state}/containerd-state"

[grpc]
  address = "{layout.containerd_socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{layout.state}/containerd-opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  stream_server_address = "{LOOPBACK}"
  # A machine without CAP_SYS_RESOURCE may not lower oom_score_adj; without this every sandbox fails with
  # "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{layout.state}/cni"
"""


def build_pod_network(layout: Layout) -> dict[str, object]:
    """Return the CNI configuration: every pod on the bridge, the host as its gateway.

    Without masquerading: pods reach the host and each other, and nothing outside this machine.
    """
    addresses = {
        "type": "host-local",
        "dataDir": str(layout.state / "pod-addresses"),
        "ranges": [[{"subnet": POD_SUBNET}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": addresses,
    }
    return {"cniVersion": "0.4.0", "name": "lab", "plugins": [bridge]}


def build_kubelet_configuration(layout: Layout) -> dict[str, object]:
    """Return the kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # Also where the API server asks for logs: another address and `kubectl logs` fails.
        "address": NODE_ADDRESS,
        "healthzBindAddress": LOOPBACK,
        # The address is on the pods' bridge, so the kubelet must know who asks.
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.keys / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "podLogsDir": str(layout.pod_logs),
        "clusterDNS": [DNS_SERVICE_ADDRESS],
        "clusterDomain": "cluster.local",
        "enforceNodeAllocatable": [],
        # Nothing can be pulled, so a collected image is gone; and developers' disks are full.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "memory.available": "50Mi",
        },
        # Tests wait for pods: react within the second where the default is a minute.
        "syncFrequency": "10s",
        "fileCheckFrequency": "0s",
    }


def build_proxy_configuration(layout: Layout) -> dict[str, object]:
    """Return kube-proxy's configuration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(layout.kubeconfig_of("proxy"))},
        "mode": "nftables",
        # Both ends of a connection are on one bridge: unless the host stands in as its source, the answer
        # takes the short way over the bridge and comes from an address that was not asked.
        "nftables": {"masqueradeAll": True},
        "clusterCIDR": POD_SUBNET,
        "hostnameOverride": NODE_NAME,
        "healthzBindAddress": f"{LOOPBACK}:10256",
        "metricsBindAddress": f"{LOOPBACK}:10249",
        # The machine's own limits are not ours to raise.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def build_corefile(layout: Layout) -> str:
    """Return the DNS server's configuration. NB: a block's closing brace stands on its own line."""
    return f""".:53 {{
  bind {NODE_ADDRESS}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {layout.kubeconfig_of("coredns")}
    pods insecure
  }}
}}
"""


def build_dns_objects() -> list[dict[str, object]]:
    """Return the DNS Service, whose endpoint is a process on the host, and what that process may read."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    ports.append({"name": "dns-tcp", "port": 53, "protocol": "TCP"})
    in_system = {"namespace": "kube-system"}
    role = "rbac.authorization.k8s.io"
    reads = ["list", "watch"]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", **in_system},
            "spec": {"clusterIP": DNS_SERVICE_ADDRESS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-lab",
                **in_system,
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
        },
        {
            "apiVersion": f"{role}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": reads},
                {
                    "apiGroups": ["discovery.k8s.io"],
                    "resources": ["endpointslices"],
                    "verbs": reads,
                },
            ],
        },
        {
            "apiVersion": f"{role}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": role, "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"apiGroup": role, "kind": "User", "name": "system:coredns"}],
        },
    ]


def is_node_ready(layout: Layout) -> bool:
    """Tell whether the node's Ready condition is true."""
    if not answers(f"/api/v1/nodes/{NODE_NAME}", layout=layout):
        return False
    ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    program = tools.wheel_program(tools.KUBECTL)
    arguments = ("get", "node", NODE_NAME, f"--output={ready}")
    try:
        return kubectl(*arguments, layout=layout, program=program) == "True"
    except LabError:
        return False


def set_gpus(count: int, *, layout: Layout) -> None:
    """Let the node claim GPUs that it does not have: pods asking for them schedule and start."""
    amount = {"nvidia.com/gpu": str(count)}
    patch = json.dumps({"status": {"capacity": amount, "allocatable": amount}})
    options = ("--subresource=status", "--type=merge", f"--patch={patch}")
    program = tools.wheel_program(tools.KUBECTL)
    kubectl("patch", "node", NODE_NAME, *options, layout=layout, program=program)


def _record_foreign_folders(layout: Layout) -> None:
    record = load_record(layout.record)
    for folder in FOREIGN_FOLDERS:
        if not Path(folder).exists():
            record = record.with_folder(folder)
    save_record(record, layout.record)


def _write_configuration(layout: Layout) -> None:
    (layout.state / "containerd.toml").write_text(build_containerd_configuration(layout))
    network = layout.state / "cni" / "10-lab.conflist"
    network.parent.mkdir(exist_ok=True)
    network.write_text(json.dumps(build_pod_network(layout)))
    (layout.state / "kubelet.json").write_text(json.dumps(build_kubelet_configuration(layout)))
    (layout.state / "proxy.json").write_text(json.dumps(build_proxy_configuration(layout)))
    (layout.state / "Corefile").write_text(build_corefile(layout))


def _expose_dns(layout: Layout) -> None:
    objects = json.dumps({"apiVersion": "v1", "kind": "List", "items": build_dns_objects()})
    program = tools.wheel_program(tools.KUBECTL)
    kubectl("apply", "--filename=-", layout=layout, program=program, given=objects)


def _wait_for_node(layout: Layout) -> None:
    def is_ready() -> bool:
        for name in ("containerd", "kubelet", "proxy", "coredns"):
            check_running(name, layout=layout)
        return is_node_ready(layout)

    wait_until(is_ready, what=f"node {NODE_NAME} to be Ready", timeout_s=READY_TIMEOUT_S)
