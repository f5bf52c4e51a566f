"""What the lab started and changed on this machine: read by `down`, which undoes that and nothing else.

A process is known by its id together with its start time and the machine's boot, for an id alone may
belong to another program by the time somebody wants to stop it.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One started process."""

    name: str
    pid: int
    started: int
    """Clock ticks since boot, the 22nd field of /proc/PID/stat."""

    boot: str
    """The machine's boot id: ticks since boot say nothing across a reboot."""


@dataclass(frozen=True)
class Record:
    """Everything to undo."""

    processes: tuple[Process, ...] = ()
    links: tuple[str, ...] = ()
    """Network links that the lab made."""

    sysctls: dict[str, str] = field(default_factory=dict)
    """Kernel settings that the lab changed, with the value they had before."""

    folders: tuple[str, ...] = ()
    """Folders outside the state folder that were absent before and that components fill."""

    def process(self, name: str) -> Process | None:
        """Return the process last started under a name."""
        return next((known for known in self.processes if known.name == name), None)

    def with_process(self, process: Process) -> "Record":
        """Return the record with a process, in place of an earlier one of the same name."""
        others = tuple(known for known in self.processes if known.name != process.name)
        return replace(self, processes=(*others, process))

    def with_link(self, link: str) -> "Record":
        """Return the record with a network link."""
        return replace(self, links=tuple(dict.fromkeys((*self.links, link))))

    def with_folder(self, folder: str) -> "Record":
        """Return the record with a folder to remove."""
        return replace(self, folders=tuple(dict.fromkeys((*self.folders, folder))))

    def with_sysctl(self, name: str, *, before: str) -> "Record":
        """Return the record with a changed setting; the oldest value known stays."""
        return replace(self, sysctls={name: before, **self.sysctls})


def dump_record(record: Record) -> str:
    """Return the record as JSON."""
    return json.dumps(asdict(record), indent=2) + "\n"


def parse_record(text: str) -> Record:
    """Return the record that `dump_record` wrote."""
    raw = json.loads(text)
    return Record(
        processes=tuple(Process(**process) for process in raw["processes"]),
        links=tuple(raw["links"]),
        sysctls=dict(raw["sysctls"]),
        folders=tuple(raw["folders"]),
    )


def load_record(path: Path) -> Record:
    """Return the record kept in a file; an empty one when there is none."""
    return parse_record(path.read_text()) if path.exists() else Record()


def save_record(record: Record, path: Path) -> None:
    """Keep the record in a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(dump_record(record))
    draft.replace(path)
