"""Pace: what the operator may ask of the API server in a second, and how pauses are spread.

`api_client` takes a token for each request, the progress writer one more from a slower bucket of its
own. No request is refused here: one that comes too early waits.
"""

import asyncio
import random
import time
from collections.abc import Callable

_RANDOM = random.SystemRandom()


def spread(seconds: float, *, share: float = 0.5) -> float:
    """Return `seconds`, more or less by up to `share` of it, so that many do not act at once."""
    return seconds * _RANDOM.uniform(1 - share, 1 + share)


class TokenBucket:
    """Lets `rate` requests through in a second, and `burst` at once after a rest.

    Args:
        rate: requests in a second.
        burst: requests at once.
        clock: monotonic seconds.
    """

    def __init__(
        self, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock()

    def reserve(self) -> float:
        """Take one token, perhaps of the future, and return the seconds until it is there."""
        now = self._clock()
        grown = self._tokens + (now - self._filled_at) * self._rate
        self._tokens = min(grown, float(self._burst)) - 1
        self._filled_at = now
        return max(0.0, -self._tokens / self._rate)

    async def take(self) -> None:
        """Wait for one token."""
        if (wait_s := self.reserve()) > 0:
            await asyncio.sleep(wait_s)
