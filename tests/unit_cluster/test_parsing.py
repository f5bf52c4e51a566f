"""What the lab reads of mounts, containers, S3 identities and shell exports."""

import json
from pathlib import Path

import pytest

from tests.cluster.containers import parse_network_namespace, parse_running_tasks
from tests.cluster.credentials import USERS, build_kubeconfig, build_token_file
from tests.cluster.lab import build_exports
from tests.cluster.mounts import parse_mounts
from tests.cluster.s3 import Keys, build_identities, has_free_volume, parse_identities

MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /lab/a tmpfs rw 0 0
tmpfs /lab/a/b\\040c tmpfs rw 0 0
tmpfs /laboratory tmpfs rw 0 0
"""


def test_inner_mounts_come_first_and_neighbours_never() -> None:
    assert parse_mounts(MOUNTS, below="/lab") == ["/lab/a/b c", "/lab/a"]


def test_network_namespace_is_that_of_the_sandbox() -> None:
    sandbox = [{"type": "pid"}, {"type": "network", "path": "/var/run/netns/cni-1"}]
    info = json.dumps({"Spec": {"linux": {"namespaces": sandbox}}})
    assert parse_network_namespace(info) == "/var/run/netns/cni-1"


def test_container_in_a_sandbox_has_no_namespace_of_its_own() -> None:
    joined = [{"type": "network", "path": "/proc/12/ns/net"}]
    info = json.dumps({"Spec": {"linux": {"namespaces": joined}}})
    assert parse_network_namespace(info) is None


def test_stopped_tasks_are_not_awaited() -> None:
    listing = "TASK  PID  STATUS\na  12  RUNNING\nb  13  STOPPED\n"
    assert parse_running_tasks(listing) == ["a"]


def test_identities_are_read_as_written() -> None:
    admin, reader = Keys("a", "1"), Keys("r", "2")
    text = json.dumps(build_identities(admin=admin, reader=reader))
    assert parse_identities(text) == {"admin": admin, "reader": reader}


def test_reader_may_not_write() -> None:
    identities = build_identities(admin=Keys("a", "1"), reader=Keys("r", "2"))
    actions = {one["name"]: one["actions"] for one in identities["identities"]}  # type: ignore[attr-defined]
    assert actions["reader"] == ["Read", "List"]


@pytest.mark.parametrize(
    ("status", "has_room"),
    [
        pytest.param("{}", False, id="master not there yet"),
        pytest.param('{"Topology": {"Max": 0, "Free": 0}}', False, id="no volume server yet"),
        pytest.param('{"Topology": {"Max": 9, "Free": 9}}', True, id="volume server with room"),
        pytest.param('{"Topology": {"Free": 0, "Layouts": [{}]}}', True, id="volumes in use"),
    ],
)
def test_s3_needs_a_disk_behind_the_gateway(status: str, has_room: bool) -> None:
    assert has_free_volume(status) is has_room


def test_token_file_names_the_node_as_the_node_authorizer_expects() -> None:
    assert 'token,system:node:lab,kubelet,"system:nodes"' in build_token_file({"kubelet": "token"})


def test_every_user_has_a_line_in_the_token_file() -> None:
    tokens = dict.fromkeys(USERS, "t")
    assert len(build_token_file(tokens).splitlines()) == len(USERS)


def test_kubeconfig_stands_alone() -> None:
    config = json.loads(build_kubeconfig(user="admin", token="t", certificate=b"ca"))
    cluster = config["clusters"][0]["cluster"]
    assert cluster["certificate-authority-data"] == "Y2E="


def test_exports_are_quoted_and_put_the_labs_commands_first() -> None:
    exports = build_exports({"A": "b c"}, command_folders=[Path("/k/bin"), Path("/h")])
    assert exports == "export A='b c'\nexport PATH=/k/bin:/h:\"$PATH\""
