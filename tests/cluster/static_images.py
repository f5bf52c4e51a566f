"""The pause and busybox images, made of Debian's static busybox with no builder: a node needs them to start.

No registry is reachable, so the archive that `docker save` would give is put together here and handed to
containerd through a pipe.
"""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.cluster.layout import BUSYBOX_IMAGE, KUBERNETES_NAMESPACE, PAUSE_IMAGE, Layout
from tests.cluster.steps import LabError, run

BUSYBOX = Path("/bin/busybox")
UNPRIVILEGED_USER = "65532:65532"


def load_static_images(layout: Layout) -> None:
    """Give the node the pause and busybox images, unless it has them."""
    present = node_images(layout)
    if {PAUSE_IMAGE, BUSYBOX_IMAGE} <= present:
        return
    applets = run([BUSYBOX, "--list"]).split()
    layer = build_layer(program=BUSYBOX.read_bytes(), applets=applets)
    archive = build_archive(layer=layer, names=[PAUSE_IMAGE, BUSYBOX_IMAGE])
    run([*ctr(layout), "images", "import", "-"], given=archive)


def is_containerd_serving(layout: Layout) -> bool:
    """Tell whether containerd answers; its socket alone may be that of a dead one."""
    try:
        run([*ctr(layout), "version"])
    except LabError:
        return False
    return True


def node_images(layout: Layout) -> set[str]:
    """Return the names of the images that the node has."""
    return set(run([*ctr(layout), "images", "list", "--quiet"]).split())


def ctr(layout: Layout) -> list[str]:
    """Return the containerd client's command for the kubelet's images and containers."""
    return ["ctr", "--address", str(layout.containerd_socket), "--namespace", KUBERNETES_NAMESPACE]


def build_layer(*, program: bytes, applets: Iterable[str]) -> bytes:
    """Return an uncompressed tar with busybox, its commands as links to it, and the folders of a system."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        for folder in ("bin", "etc", "tmp", "work"):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder == "tmp" else 0o755
            layer.addfile(entry)
        binary = tarfile.TarInfo("bin/busybox")
        binary.mode, binary.size = 0o755, len(program)
        layer.addfile(binary, io.BytesIO(program))
        for applet in applets:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            if applet != "busybox":
                layer.addfile(link)
    return content.getvalue()


def build_archive(*, layer: bytes, names: list[str]) -> bytes:
    """Return a docker archive of one image of one layer, under several names."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Cmd": ["/bin/sleep", "infinity"],
            "Env": ["PATH=/bin"],
            "User": UNPRIVILEGED_USER,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": names, "Layers": ["layer.tar"]}]
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        _add(archive, "layer.tar", layer)
        _add(archive, "config.json", json.dumps(config).encode())
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    return content.getvalue()


def pipe(source: list[str], sink: list[str]) -> tuple[int, int, str]:
    """Run two commands with a pipe between them; return their exit codes and what they complained of."""
    with subprocess.Popen(source, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as giver:
        taken = subprocess.run(sink, stdin=giver.stdout, capture_output=True, check=False)
        # Without our end closed, a giver whose taker died would wait for ever to be read.
        if giver.stdout is not None:
            giver.stdout.close()
        complaint = giver.stderr.read() if giver.stderr is not None else b""
    said = (complaint + taken.stderr).decode(errors="replace")
    return giver.returncode, taken.returncode, said


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
