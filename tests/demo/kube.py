"""kubectl and helm as the demo calls them: programs of a known folder, one cluster, one namespace."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Cluster:
    """A cluster and the programs that speak to it."""

    kubeconfig: str
    kubectl_program: Path
    helm_program: Path

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """Run kubectl and return what it printed.

        Raises:
            DemoError: it failed; the message is kubectl's own.
        """
        return self._run(self.kubectl_program, *arguments, given=given)

    def helm(self, *arguments: str) -> str:
        """Run helm and return what it printed.

        Raises:
            DemoError: it failed; the message is helm's own.
        """
        return self._run(self.helm_program, *arguments)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create or change objects."""
        whole = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--filename=-", given=json.dumps(whole))

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return what `kubectl get … -o json` prints."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output=json"))
        return found

    def _run(self, program: Path, *arguments: str, given: str = "") -> str:
        done = subprocess.run(
            [program, *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "KUBECONFIG": self.kubeconfig},
        )
        if done.returncode != 0:
            raise DemoError(f"{program.name} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout
