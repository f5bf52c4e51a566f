"""The comparison of two ranks with one, on CPUs."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow]
pytest.importorskip("torch")


def test_two_ranks_lose_what_one_loses(tmp_path):
    answer = tmp_path / "answer.json"
    command = [sys.executable, "-m", "tests.bench.gpu.ranks", "cpu", str(answer)]
    subprocess.run(command, check=True, timeout=300)
    alone, same, larger = json.loads(answer.read_text())["rows"]
    assert same["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    assert (alone["gpus"], same["gpus"], larger["gpus"]) == (1, 2, 2)
    assert larger["documents_a_step"] == 2 * alone["documents_a_step"]
