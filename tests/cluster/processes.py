"""Starting and stopping the lab's processes, by what was recorded and never by name."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.layout import Layout
from tests.cluster.record import Process, load_record, save_record
from tests.cluster.steps import POLL_S, LabError, wait_until

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STOP_TIMEOUT_S = 3
"""After this long a process is killed: it has nothing to save, for `down` deletes its data."""

LOG_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Program:
    """What to start: a name of the lab's own, and a command."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)


def build_flags(flags: Mapping[str, object], *, dash: str = "--") -> list[str | Path]:
    """Return command-line flags, each in one word with its value."""
    return [f"{dash}{name}={value}" for name, value in flags.items()]


def parse_stat(stat: str) -> tuple[str, int]:
    """Return a process's state letter and start time from /proc/PID/stat.

    NB: the second field is the program's name and may hold spaces and parentheses, so count from its end.
    """
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def is_running(process: Process) -> bool:
    """Tell whether this very process lives, not another one that was given its id."""
    try:
        state, started = parse_stat(Path(f"/proc/{process.pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return False
    same = started == process.started and process.boot == BOOT_ID.read_text().strip()
    return same and state not in "ZX"


def running(name: str, *, layout: Layout) -> bool:
    """Tell whether the lab's process of this name lives."""
    process = load_record(layout.record).process(name)
    return process is not None and is_running(process)


def start(program: Program, *, layout: Layout) -> bool:
    """Start a program in the background unless it runs; return whether it was started now."""
    if running(program.name, layout=layout):
        return False
    layout.logs.mkdir(parents=True, exist_ok=True)
    with log_of(program.name, layout=layout).open("ab") as log:
        # start_new_session: Ctrl-C in the terminal of `up` must not reach the lab
        child = subprocess.Popen(
            [str(part) for part in program.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=layout.state,
            env={**build_environment(os.environ), **program.environment},
            start_new_session=True,
        )
    _, started = parse_stat(Path(f"/proc/{child.pid}/stat").read_text())
    boot = BOOT_ID.read_text().strip()
    process = Process(name=program.name, pid=child.pid, started=started, boot=boot)
    save_record(load_record(layout.record).with_process(process), layout.record)
    # The lab outlives this command: tell Popen not to warn that its child still runs.
    child.returncode = 0
    return True


def build_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return what a process of the lab gets of the caller's environment: where programs and home are.

    Not the rest: SeaweedFS makes an identity of AWS_ACCESS_KEY_ID, so an earlier lab's keys would get into
    this one's S3, and a proxy's address would lead requests for the bridge astray.
    """
    return {name: own[name] for name in ("PATH", "HOME") if name in own}


def log_of(name: str, *, layout: Layout) -> Path:
    """Return the log file of a process."""
    return layout.logs / f"{name}.log"


def check_running(name: str, *, layout: Layout) -> None:
    """Make sure that a process did not die at once.

    Raises:
        LabError: It is dead; the message ends with the end of its log.
    """
    if running(name, layout=layout):
        return
    log = log_of(name, layout=layout)
    tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace") if log.exists() else ""
    raise LabError(f"{name} is not running; {log} ends with:\n{tail}")


def stop(processes: Sequence[Process]) -> None:
    """End processes, all at once, and wait until they are gone, and their ports with them."""
    _signal(processes, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not _are_gone(processes) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    _signal(processes, signal.SIGKILL)
    names = ", ".join(process.name for process in processes)
    wait_until(lambda: _are_gone(processes), what=f"{names} to end")


def _are_gone(processes: Sequence[Process]) -> bool:
    for process in processes:
        _reap(process)
    return not any(is_running(process) for process in processes)


def _signal(processes: Sequence[Process], number: signal.Signals) -> None:
    for process in processes:
        if is_running(process):
            os.kill(process.pid, number)


def _reap(process: Process) -> None:
    # Only a lab started by this very Python process has children here to bury.
    try:
        os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return
