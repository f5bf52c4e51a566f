"""Which tools are missing and under which key built ones are kept."""

from pathlib import Path

import pytest

from tests.cluster.steps import LabError
from tests.cluster.tools import (
    KUBERNETES_SOURCE,
    kubernetes_version,
    link_flags,
    missing_packages,
    sources_key,
)


def test_package_is_missing_unless_dpkg_says_installed() -> None:
    status = "runc installed\nbuildah config-files\n"
    wanted = ("runc", "buildah", "nftables")
    assert missing_packages(wanted, status=status) == ["buildah", "nftables"]


def test_key_changes_with_content_and_not_with_order(tmp_path: Path) -> None:
    one, two = tmp_path / "go.mod", tmp_path / "main.go"
    one.write_text("module x")
    two.write_text("package main")
    before = sources_key([one, two])
    assert sources_key([two, one]) == before
    two.write_text("package other")
    assert sources_key([one, two]) != before


def test_version_is_the_one_that_the_module_requires() -> None:
    version = kubernetes_version((KUBERNETES_SOURCE / "go.mod").read_text())
    assert version.startswith("v1.")


def test_module_without_kubernetes_is_refused() -> None:
    with pytest.raises(LabError, match="does not require"):
        kubernetes_version("module x\n")


def test_api_server_is_told_its_version() -> None:
    assert link_flags("v1.37.2").split() == [
        "-s",
        "-w",
        "-X=k8s.io/component-base/version.gitVersion=v1.37.2",
        "-X=k8s.io/component-base/version.gitMajor=1",
        "-X=k8s.io/component-base/version.gitMinor=37",
    ]
