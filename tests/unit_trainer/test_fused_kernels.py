"""The Triton kernels, interpreted in a process of their own: see `interpreted_kernels`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch
pytest.importorskip("triton")

TESTS = Path(__file__).with_name("interpreted_kernels.py")


def test_every_kernel_agrees_with_its_reference() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=TESTS.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "24 passed" in done.stdout
