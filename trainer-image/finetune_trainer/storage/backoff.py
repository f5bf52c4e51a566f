"""Delays that grow between attempts at a service that is busy or unavailable.

Below `s3` and `hub`. The sum of the waits is bounded, so that a dead service ends the pod and not
the cluster's patience; sleep and chance are handed in, so that tests take no time.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """How long to wait before each further attempt."""

    first_s: float = 0.5
    """Seconds before the second attempt; each later wait doubles."""
    longest_s: float = 30.0
    """Seconds that no single wait exceeds."""
    total_s: float = 180.0
    """Seconds of waiting altogether. Longer than a failover of a store, shorter than the
    operator's own retry would be noticed."""
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = secrets.SystemRandom().random

    def begin(self) -> Iterator[float]:
        """Yield each wait in seconds, jittered by half, until their sum reaches the total."""
        nominal, spent = self.first_s, 0.0
        while spent < self.total_s:
            wait = min(nominal * (0.5 + self.chance() / 2), self.total_s - spent)
            yield wait
            spent += wait
            nominal = min(nominal * 2, self.longest_s)
