"""Asks for a resource until its run has ended or the time is over."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_cli.cluster.finished import WaitEnd, describe_progress, find_end
from finetune_cli.cluster.kubectl import Kubectl, KubectlError

INTERVAL_S = 5.0
"""Seconds between two looks; one GET each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """How a run is followed."""

    timeout_s: float | None = None
    """None waits without end."""
    say: Callable[[str], None] = lambda _: None
    """Receives a line whenever it differs from the one before."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


def follow(
    kubectl: Kubectl, *, name: str, following: Following
) -> tuple[WaitEnd, Mapping[str, Any]]:
    """Return how the run ended and the object as it was seen last.

    An API server that does not answer is asked again: a run may take days and its cluster an upgrade.

    Raises:
        KubectlError: the resource is not there (or was deleted), or may not be read.
    """
    start, said, body = following.clock(), "", {}
    while True:
        try:
            body = kubectl.read(name)
            end, line = find_end(body), describe_progress(body)
        except KubectlError as error:
            if error.is_final:
                raise
            end, line = None, f"kubectl cannot ask, and tries again: {error.lines[-1]}"
        if line != said:
            said = line
            following.say(line)
        if end is not None:
            return end, body
        if following.timeout_s is not None and following.clock() - start >= following.timeout_s:
            return WaitEnd.TIMED_OUT, body
        following.sleep(INTERVAL_S)
