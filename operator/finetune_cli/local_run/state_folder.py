"""The folder in which a run without a cluster keeps what an API server would keep.

`status.yaml` is the whole LanguageFinetune with its status; `plans/` holds the ConfigMaps by name. A
lock keeps a second command away. I/O for `run_loop`; nothing is decided here.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune_api import wire
from finetune_cli.errors import CliError
from finetune_cli.screens.tables import as_yaml

STATUS_FILE = "status.yaml"
LOCK_FILE = ".lock"
LOG_FILE = "trainer.log"
PLAN_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Where the state of one resource is, and where its trainer works."""

    path: Path
    work: Path
    """Scratch space of the trainer: the fetched model and compiled kernels. It may be deleted between runs."""

    @property
    def status_file(self) -> Path:
        """The resource with its status."""
        return self.path / STATUS_FILE

    @property
    def log_file(self) -> Path:
        """What the trainer logs and its libraries print."""
        return self.path / LOG_FILE

    def load(self) -> dict[str, Any] | None:
        """Return the resource as it was saved, or None where there is none.

        Raises:
            CliError: The file holds something else.
        """
        try:
            body = yaml.safe_load(self.status_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CliError([self._broken()]) from error
        if not isinstance(body, dict) or body.get("kind") != wire.KIND:
            raise CliError([self._broken()])
        return body

    def save(self, body: Mapping[str, Any]) -> None:
        """Replace the saved resource; a crash leaves the old one or the new one."""
        unfinished = self.status_file.with_suffix(".unfinished")
        unfinished.write_text(as_yaml(dict(body)), encoding="utf-8")
        unfinished.replace(self.status_file)

    def save_plan(self, name: str, text: str) -> None:
        """Keep the plan of a ConfigMap."""
        folder = self.path / "plans"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")

    def load_plan(self, name: str) -> str:
        """Return the plan of a ConfigMap; empty where there is none."""
        if not PLAN_NAME.fullmatch(name):
            return ""
        try:
            return (self.path / "plans" / f"{name}.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the lock; yield its file descriptor, which the trainer inherits and so holds it too.

        Raises:
            CliError: Another command or its trainer holds it.
        """
        with (self.path / LOCK_FILE).open("w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CliError(
                    [
                        (
                            f"Another run of this resource is at work in {self.path}; wait for its end, or end it, "
                            "and try again."
                        )
                    ]
                ) from error
            os.set_inheritable(file.fileno(), True)  # noqa: FBT003 -- the standard library's signature
            yield file.fileno()

    def _broken(self) -> str:
        return (
            f"{self.status_file} holds no {wire.KIND}; it is written by this command alone: delete it, and the "
            "run begins again from its newest checkpoint."
        )


def open_state(*, output: Path | None, namespace: str, name: str) -> StateFolder:
    """Return the folder of a resource, made: below the output, or in the user's state where that is S3.

    Raises:
        CliError: It cannot be made.
    """
    home = Path.home()
    state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state") / wire.APP_NAME
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / wire.APP_NAME / "runs"
    path = (output or state) / namespace / name
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    folder = StateFolder(path=path, work=cache / f"{name}-{digest}")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CliError(
            [f"{error.filename} cannot be made: {reason}; name another folder with --output-dir."]
        ) from error
    return folder
