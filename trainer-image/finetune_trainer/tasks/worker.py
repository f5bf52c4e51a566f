"""A rank but the first: it loads the same model on another GPU and does what rank 0 commands.

The task of the argument `worker`; its half that needs torch is `worker_training`. It fetches, saves,
reports and decides nothing. When its input ends, because rank 0 is done or died, so does it.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from queue import SimpleQueue
from typing import NoReturn, TextIO

from finetune_api.plan import TrainingPlan
from finetune_trainer.pod import environment, logs
from finetune_trainer.pod.pod import Pod
from finetune_trainer.ranks.commands import Begin, Command, parse_command
from finetune_trainer.ranks.launcher import ENV_RANK, ENV_WORLD_SIZE


def run_worker(plan: TrainingPlan, *, pod: Pod) -> NoReturn:
    """Do what rank 0 commands until the input ends, which ends the process.

    Raises:
        TrainerError: This process cannot go on.
    """
    # A signal to the whole process group is for rank 0 to answer: it finishes a step first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rank, world_size = read_place(pod.environ)
    logs.configure_worker(rank=rank)
    environment.prepare_environment(plan.resources, work=pod.work, environ=pod.environ)
    environment.separate_compiling(pod.environ, rank=rank)
    environment.go_offline(pod.environ)
    commands = read_commands(sys.stdin)

    # Late: it takes half a minute, in which rank 0 fetches and reads.
    from finetune_trainer.tasks.worker_training import WorkerTraining

    begin = next(commands)
    if not isinstance(begin, Begin):
        raise TypeError(f"The first command is {begin.kind!r}, expected 'begin'.")
    training = WorkerTraining.join(
        plan, begin, rank=rank, world_size=world_size, environ=pod.environ
    )
    while True:
        training.do(next(commands))


def read_place(environ: Mapping[str, str]) -> tuple[int, int]:
    """Return rank and world size as the launcher said."""
    return int(environ[ENV_RANK]), int(environ[ENV_WORLD_SIZE])


def read_commands(stream: TextIO) -> Iterator[Command]:
    """Return the commands as they come. From now on the end of the stream ends the process.

    NB: wherever it is: it may wait inside an all-reduce that never ends, for a rank 0 that died.
    """
    queue: SimpleQueue[Command] = SimpleQueue()

    def listen() -> None:
        try:
            for line in stream:
                queue.put(parse_command(line))
        finally:
            logging.shutdown()
            os._exit(0)

    threading.Thread(target=listen, name="commands", daemon=True).start()
    return iter(queue.get, None)
