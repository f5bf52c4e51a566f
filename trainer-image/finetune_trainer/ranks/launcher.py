"""Launches the ranks of a training on several GPUs, commands and watches them, and ends them.

Used by `pipeline` on rank 0, which is the pod's first process and the only one that fetches, publishes,
saves, reports and hears signals. Each other rank is a worker: this program with another argument and a
GPU of its own. A worker that ends too early ends the run, with the exit code that it had.
"""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from finetune_api import wire
from finetune_api.outcome import Outcome
from finetune_api.plan import TrainingPlan
from finetune_trainer.errors import PlanInvalid, RankLost, TrainerError
from finetune_trainer.pod.pod import Pod
from finetune_trainer.ranks.commands import Command

WORKERS_FOLDER = "workers"
"""Below the scratch space: what rank 0 leaves for the workers, and how each ended."""
WORKER_COMMAND = ("worker",)
"""Arguments that make this program a worker."""
ENV_RANK = "FINETUNE_RANK"
"""Environment of a worker: its rank, from 1."""
ENV_WORLD_SIZE = "FINETUNE_WORLD_SIZE"
"""Environment: how many ranks train together. Set for workers, and by tests that have no GPUs."""
ENV_VISIBLE = "CUDA_VISIBLE_DEVICES"
NOTICE_S = 10.0
"""Seconds that the training loop has to notice a worker's end by itself. It may wait for its GPU, which
waits for the dead one's: then the run is ended from here."""
SETTLE_S = 2.0
"""Seconds in which the end of one worker shows in the others: the first may not be the cause."""
HANGING = (
    "The ranks of the training lost each other and none has ended: a GPU or the link between two"
    " failed; look at the node. The next attempt resumes at the newest checkpoint."
)
PEER_LOST = "PeerLost"
"""The reason of a worker that ended because another rank was gone."""

log = logging.getLogger(__name__)


def decide_world_size(plan: TrainingPlan, environ: Mapping[str, str]) -> int:
    """Return how many ranks train: one a GPU of the pod, or one on a CPU.

    Raises:
        PlanInvalid: The environment names no number.
    """
    text = environ.get(ENV_WORLD_SIZE, "")
    if not text:
        return max(1, plan.resources.gpus)
    if not text.isdecimal() or text == "0":
        raise PlanInvalid(
            f"{ENV_WORLD_SIZE} is {text!r}: expected the number of ranks that train together; unset"
            " it, and there is one for each GPU of the plan.",
            reason="RuntimeForced",
        )
    return int(text)


def name_devices(environ: Mapping[str, str], *, count: int) -> tuple[str, ...]:
    """Return the GPUs by the names under which CUDA shows each alone to a rank."""
    visible = [each for each in environ.get(ENV_VISIBLE, "").split(",") if each]
    return tuple(visible[:count] if visible else map(str, range(count)))


@dataclass
class Worker:
    """The process of one rank."""

    rank: int
    process: "subprocess.Popen[bytes]"
    commands: IO[bytes]
    """Its standard input."""
    outcome_path: Path
    """Where it writes how it ended, as a pod writes its termination message."""

    def command(self, line: bytes) -> None:
        """Write one command.

        Raises:
            BrokenPipeError: It is gone.
        """
        self.commands.write(line)
        self.commands.flush()

    def read_outcome(self) -> Outcome | None:
        """Return what it said of its end; None where it had no time to."""
        try:
            return Outcome.from_termination_message(self.outcome_path.read_text(encoding="utf-8"))
        except OSError:
            return None


