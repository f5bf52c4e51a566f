"""The whole GPU suite once without a GPU: three engines, real processes, a real S3, a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow]
pytest.importorskip("torch")

COMMAND = Path(__file__).with_name("run.py")


def test_three_engines_learn_the_same_from_the_same_documents(tmp_path: Path) -> None:
    command = [sys.executable, str(COMMAND), "--suite", "dry"]
    command += ["--out", str(tmp_path / "out"), "--scratch", str(tmp_path / "scratch")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = found["rows"]
    assert [row["engine"] for row in rows] == ["trl", "unsloth", "language-finetune"]
    assert {row["void"] for row in rows} == {""}
    for row in rows[1:]:
        assert row["losses"] == pytest.approx(rows[0]["losses"], abs=2e-4)
    assert {row["tokens_a_step"] for row in rows} == {rows[0]["tokens_a_step"]}
    assert found["card"] == "CPU"
    assert found["reload"]["apart"] < 1e-5
    assert [point["tokens"] for point in found["memory"]["points"]] == [128, 256, 512]
    for engine, reported in found["numerics"]["engines"].items():
        assert reported["engine"] == engine
        assert reported["against_fp32"]["gradients"] < 1e-5
    assert [reported["engine"] for reported in found["gemma"]["speed"]] == ["fused", "unsloth"]
    assert found["gemma"]["numerics"]["engines"]["fused"]["against_fp32"]["gradients"] < 1e-5
    assert not (tmp_path / "scratch").exists()
