"""The Triton kernels, interpreted and compiled, each in a process of its own.

See `interpreted_kernels` for what they compute and `compiled_kernels` for whether a GPU could run them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch
pytest.importorskip("triton")

HERE = Path(__file__).parent


def run_tests(module: str, *, interpret: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / module)],
        env=os.environ | {"TRITON_INTERPRET": interpret},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_every_kernel_agrees_with_its_reference() -> None:
    assert "24 passed" in run_tests("interpreted_kernels.py", interpret="1")


def test_kernels_compile_for_a_gpu_that_is_not_there() -> None:
    assert "7 passed" in run_tests("compiled_kernels.py", interpret="0")
