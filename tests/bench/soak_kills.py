"""What a soak kills: the pods of its runs, and around them the operator, S3 and the node agent.

Started by `soak`, which says where. Two threads draw from seeds of their own: one for pods, one for the
surroundings, which are there again before the next is killed.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from tests.bench.soak_record import Away, Sightings
from tests.cluster import lab as whole_lab
from tests.cluster.layout import Layout
from tests.cluster.record import load_record
from tests.e2e.product import Product, kill_trainer, restart_operator

POD_PAUSES_S = (3.0, 10.0)
"""Between two kills of pods."""
IN_TRAINING = 0.7
"""Share of the kills that only a pod may get which trains: most of a short run is its start."""
OTHER_PAUSES_S = (10.0, 40.0)
"""Between two kills of the surroundings."""
OUTAGE_S = (3.0, 15.0)
"""How long S3 or the node agent is away before it is started again."""
MOST_KILLS = 2
"""Of one run's pods: the Job controller waits twice as long after each, and a soak has to end."""
LONGEST_WAIT = timedelta(seconds=30)
"""A trainer's longest between two attempts at a store."""


@dataclass
class Killer:
    """Kills something every few seconds, in a thread of its own."""

    kinds: Mapping[str, Callable[[], bool]]
    """Each returns whether there was something to kill."""
    pauses_s: tuple[float, float]
    draw: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    is_over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> bool:
        """End once what was killed is there again; return whether it went on until now."""
        went_on = self._thread.is_alive()
        self.is_over.set()
        self._thread.join()
        return went_on

    def _go_on(self) -> None:
        while not self.is_over.wait(self.draw.uniform(*self.pauses_s)):
            kind = self.draw.choice(sorted(self.kinds))
            if self.kinds[kind]():
                self.kills[kind] += 1


@dataclass
class Kills:
    """The ways to kill."""

    product: Product
    layout: Layout
    namespace: str
    sightings: Sightings
    trains: Callable[[str], bool]
    """Whether a pod has come to its first step."""
    outages: list[Away] = field(default_factory=list)
    """Of S3."""
    killed_pods: Counter[str] = field(default_factory=Counter)
    """By resource."""

    def build_killers(self, *, seed: int) -> list[Killer]:
        """Return the killer of pods and that of their surroundings; also kept for `counts`."""
        pods = random.Random(f"pods {seed}")
        others = random.Random(f"others {seed}")
        self._killers = [
            Killer(
                {
                    "pod asked to go": partial(self._delete_pod, pods),
                    "pod given one second": partial(self._delete_pod, pods, "--grace-period=1"),
                    "trainer": partial(self._kill_trainer, pods),
                },
                POD_PAUSES_S,
                pods,
            ),
            Killer(
                {
                    "operator": self._restart_operator,
                    "S3": partial(self._kill_s3, others),
                    "node agent": partial(self._kill_process, others, "kubelet"),
                },
                OTHER_PAUSES_S,
                others,
            ),
        ]
        return self._killers

    def counts(self) -> dict[str, int]:
        """Return how often each was killed."""
        return dict(sum((killer.kills for killer in self._killers), Counter()))

    def _draw_pod(self, draw: random.Random) -> tuple[str, str] | None:
        """Return name and uid of a running pod whose run may lose another one, or None."""
        is_choosy = draw.random() < IN_TRAINING
        there = [
            each
            for each in self.sightings.running_now()
            if self.killed_pods[each[0]] < MOST_KILLS and (not is_choosy or self.trains(each[1]))
        ]
        if not there:
            return None
        resource, pod, uid = draw.choice(there)
        self.killed_pods[resource] += 1
        return pod, uid

    def _delete_pod(self, draw: random.Random, *options: str) -> bool:
        drawn = self._draw_pod(draw)
        if drawn is None:
            return False
        where = ("-n", self.namespace, "--wait=false", "--ignore-not-found")
        self.product.lab.kubectl("delete", "pod", drawn[0], *where, *options)
        return True

    def _kill_trainer(self, draw: random.Random) -> bool:
        drawn = self._draw_pod(draw)
        return drawn is not None and kill_trainer(drawn[1])

    def _restart_operator(self) -> bool:
        restart_operator(self.product)
        return True

    def _kill_s3(self, draw: random.Random) -> bool:
        began = datetime.now(UTC)
        is_killed = self._kill_process(draw, "s3")
        # What was asked while it was away is asked again a while after it is back.
        self.outages.append(Away(began, datetime.now(UTC) + LONGEST_WAIT))
        return is_killed

    def _kill_process(self, draw: random.Random, name: str) -> bool:
        process = load_record(self.layout.record).process(name)
        if process is None:
            return False
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(draw.uniform(*OUTAGE_S))
        whole_lab.up(self.layout, control_plane_only=False)
        return True
