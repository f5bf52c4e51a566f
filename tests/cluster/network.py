"""The bridge of the pods and the kernel settings that it needs; made and undone by what was recorded."""

import json
from dataclasses import replace
from pathlib import Path

from tests.cluster.layout import BRIDGE, NODE_ADDRESS, NODE_PREFIX, Layout
from tests.cluster.record import Record, load_record, save_record
from tests.cluster.steps import LabError, run

FORWARDING = "net.ipv4.ip_forward"
"""A pod's packet to a Service goes to the host and back to another pod: the host must forward it."""

PROXY_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))
"""The nftables tables of kube-proxy, which leaves them when it ends."""


def make_bridge(layout: Layout) -> None:
    """Make the bridge with the node's address, unless the lab has made it already."""
    record = load_record(layout.record)
    if has_link(BRIDGE):
        if BRIDGE not in record.links:
            raise LabError(
                f"network link {BRIDGE} exists and this lab ({layout.state}) did not make it: "
                "another lab runs with another LAB_STATE, or one was lost; "
                f"stop it, or `ip link delete {BRIDGE}`"
            )
        return
    save_record(record.with_link(BRIDGE), layout.record)
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "address", "add", f"{NODE_ADDRESS}/{NODE_PREFIX}", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])


def allow_forwarding(layout: Layout) -> None:
    """Let the kernel forward packets, keeping what the setting was."""
    setting = _sysctl_file(FORWARDING)
    before = setting.read_text().strip()
    if before == "1":
        return
    save_record(load_record(layout.record).with_sysctl(FORWARDING, before=before), layout.record)
    setting.write_text("1")


def undo_network(layout: Layout) -> None:
    """Remove the links and rules that the lab made and restore the settings that it changed."""
    record = load_record(layout.record)
    for link in record.links:
        if has_link(link):
            run(["ip", "link", "delete", link])
    for name, before in record.sysctls.items():
        _sysctl_file(name).write_text(before)
    if record.process("proxy") is not None:
        _remove_proxy_tables()
    save_record(_without_network(record), layout.record)


def has_link(name: str) -> bool:
    """Tell whether this machine has a network link of that name."""
    return Path("/sys/class/net", name).exists()


def _remove_proxy_tables() -> None:
    listing = json.loads(run(["nft", "--json", "list", "tables"]))
    tables = [entry["table"] for entry in listing["nftables"] if "table" in entry]
    present = {(table["family"], table["name"]) for table in tables}
    for family, name in PROXY_TABLES:
        if (family, name) in present:
            run(["nft", "delete", "table", family, name])


def _without_network(record: Record) -> Record:
    return replace(record, links=(), sysctls={})


def _sysctl_file(name: str) -> Path:
    return Path("/proc/sys", *name.split("."))
