"""Ending the node's containers without a kubelet: tasks, containers, their network namespaces.

Only the lab's own containerd is asked, so every container that it names is the lab's.
"""

import json
from pathlib import Path

from tests.cluster.layout import Layout
from tests.cluster.mounts import unmount
from tests.cluster.static_images import ctr
from tests.cluster.steps import LabError, run, wait_until

STOP_TIMEOUT_S = 30


def remove_containers(layout: Layout) -> None:
    """Kill every container of the node and remove it with its network namespace."""
    client = ctr(layout)
    containers = run([*client, "containers", "list", "--quiet"]).split()
    infos = [run([*client, "containers", "info", container]) for container in containers]
    namespaces = {path for info in infos if (path := parse_network_namespace(info))}
    for container in run([*client, "tasks", "list", "--quiet"]).split():
        _run_unless_gone([*client, "tasks", "kill", "--signal", "SIGKILL", "--all", container])
    wait_until(
        lambda: not _running_tasks(client), what="containers to end", timeout_s=STOP_TIMEOUT_S
    )
    for container in run([*client, "tasks", "list", "--quiet"]).split():
        _run_unless_gone([*client, "tasks", "delete", "--force", container])
    for container in containers:
        _run_unless_gone([*client, "containers", "delete", container])
    for namespace in namespaces:
        # The pod's network link goes with its namespace.
        unmount(namespace)
        Path(namespace).unlink(missing_ok=True)


def parse_network_namespace(info: str) -> str | None:
    """Return the path of the network namespace that `ctr containers info` tells of, if it has one."""
    namespaces = json.loads(info)["Spec"]["linux"]["namespaces"]
    paths = [entry.get("path") for entry in namespaces if entry["type"] == "network"]
    # A container of a sandbox names /proc/PID/ns/net; the sandbox itself names the mount.
    return next((path for path in paths if path and "/netns/" in path), None)


def parse_running_tasks(listing: str) -> list[str]:
    """Return the containers that `ctr tasks list` shows as not yet stopped."""
    rows = [line.split() for line in listing.splitlines()[1:]]
    return [row[0] for row in rows if row and row[-1] != "STOPPED"]


def _running_tasks(client: list[str]) -> list[str]:
    return parse_running_tasks(run([*client, "tasks", "list"]))


def _run_unless_gone(command: list[str]) -> None:
    """Run what needs its container to be there: each may have ended, and its shim have cleaned up."""
    try:
        run(command)
    except LabError as error:
        if "not found" not in str(error) and "already finished" not in str(error):
            raise
