"""Running commands, waiting and telling what happens: one line a step, with the time it took."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.layout import cache_folder

POLL_S = 0.1
"""Between two looks at something awaited: the control plane is ready within 2 s."""


class LabError(Exception):
    """The lab cannot do what was asked; the message says why and what to do."""


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print what is being done and, when done, how long it took. To stderr: stdout is for results."""
    print(f"{what} … ", end="", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", file=sys.stderr, flush=True)
        raise
    print(f"{time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    given: str | bytes = b"",
) -> str:
    """Run a command to its end and return what it printed.

    Args:
        command: Program and arguments.
        environment: Variables added to the process's own.
        folder: Where it runs.
        given: Its standard input.

    Raises:
        LabError: It could not be started or exited with another code than 0.
    """
    text = [str(part) for part in command]
    try:
        done = subprocess.run(
            text,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            input=given.encode() if isinstance(given, str) else given,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        advice = "run `python -m tests.cluster tools`"
        raise LabError(f"{text[0]} is not installed; {advice}") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise LabError(f"`{' '.join(text)}` exited {done.returncode}:\n{said[-4000:]}")
    return done.stdout.decode(errors="replace")


def wait_until(
    is_done: Callable[[], bool], *, what: str, timeout_s: float = 60, poll_s: float = POLL_S
) -> None:
    """Wait until a condition holds.

    Raises:
        LabError: It did not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not is_done():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout_s:.0f} s in vain: {what}")
        time.sleep(poll_s)


@contextmanager
def only_one(name: str) -> Iterator[None]:
    """Hold a lock of this machine, so that two callers never build or start the same thing at once."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step(f"waits for another process that holds {lock.name}"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