@dataclass
class Workers:
    """All workers of one run.

    Args:
        workers: One for each rank but 0.
        leave: Ends this process at once, with that error as its outcome.
        notice_s: Seconds that the training loop has to notice a worker's end by itself.
    """

    workers: tuple[Worker, ...]
    leave: Callable[[TrainerError], None]
    notice_s: float = NOTICE_S
    _is_closed: threading.Event = field(default_factory=threading.Event)

    @property
    def world_size(self) -> int:
        """Ranks of the run, this one included."""
        return len(self.workers) + 1

    def watch(self) -> None:
        """Begin to look whether they live, each in a thread."""
        for worker in self.workers:
            threading.Thread(
                target=self._watch, args=(worker,), name=f"rank-{worker.rank}", daemon=True
            ).start()

    def command(self, command: Command) -> None:
        """Have all of them do something.

        Raises:
            TrainerError: One of them is gone.
        """
        line = command.model_dump_json().encode() + b"\n"
        try:
            for worker in self.workers:
                worker.command(line)
        except OSError as fault:
            raise self.explain() from fault

    def explain(self) -> TrainerError:
        """Return why a rank is lost: of several errors, one that was not another's consequence."""
        dead = [each for each in self.workers if _wait(each, SETTLE_S) is not None]
        errors = [build_error(each, world_size=self.world_size) for each in dead]
        causes = [error for error in errors if error.reason != PEER_LOST]
        return next(iter([*causes, *errors]), RankLost(HANGING))

    def close(self) -> None:
        """End them; what they hold rank 0 has too."""
        self._is_closed.set()
        for worker in self.workers:
            try:
                worker.commands.close()
            except BrokenPipeError:
                log.debug("A worker was gone before it was ended", extra={"rank": worker.rank})
        for worker in self.workers:
            if _wait(worker, SETTLE_S) is None:
                worker.process.kill()
                worker.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _watch(self, worker: Worker) -> None:
        code = worker.process.wait()
        if self._is_closed.is_set():
            return
        log.error("A worker ended too early", extra={"rank": worker.rank, "code": code})
        if not self._is_closed.wait(self.notice_s):
            self.leave(self.explain())


def build_error(worker: Worker, *, world_size: int) -> TrainerError:
    """Return how a worker ended as the error that ends the run."""
    outcome = worker.read_outcome()
    who = f"rank {worker.rank} of {world_size}"
    if outcome is None:
        code = worker.process.returncode
        how = f"killed by signal {-code}" if code < 0 else f"over with exit code {code}"
        return RankLost(
            f"The training's {who} was {how} and said nothing: the pod's memory may have run out or a"
            " GPU failed; look at the node and resources.limits.memory. The next attempt resumes at"
            " the newest checkpoint."
        )
    kinds = {int(kind.exit_code): kind for kind in TrainerError.__subclasses__()}
    kind = kinds.get(outcome.exit_code, RankLost)
    return kind(f"{outcome.message} (In {who}.)", reason=outcome.reason)


@contextmanager
def launched(plan: TrainingPlan, pod: Pod) -> Iterator[Workers | None]:
    """Launch the workers, which load their libraries meanwhile; None where one rank trains alone.

    Rank 0 keeps the first GPU for itself: to be called before anything uses one.
    """
    world_size = decide_world_size(plan, pod.environ)
    if world_size == 1:
        yield None
        return
    devices = name_devices(pod.environ, count=world_size) if plan.resources.gpus else ()
    folder = pod.work / WORKERS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    starting = [
        _start(
            rank,
            folder=folder,
            environ=_build_environ(pod, rank, world_size=world_size, devices=devices),
        )
        for rank in range(1, world_size)
    ]
    if devices:
        pod.environ[ENV_VISIBLE] = devices[0]
    workers = Workers(tuple(starting), pod.shutdown.leave)
    workers.watch()
    with workers:
        yield workers


def _start(rank: int, *, folder: Path, environ: Mapping[str, str]) -> Worker:
    path = folder / f"{rank}.json"
    # Of an earlier run on a workstation.
    path.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune_trainer", *WORKER_COMMAND],
        env=dict(environ) | {wire.ENV_TERMINATION_PATH: str(path)},
        stdin=subprocess.PIPE,
    )
    return Worker(rank, process, cast("IO[bytes]", process.stdin), path)


def _build_environ(
    pod: Pod, rank: int, *, world_size: int, devices: tuple[str, ...]
) -> Mapping[str, str]:
    """Return what a worker starts with: a GPU of its own, and no status server."""
    environ = {name: value for name, value in pod.environ.items() if name != wire.ENV_SERVER_URL}
    environ |= {ENV_RANK: str(rank), ENV_WORLD_SIZE: str(world_size)}
    if devices:
        environ[ENV_VISIBLE] = devices[rank]
    return environ


def _wait(worker: Worker, seconds: float) -> int | None:
    """Return the exit code of a process that ends within so many seconds."""
    try:
        return worker.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
