"""What components leave outside the lab's state folder when they end, and how it is removed."""

import shutil
from pathlib import Path

from tests.cluster.layout import Layout
from tests.cluster.mounts import unmount_below
from tests.cluster.record import load_record

CGROUPS = Path("/sys/fs/cgroup")
KUBELET_CGROUP = "kubepods"
CONTAINER_LOG_LINKS = Path("/var/log/containers")
NETWORK_RESULTS = Path("/var/lib/cni/results")


def remove_leftovers(layout: Layout) -> None:
    """Unmount what is below the state folder; remove cgroups, log links and folders of the lab's."""
    unmount_below(layout.state)
    _remove_cgroups()
    _remove_log_links(layout)
    for result in NETWORK_RESULTS.glob("lab-*"):
        result.unlink()
    for folder in load_record(layout.record).folders:
        unmount_below(Path(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _remove_cgroups() -> None:
    # One tree for all controllers with cgroup v2, one for each with v1.
    for tree in [CGROUPS / KUBELET_CGROUP, *CGROUPS.glob(f"*/{KUBELET_CGROUP}")]:
        if tree.is_dir():
            folders = [folder for folder in tree.rglob("*") if folder.is_dir()]
            # Innermost first: a cgroup folder is removed when it has no children, files or not.
            for folder in [*sorted(folders, key=_depth, reverse=True), tree]:
                folder.rmdir()


def _depth(folder: Path) -> int:
    return len(folder.parts)


def _remove_log_links(layout: Layout) -> None:
    if not CONTAINER_LOG_LINKS.is_dir():
        return
    for link in CONTAINER_LOG_LINKS.iterdir():
        if link.is_symlink() and str(link.readlink()).startswith(f"{layout.state}/"):
            link.unlink()
