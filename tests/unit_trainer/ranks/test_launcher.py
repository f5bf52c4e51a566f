"""The launcher of several ranks: how many, with which GPU, and what is said when one ends."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, cast

import pytest

from finetune_api.outcome import Outcome, Stage
from finetune_trainer.errors import OutOfGpuMemory, PlanInvalid, RankLost, TrainerError
from finetune_trainer.ranks.commands import DoStep, Evaluate, parse_command
from finetune_trainer.ranks.launcher import (
    Worker,
    Workers,
    build_error,
    decide_world_size,
    name_devices,
)
from tests.unit_trainer.tiny import build_plan

WAITS = "import sys; sys.stdin.read()"
OUTCOME = Outcome(
    exit_code=67,
    reason="ModelTooLarge",
    stage=Stage.START,
    message="The GPU's memory does not hold the model.",
    plan_hash="ab" * 32,
)


def start(folder: Path, code: str, *, rank: int = 1, outcome: Outcome | None = None) -> Worker:
    path = folder / f"{rank}.json"
    if outcome is not None:
        path.write_text(outcome.to_termination_message())
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    return Worker(rank, process, cast("IO[bytes]", process.stdin), path)


def end(worker: Worker) -> Worker:
    worker.process.wait(20)
    return worker


@pytest.mark.parametrize(
    ("gpus", "environ", "count"),
    [
        pytest.param(0, {}, 1, id="a CPU is one"),
        pytest.param(1, {}, 1, id="a GPU is one"),
        pytest.param(4, {}, 4, id="one a GPU"),
        pytest.param(0, {"FINETUNE_WORLD_SIZE": "2"}, 2, id="as a test asks"),
    ],
)
def test_there_is_a_rank_for_each_gpu(gpus: int, environ: dict[str, str], count: int) -> None:
    assert decide_world_size(build_plan(resources__gpus=gpus), environ) == count


def test_a_world_size_that_is_no_number_is_refused() -> None:
    with pytest.raises(PlanInvalid) as caught:
        decide_world_size(build_plan(), {"FINETUNE_WORLD_SIZE": "two"})
    assert caught.value.message == (
        "FINETUNE_WORLD_SIZE is 'two': expected the number of ranks that train together; unset it,"
        " and there is one for each GPU of the plan."
    )


def test_each_rank_sees_a_gpu_of_its_own() -> None:
    assert name_devices({}, count=2) == ("0", "1")
    assert name_devices({"CUDA_VISIBLE_DEVICES": "3,GPU-5,7"}, count=2) == ("3", "GPU-5")


def test_a_command_is_read_as_it_was_written() -> None:
    for command in (DoStep(step=7, learning_rate=0.1 + 0.2), Evaluate(base=True)):
        assert parse_command(command.model_dump_json()) == command


def test_a_worker_that_said_why_it_ended_ends_the_run_with_its_code(tmp_path: Path) -> None:
    error = build_error(end(start(tmp_path, "raise SystemExit(67)", outcome=OUTCOME)), world_size=2)
    assert isinstance(error, OutOfGpuMemory)
    assert (error.exit_code, error.reason) == (67, "ModelTooLarge")
    assert error.message == "The GPU's memory does not hold the model. (In rank 1 of 2.)"


def test_a_worker_that_ended_without_a_word_is_lost(tmp_path: Path) -> None:
    error = build_error(end(start(tmp_path, "raise SystemExit(3)")), world_size=4)
    assert isinstance(error, RankLost)
    assert error.message.startswith("The training's rank 1 of 4 was over with exit code 3 and")


def test_of_several_that_ended_the_cause_is_told_and_not_its_victim(tmp_path: Path) -> None:
    lost = OUTCOME.model_copy(update={"exit_code": 70, "reason": "PeerLost"})
    victim = end(start(tmp_path, "", outcome=lost))
    cause = end(start(tmp_path, "", rank=2, outcome=OUTCOME))
    error = Workers((victim, cause), leave=lambda _: None).explain()
    assert error.reason == "ModelTooLarge"


def test_a_rank_0_that_does_not_notice_a_death_is_ended(tmp_path: Path) -> None:
    left: list[TrainerError] = []
    gone = threading.Event()

    def leave(error: TrainerError) -> None:
        left.append(error)
        gone.set()

    workers = Workers((start(tmp_path, "", outcome=OUTCOME),), leave=leave, notice_s=0.1)
    workers.watch()
    assert gone.wait(20)
    assert [error.exit_code for error in left] == [67]


def test_a_worker_that_is_closed_ends_and_nobody_is_blamed(tmp_path: Path) -> None:
    left: list[TrainerError] = []
    worker = start(tmp_path, WAITS)
    workers = Workers((worker,), leave=left.append, notice_s=0.1)
    workers.watch()
    with workers:
        workers.command(DoStep(step=0, learning_rate=1.0))
    assert worker.process.returncode == 0
    assert left == []


def test_commanding_a_worker_that_is_gone_says_why_it_is(tmp_path: Path) -> None:
    worker = end(start(tmp_path, "", outcome=OUTCOME))
    # Closed at the end as in a run: what was written to a broken pipe is dropped there.
    with Workers((worker,), leave=lambda _: None) as workers, pytest.raises(OutOfGpuMemory):
        workers.command(Evaluate(base=False))
