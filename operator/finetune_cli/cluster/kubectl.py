"""Runs kubectl: the one place where the CLI reaches a cluster."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api import wire
from finetune_cli.errors import CliError

RESOURCE = f"{wire.PLURAL}.{wire.GROUP}"
NOT_FOUND = "(NotFound)"
"""What kubectl writes of an object, or of a namespace, that is not there."""
REQUEST_TIMEOUT = "20s"
"""Time after which kubectl gives up one request, so that a silent API server is noticed."""


class KubectlError(CliError):
    """kubectl ended with an error; `is_final` is False where the same call may succeed later."""

    def __init__(self, text: str) -> None:
        lines = [line for line in text.splitlines() if line.strip()]
        super().__init__(lines or ["kubectl failed and gave no reason."])
        self.is_final = any(word in text for word in (NOT_FOUND, "(Forbidden)", "doesn't have"))


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl in one namespace; without a name, in that of the current context."""

    namespace: str = ""

    def read(self, name: str) -> dict[str, Any]:
        """Return a LanguageFinetune as the API server has it.

        Raises:
            KubectlError: it is not there, or kubectl could not ask.
        """
        text = self._capture(
            ["get", RESOURCE, name, "-o", "json", f"--request-timeout={REQUEST_TIMEOUT}"]
        )
        body: dict[str, Any] = json.loads(text)
        return body

    def set_suspend(self, name: str, *, suspend: bool) -> str:
        """Set `spec.suspend` and return what kubectl says of it."""
        patch = json.dumps({"spec": {"suspend": suspend}})
        return self._capture(["patch", RESOURCE, name, "--type=merge", "-p", patch])

    def apply(self, filename: str) -> str:
        """Apply a file and return what kubectl says of it."""
        return self._capture(["apply", "-f", filename])

    def follow_logs(self, job: str, *, follow: bool) -> int:
        """Print the trainer's log of a Job on this terminal and return kubectl's exit code."""
        command = ["logs", f"job/{job}", "-c", wire.TRAINER_CONTAINER]
        return subprocess.run(self._command([*command, "-f"] if follow else command)).returncode  # noqa: PLW1510

    def _capture(self, arguments: Sequence[str]) -> str:
        ended = subprocess.run(
            self._command(arguments), capture_output=True, text=True, check=False, encoding="utf-8"
        )
        if ended.returncode:
            raise KubectlError(ended.stderr)
        return ended.stdout

    def _command(self, arguments: Sequence[str]) -> list[str]:
        path = shutil.which("kubectl")
        if path is None:
            raise CliError(["kubectl is not on the PATH; install it, and try again."])
        return [path, *(["-n", self.namespace] if self.namespace else []), *arguments]
