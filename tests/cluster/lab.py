"""The whole lab: up, down, status. Each is a list of the other modules' steps."""

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import tools
from tests.cluster.containers import remove_containers
from tests.cluster.control_plane import is_api_ready, start_control_plane
from tests.cluster.layout import NODE_NAME, S3_REGION, Layout
from tests.cluster.leftovers import remove_leftovers
from tests.cluster.network import make_bridge, undo_network
from tests.cluster.node import is_node_ready, start_containerd, start_node
from tests.cluster.processes import running, stop
from tests.cluster.record import load_record
from tests.cluster.s3 import ENDPOINT, is_serving, load_keys, start_s3, wait_for_s3
from tests.cluster.steps import LabError, only_one, step

CONTROL_PLANE = ("etcd", "apiserver", "controller-manager", "scheduler")
NODE = ("containerd", "kubelet", "proxy", "coredns")
S3 = "s3"


@dataclass(frozen=True)
class Health:
    """What of the lab works."""

    control_plane: bool
    node: bool
    s3: bool


def up(layout: Layout, *, control_plane_only: bool) -> bool:
    """Bring the lab up, or start only what is missing of it; return whether anything was missing."""
    with only_one("lab"):
        health = check_health(layout)
        if health.control_plane and (control_plane_only or (health.node and health.s3)):
            return False
        tools.install_tools(control_plane_only=control_plane_only)
        _check_ours(layout)
        binary = tools.kubernetes()
        layout.state.mkdir(parents=True, exist_ok=True)
        make_bridge(layout)
        if not control_plane_only:
            start_s3(weed=tools.wheel_program(tools.WEED), layout=layout)
        start_control_plane(binary=binary, layout=layout)
        if control_plane_only:
            return True
        start_node(binary=binary, coredns=tools.go_program(tools.COREDNS), layout=layout)
        wait_for_s3(layout)
    return True


def up_s3(layout: Layout) -> None:
    """Bring S3 up alone."""
    with only_one("lab"):
        weed = tools.wheel_program(tools.WEED)
        layout.state.mkdir(parents=True, exist_ok=True)
        make_bridge(layout)
        start_s3(weed=weed, layout=layout)
        wait_for_s3(layout)


def down(layout: Layout) -> bool:
    """Stop all that the lab started and remove all that it made; return whether there was any."""
    with only_one("lab"):
        if not layout.state.exists():
            return False
        _check_ours(layout)
        record = load_record(layout.record)
        # The kubelet first: it would start again what is stopped here.
        kubelet = [process for process in record.processes if process.name == "kubelet"]
        with step("stops the kubelet and its containers"):
            stop(kubelet)
            if record.process("containerd") is not None:
                # Containers outlive a containerd that died; only a containerd can end them.
                start_containerd(layout)
                remove_containers(layout)
        with step("stops the other processes"):
            stop(load_record(layout.record).processes)
        with step("removes mounts, links, rules and files"):
            undo_network(layout)
            remove_leftovers(layout)
            shutil.rmtree(layout.state)
    return True


def check_health(layout: Layout) -> Health:
    """Look at what of the lab works."""
    if not layout.record.exists():
        return Health(control_plane=False, node=False, s3=False)
    alive = {name: running(name, layout=layout) for name in (*CONTROL_PLANE, *NODE, S3)}
    control_plane = all(alive[name] for name in CONTROL_PLANE) and is_api_ready(layout)
    node = control_plane and all(alive[name] for name in NODE) and is_node_ready(layout)
    return Health(control_plane=control_plane, node=node, s3=alive[S3] and is_serving())


def describe(layout: Layout) -> str:
    """Return the lab's state for a person to read."""
    record = load_record(layout.record)
    health = check_health(layout)
    lines = [f"state folder   {layout.state}"]
    for part, works in vars(health).items():
        lines.append(f"{part.replace('_', ' '):<14} {'works' if works else 'down'}")
    for process in record.processes:
        state = "running" if running(process.name, layout=layout) else "dead"
        lines.append(f"{process.name:<19} pid {process.pid:<8} {state}")
    return "\n".join(lines)


def environment(layout: Layout) -> dict[str, str]:
    """Return the variables with which programs on this host find the lab."""
    if not layout.kubeconfig.exists() and not layout.s3_identities.exists():
        raise LabError("the lab is down; run `python -m tests.cluster up`")
    variables = {
        "LAB_STATE": str(layout.state),
        "LAB_NODE": NODE_NAME,
        "KUBECONFIG": str(layout.kubeconfig),
        "LAB_AUDIT_LOG": str(layout.audit_log),
        "LAB_VOLUMES": str(layout.volumes),
    }
    if layout.s3_identities.exists():
        admin = load_keys("admin", layout=layout)
        reader = load_keys("reader", layout=layout)
        variables |= {
            "LAB_S3_ENDPOINT": ENDPOINT,
            "LAB_S3_POD_ENDPOINT": ENDPOINT,
            "LAB_S3_READER_ACCESS_KEY_ID": reader.access_key,
            "LAB_S3_READER_SECRET_ACCESS_KEY": reader.secret_key,
            "AWS_ENDPOINT_URL_S3": ENDPOINT,
            "AWS_ACCESS_KEY_ID": admin.access_key,
            "AWS_SECRET_ACCESS_KEY": admin.secret_key,
            "AWS_DEFAULT_REGION": S3_REGION,
        }
    return variables


def build_exports(variables: dict[str, str], *, command_folders: list[Path]) -> str:
    """Return the variables as shell exports, with the lab's commands before the machine's on PATH."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    folders = ":".join(shlex.quote(str(folder)) for folder in command_folders)
    lines.append(f'export PATH={folders}:"$PATH"')
    return "\n".join(lines)


def _check_ours(layout: Layout) -> None:
    # A folder of other content would be deleted by `down`.
    if layout.state.exists() and any(layout.state.iterdir()) and not layout.record.exists():
        raise LabError(f"{layout.state} holds files of something else; choose another LAB_STATE")
