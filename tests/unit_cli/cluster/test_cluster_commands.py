"""Commands for a cluster, against a kubectl that answers from a folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.cluster import following
from finetune_cli.cluster.commands import parse_duration
from finetune_cli.errors import CliError

RUNNER = CliRunner()
KUBECTL = """#!/bin/sh
printf '%s\\n' "$*" >> {folder}/calls
case " $* " in
*" get "*)
  count=$(grep -c " get \\|^get " {folder}/calls)
  file={folder}/answer-$count.json
  [ -e $file ] || file={folder}/answer.json
  [ -e $file ] || {{ cat {folder}/error >&2; exit 1; }}
  cat $file;;
*) echo "languagefinetune.langops.dev/swahili changed";;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL.format(folder=tmp_path), "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(following, "INTERVAL_S", 0.0)
    return tmp_path


@pytest.fixture
def answer(folder: Path) -> Callable[..., None]:
    def write(*, call: int = 0, generation: int = 1, observed: int = 1, **status: Any) -> None:
        body = {
            "metadata": {"name": "swahili", "namespace": "team", "generation": generation},
            "status": {"observedGeneration": observed, **status},
        }
        name = f"answer-{call}.json" if call else "answer.json"
        (folder / name).write_text(json.dumps(body), "utf-8")

    return write


def condition(kind: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": "True",
        "reason": "Why",
        "message": "Text.",
        "lastTransitionTime": "2026-12-01T00:00:00Z",
    }


@pytest.mark.parametrize(("kind", "code"), [("Complete", 0), ("Failed", 1)])
def test_wait_ends_at_either_end_with_its_exit_code(
    answer: Callable[..., None], kind: str, code: int
) -> None:
    answer(call=1, phase="Running")
    answer(phase=kind, message="The reason.", conditions=[condition(kind)])
    result = RUNNER.invoke(app, ["wait", "swahili"])
    assert result.exit_code == code
    assert f"{kind}: The reason." in (result.stderr if code else result.stdout)


def test_the_end_of_an_older_generation_is_no_end(answer: Callable[..., None]) -> None:
    answer(generation=2, observed=1, phase="Complete", conditions=[condition("Complete")])
    result = RUNNER.invoke(app, ["wait", "swahili", "--timeout", "0s"])
    assert result.exit_code == 124
    assert result.stderr.startswith("swahili has not ended within 0s")


def test_an_api_server_that_does_not_answer_is_asked_again(
    folder: Path, answer: Callable[..., None]
) -> None:
    (folder / "error").write_text("Unable to connect to the server: timeout\n", "utf-8")
    answer(call=2, phase="Complete", conditions=[condition("Complete")])
    result = RUNNER.invoke(app, ["watch", "swahili"])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "kubectl cannot ask, and tries again: Unable to connect to the server: timeout",
        "Complete",
    ]


def test_a_resource_that_is_not_there_ends_the_wait(folder: Path) -> None:
    line = 'Error from server (NotFound): languagefinetunes.langops.dev "swahili" not found'
    (folder / "error").write_text(line, "utf-8")
    result = RUNNER.invoke(app, ["wait", "swahili"])
    assert (result.exit_code, result.stderr.strip()) == (2, line)


def test_watch_prints_each_line_once(answer: Callable[..., None]) -> None:
    moving = {"stage": "Train", "step": 3, "totalSteps": 20, "loss": "3.1", "etaSeconds": 90}
    answer(call=1, phase="Running", progress=moving)
    answer(call=2, phase="Running", progress=moving)
    answer(phase="Failed", message="No memory.", conditions=[condition("Failed")])
    result = RUNNER.invoke(app, ["watch", "swahili"])
    assert result.stdout.splitlines() == [
        "Running, Train, step 3 of 20, loss 3.1, 1m left",
        "Failed: No memory.",
    ]


def test_status_shows_gain_adapter_and_warnings(answer: Callable[..., None]) -> None:
    answer(
        phase="Complete",
        message="Published.",
        evaluation=[
            {
                "tag": "*",
                "baseLoss": "3.40",
                "adapterLoss": "3.05",
                "baseBitsPerByte": "3.03",
                "adapterBitsPerByte": "2.72",
                "examples": 15,
            }
        ],
        output={"uri": "s3://a/b/", "manifestSha256": "0", "sizeBytes": 1, "files": 1},
        warnings=[{"id": "w", "parameter": "rank", "severity": "warn", "message": "Too low."}],
    )
    assert RUNNER.invoke(app, ["status", "swahili"]).stdout.splitlines() == [
        "team/swahili  Complete: Published.",
        (
            "  held-out loss 3.40 → 3.05 nats per token, 3.03 → 2.72 bits per byte, on 15 examples "
            "(lower is better)"
        ),
        "  adapter       s3://a/b/",
        "  warn  rank: Too low.",
    ]
    assert json.loads(RUNNER.invoke(app, ["status", "swahili", "-o", "json"]).stdout)["phase"]


@pytest.mark.parametrize(("command", "value"), [("suspend", "true"), ("resume", "false")])
def test_suspend_and_resume_patch_the_spec(folder: Path, command: str, value: str) -> None:
    assert RUNNER.invoke(app, [command, "swahili", "-n", "team"]).exit_code == 0
    call = (folder / "calls").read_text("utf-8")
    assert call.startswith("-n team patch languagefinetunes.langops.dev swahili --type=merge")
    assert f'{{"spec": {{"suspend": {value}}}}}' in call


def test_logs_are_of_the_newest_job(folder: Path, answer: Callable[..., None]) -> None:
    answer(attempts=[{"jobName": "one", "uid": "1"}, {"jobName": "two", "uid": "2"}])
    assert RUNNER.invoke(app, ["logs", "swahili", "-f"]).exit_code == 0
    assert (folder / "calls").read_text("utf-8").splitlines()[-1] == "logs job/two -c trainer -f"


def test_logs_say_why_there_are_none(answer: Callable[..., None]) -> None:
    answer(phase="Pending", message="It waits for a queue.")
    result = RUNNER.invoke(app, ["logs", "swahili"])
    assert result.exit_code == 2
    assert "has no training pod yet: Pending: It waits for a queue." in result.stderr


def test_submit_applies_nothing_that_is_invalid(
    folder: Path, resource: Callable[..., Path]
) -> None:
    wrong = resource(output={"uri": "nowhere"})
    assert RUNNER.invoke(app, ["submit", "-f", str(wrong)]).exit_code == 2
    assert not (folder / "calls").exists()
    assert RUNNER.invoke(app, ["submit", "-f", str(resource())]).exit_code == 0
    assert (folder / "calls").read_text("utf-8").startswith("apply -f ")


@pytest.mark.parametrize(
    ("text", "seconds"), [("", None), ("90s", 90), ("1h30m", 5400), ("2d", 172800)]
)
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["6", "h", "1.5h", "-3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(CliError, match="is no duration"):
        parse_duration(text)


def test_version() -> None:
    assert RUNNER.invoke(app, ["--version"]).stdout.startswith("kubectl finetune ")
