"""Mounts below the lab's folders: found in /proc/mounts and unmounted, innermost first."""

from collections.abc import Iterable
from pathlib import Path

from tests.cluster.steps import run

MOUNTS = Path("/proc/self/mounts")


def parse_mounts(text: str, *, below: str) -> list[str]:
    r"""Return the mount points at or below a folder, last mounted first.

    NB: the kernel writes a space in a path as \040.
    """
    points = [line.split()[1].replace("\\040", " ") for line in text.splitlines()]
    return [point for point in reversed(points) if is_within(point, [below])]


def is_within(path: str, folders: Iterable[str]) -> bool:
    """Tell whether a path is one of the folders or lies below one."""
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def unmount_below(folder: Path) -> None:
    """Unmount everything at or below a folder."""
    for point in parse_mounts(MOUNTS.read_text(), below=str(folder)):
        run(["umount", point])


def unmount(path: str) -> None:
    """Unmount everything at or below one path. NB: /var/run is a link to /run; the kernel tells of /run."""
    unmount_below(Path(path).resolve())
