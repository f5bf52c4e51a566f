"""The pod is asked to go: heard once, remembered, and how much time is left from then on.

`__main__` installs `hear` for SIGTERM. Before training nothing is lost and the pod leaves at once; from
training on the loop, the evaluation and every wait for a store ask here and end by themselves.
"""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from types import FrameType
from typing import TypeVar

from finetune_api import wire
from finetune_api.outcome import Stage
from finetune_trainer.errors import Interrupted, TrainerError

ENDS_BY_ITSELF = (Stage.TRAIN, Stage.EVALUATE, Stage.EXPORT, Stage.PUBLISH)
"""Stages in which a signal only raises a flag: a step is finished, an upload is not cut in half."""
RESERVE_S = 5.0
"""Seconds at the end of the grace period for the outcome and the last report."""
SLEEP_SLICE_S = 0.25
"""Longest sleep in one piece."""
Leave = Callable[[TrainerError], None]
T = TypeVar("T")

log = logging.getLogger(__name__)


class GracefulShutdown:
    """Remembers that the pod was asked to go; before training it ends the run at once.

    Args:
        stage: Returns the stage that runs.
        leave: Ends the process.
        grace_s: Seconds between SIGTERM and SIGKILL; None where no kill follows.
        clock: Seconds that only grow.
        nap: Sleeps for so many seconds.
    """

    def __init__(
        self,
        stage: Callable[[], Stage],
        *,
        leave: Leave,
        grace_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        nap: Callable[[float], None] = time.sleep,
    ) -> None:
        self._stage = stage
        self.leave = leave
        """Ends the process at once, whatever its threads wait for."""
        self._grace_s = grace_s
        self._clock = clock
        self._nap = nap
        self._signalled_at: float | None = None
        self._is_short = False

    def on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """Take the signal, and leave where nothing is under way that must be finished."""
        del frame
        if self._signalled_at is not None:
            # A second signal asks for nothing new, and the end may be under way.
            return
        self._signalled_at = self._clock()
        stage = self._stage()
        log.warning("The pod is asked to go", extra={"signal": number, "stage": stage.value})
        if stage not in ENDS_BY_ITSELF:
            self.leave(
                Interrupted(
                    f"The pod was asked to go in the stage {stage.value}, before the first step: the"
                    " next attempt starts again."
                )
            )

    def is_stopping(self) -> bool:
        """Whether the pod was asked to go."""
        return self._signalled_at is not None

    def seconds_left(self) -> float | None:
        """Return the seconds for saving what there is; None where they are not limited."""
        if self._grace_s is None or self._signalled_at is None:
            return None
        return max(0.0, self._grace_s - RESERVE_S - (self._clock() - self._signalled_at))

    def has_time_besides(self, seconds: float | None) -> bool:
        """Whether there is time for more than what takes `seconds`; None where that is unknown.

        Then half of the grace period is kept for it.
        """
        left = self.seconds_left()
        if left is None or self._grace_s is None:
            return True
        return left > (self._grace_s / 2 if seconds is None else seconds)

    def finish_in_time(self, work: Callable[[], T], *, reserve_s: float | None) -> T:
        """Return what the work returns; where only the time to save is left, leave it behind.

        What is left behind goes on in its thread until the process ends, so at no moment may it stand
        half done where somebody trusts it.

        Args:
            work: Does not check the time, such as a request to a store that hangs.
            reserve_s: Seconds to keep for saving; None keeps half of the grace period.

        Raises:
            Interrupted: The pod was asked to go, and the work took too long.
        """
        pool = ThreadPoolExecutor(1, thread_name_prefix="unhurried")
        result = pool.submit(work)
        # Its threads are not joined: a process that must go ends by `os._exit`.
        pool.shutdown(wait=False)
        while not wait([result], timeout=SLEEP_SLICE_S).done:
            if self.is_stopping() and not self.has_time_besides(reserve_s):
                raise Interrupted(
                    f"The pod was asked to go, and the stage {self._stage().value} was not over in"
                    " its grace period."
                )
        return result.result()

    def warn_if_short(self, seconds: int) -> None:
        """Tell once where the pod's grace period is shorter than what saving was measured to take."""
        if self._grace_s is None or seconds <= self._grace_s or self._is_short:
            return
        self._is_short = True
        log.warning(
            "The pod's grace period may be too short for a step, a checkpoint and its upload: raise"
            " the operator's trainer.terminationGraceSeconds",
            extra={"grace_s": self._grace_s, "needed_s": seconds},
        )

    def sleep(self, seconds: float) -> None:
        """Sleep between two attempts at a service, or until the pod is asked to go.

        Raises:
            Interrupted: It is: a service that does not answer now will not within the grace period.
        """
        end = self._clock() + seconds
        # NB: no event that the handler sets: it runs in this thread, perhaps while the event is locked.
        while (left := end - self._clock()) > 0 and not self.is_stopping():
            self._nap(min(left, SLEEP_SLICE_S))
        if self.is_stopping():
            raise Interrupted(
                f"The pod was asked to go in the stage {self._stage().value} while it waited for a"
                " service that did not answer."
            )


def read_grace(environ: Mapping[str, str]) -> float | None:
    """Return the pod's grace period in seconds, or None where the environment names none."""
    text = environ.get(wire.ENV_GRACE_SECONDS, "")
    return float(text) if text.isdecimal() else None
