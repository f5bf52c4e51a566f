"""Building images with buildah and giving them to the node; the image store is kept in the cache.

No registry is reachable: the base image is made of Debian packages, and the Dockerfiles take it as the
build argument BASE_IMAGE, so that elsewhere the very same files stand on a public image. What has been
built from the same inputs already is not built again.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import tools
from tests.cluster.dockerfile import copied_sources
from tests.cluster.layout import BASE_IMAGE, IMAGE_PREFIX, Layout, cache_folder
from tests.cluster.static_images import ctr, node_images, pipe
from tests.cluster.steps import LabError, only_one, run, step

INPUTS_LABEL = "language-finetune.inputs"
"""The image label that holds the hash of what an image was built from."""

BASE_PACKAGES = (
    "ca-certificates",
    "libgomp1",  # torch's CPU kernels
    "python3",
    "python3-venv",
)
DEBIAN_RELEASE = "bookworm"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""As in the public Python images, so that the same Dockerfile finds the same commands."""

STRIPPED = (
    "usr/share/doc/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "var/cache/apt/*",
    "var/cache/debconf/*-old",
    "var/lib/apt/lists/*",
    "var/log/*.log",
)
"""What no container reads: half of the base image's files."""

IGNORED_FOLDERS = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
BIG_LAYER = 100 * 1024**2
"""Bytes. The trainer's dependencies are one layer of 6.6 GB, which the node need not keep twice."""
CERTIFICATES = Path("/etc/ssl/certs")


@dataclass(frozen=True)
class Build:
    """What to build."""

    name: str
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    """The stage to stop at; the last one when empty."""


def full_name(name: str) -> str:
    """Return an image's whole name: short ones live under the project's prefix, with tag `dev`."""
    if "/" not in name:
        name = f"{IMAGE_PREFIX}/{name}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:dev"


def parse_arguments(given: Iterable[str]) -> dict[str, str]:
    """Return build arguments written NAME=VALUE as a mapping."""
    pairs = [argument.partition("=") for argument in given]
    for name, equals, _ in pairs:
        if not equals:
            raise LabError(f"build argument {name} has no value; write {name}=VALUE")
    return {name: value for name, _, value in pairs}


def build_base() -> str:
    """Make the base image of Debian packages by debootstrap, unless it is there."""
    inputs = _hash([DEBIAN_RELEASE, SEARCH_PATH, *BASE_PACKAGES, *STRIPPED])
    with only_one("images"):
        tools.install_packages(tools.IMAGE_PACKAGES)
        if image_inputs(BASE_IMAGE) == inputs:
            return BASE_IMAGE
        with step("makes the base image by debootstrap (about a minute)"):
            container = buildah("from", "scratch").strip()
            try:
                _fill_base(container)
                config = (f"--env=PATH={SEARCH_PATH}", f"--label={INPUTS_LABEL}={inputs}")
                buildah("config", *config, "--cmd=/bin/sh", container)
                buildah("commit", "--quiet", container, BASE_IMAGE)
            finally:
                buildah("rm", container)
    return BASE_IMAGE


def build_image(build: Build) -> str:
    """Build an image from a Dockerfile unless one of the same inputs is there; return its name."""
    build_base()
    name = full_name(build.name)
    inputs = hash_inputs(build, base=image_id(BASE_IMAGE))
    with only_one("images"):
        if image_inputs(name) == inputs:
            return name
        with step(f"builds {name} from {build.dockerfile}"):
            arguments = {"BASE_IMAGE": BASE_IMAGE, **build.arguments}
            options = [f"--build-arg={key}={value}" for key, value in arguments.items()]
            options += [f"--volume={volume}" for volume in _build_volumes()]
            options += [f"--target={build.target}"] if build.target else []
            options += [f"--label={INPUTS_LABEL}={inputs}", f"--file={build.dockerfile}"]
            # Layers: dependencies stand in one of their own, and only the code's is built again.
            fixed = ("--isolation=chroot", "--layers", "--force-rm", "--pull-never")
            before = image_id(name)
            buildah("build", *fixed, *options, f"--tag={name}", str(build.context))
            _forget_replaced(before, name=name)
    return name


def prune() -> None:
    """Remove what no image name leads to, layers kept for the next build included; frees the most disk."""
    with only_one("images"):
        buildah("rm", "--all")
        buildah("rmi", "--prune", "--force")


def load_image(name: str, *, layout: Layout) -> str:
    """Give an image to the node through a pipe, unless the node has this very one; return its name."""
    name = full_name(name)
    identity = image_id(name)
    if not identity:
        raise LabError(f"there is no image {name}; build it with `build-image` first")
    marker = layout.state / "loaded" / hashlib.sha256(name.encode()).hexdigest()[:12]
    known = marker.read_text() if marker.exists() else ""
    if known == identity and name in node_images(layout):
        return name
    with only_one("images"), step(f"gives {name} to the node"):
        giver = [*_buildah_command(), "push", "--quiet", name, f"docker-archive:/dev/stdout:{name}"]
        given, taken, said = pipe(giver, [*ctr(layout), "images", "import", "-"])
        if given or taken:
            raise LabError(f"{name} did not reach the node:\n{said[-2000:]}")
        _discard_packed_layers(layout)
    marker.parent.mkdir(exist_ok=True)
    marker.write_text(identity)
    return name


def _discard_packed_layers(layout: Layout) -> None:
    """Delete big layers from the node's content store: containers run on what was unpacked of them."""
    blobs = layout.state / "containerd" / "io.containerd.content.v1.content" / "blobs" / "sha256"
    digests = [f"sha256:{blob.name}" for blob in blobs.iterdir() if blob.stat().st_size > BIG_LAYER]
    if digests:
        run([*ctr(layout), "content", "rm", *digests])


def list_images(layout: Layout) -> list[str]:
    """Return the names of the images on the node, without those that are names of a digest."""
    return sorted(name for name in node_images(layout) if not name.startswith("sha256:"))


def image_id(name: str) -> str:
    """Return the id of an image in the store; empty when there is none."""
    return _inspect(name, "{{.FromImageID}}")


def image_inputs(name: str) -> str:
    """Return the hash of what an image in the store was built from; empty when there is none."""
    return _inspect(name, f'{{{{index .OCIv1.Config.Labels "{INPUTS_LABEL}"}}}}')


def hash_inputs(build: Build, *, base: str) -> str:
    """Return the hash of all that decides what a build gives."""
    text = build.dockerfile.read_text()
    parts = [base, text, build.target, *(f"{k}={v}" for k, v in sorted(build.arguments.items()))]
    for path in sorted(_context_files(build.context, sources=copied_sources(text))):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        parts.append(f"{path.relative_to(build.context)} {path.stat().st_mode:o} {content}")
    return _hash(parts)


def buildah(*arguments: str) -> str:
    """Run buildah on the project's own image store and return what it printed."""
    return run([*_buildah_command(), *arguments])


def _buildah_command() -> list[str]:
    store = cache_folder() / "images"
    places = ["--root", str(store / "storage"), "--runroot", str(store / "run")]
    return ["buildah", *places, "--storage-driver", "overlay"]


def _inspect(name: str, template: str) -> str:
    try:
        said = buildah("inspect", "--type=image", f"--format={template}", name).strip()
    except LabError:
        return ""
    return said.removeprefix("<no value>")


def _forget_replaced(before: str, *, name: str) -> None:
    # `rmi --prune` would also take the builder stage, whose layer of dependencies the next build needs.
    if before and before != image_id(name):
        buildah("rmi", "--force", before)


def _fill_base(container: str) -> None:
    root = Path(buildah("mount", container).strip())
    include = f"--include={','.join(BASE_PACKAGES)}"
    run(["debootstrap", "--variant=minbase", include, DEBIAN_RELEASE, root])
    for pattern in STRIPPED:
        run(["rm", "-rf", "--", *root.glob(pattern)])
    buildah("umount", container)


def _build_volumes() -> Iterator[str]:
    """Yield what a build sees of the host and the image does not keep: certificates, package caches."""
    if CERTIFICATES.is_dir():
        # The machine may reach its package index only under a certificate of its own.
        yield f"{CERTIFICATES}:{CERTIFICATES}:ro"
    settings = cache_folder() / "images" / "settings"
    for file, content in _client_settings().items():
        path = settings / file.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        yield f"{path}:{file}:ro"
    for client in ("uv", "pip"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / client
        cache.mkdir(parents=True, exist_ok=True)
        yield f"{cache}:/root/.cache/{client}"


def _client_settings() -> dict[str, str]:
    """Return settings files that make pip and uv in a build trust and ask what the host's do."""
    bundle = CERTIFICATES / "ca-certificates.crt"
    index = os.environ.get("PIP_INDEX_URL", "")
    pip = f"[global]\ncert = {bundle}\n" + (f"index-url = {index}\n" if index else "")
    uv = "native-tls = true\n" + (f'index-url = "{index}"\n' if index else "")
    return {"/etc/pip.conf": pip, "/etc/uv/uv.toml": uv}


def _context_files(context: Path, *, sources: Iterable[str]) -> Iterator[Path]:
    for source in sources:
        for path in context.glob(source.strip("/") or "."):
            if path.is_file():
                yield path
            else:
                yield from _files_below(path)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in IGNORED_FOLDERS]
        yield from (Path(parent, name) for name in files if Path(parent, name).is_file())


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
