"""What a soak saw of its pods and what follows from it: pure, fed by `soak` with watch events and logs.

Steps are the trainer's; a pod is running while its container is, by its status in the API.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

GOES_ON = "The training goes on from a checkpoint"
STEP = "Step done"
WHOLE = "A checkpoint is whole"


@dataclass
class Sightings:
    """Which pods of which resource were seen running, and how many at once."""

    running: dict[str, set[str]] = field(default_factory=dict)
    """Resource to the pods that run now."""
    pods: dict[str, list[str]] = field(default_factory=dict)
    """Resource to all its pods that ever ran, in order."""
    most: dict[str, int] = field(default_factory=dict)
    """Resource to the most pods that ran at once."""

    def see(self, event: dict[str, Any]) -> tuple[str, str, str] | None:
        """Take note of a watch event; return namespace, name and uid of a pod that is new here."""
        pod = event["object"]
        name, meta = pod["metadata"]["name"], pod["metadata"]
        resource = meta.get("annotations", {}).get("langops.dev/finetune", "")
        now = self.running.setdefault(resource, set())
        if event["type"] == "DELETED" or not is_container_running(pod):
            now.discard(name)
            return None
        now.add(name)
        self.most[resource] = max(self.most.get(resource, 0), len(now))
        seen = self.pods.setdefault(resource, [])
        if name in seen:
            return None
        seen.append(name)
        return meta["namespace"], name, meta["uid"]


def is_container_running(pod: dict[str, Any]) -> bool:
    """Return whether a container of the pod runs."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return any("running" in each.get("state", {}) for each in statuses)


@dataclass(frozen=True)
class PodStory:
    """What the log of one pod tells."""

    resumed_at: int
    """Step of the checkpoint from which it went on; 0 from the start."""
    reached: int
    """The last step that it told of."""


def read_story(lines: Iterable[str]) -> PodStory:
    """Return what a pod's log tells; lines are containerd's, ours begin at their first brace."""
    resumed = reached = 0
    for line in lines:
        start = line.find("{")
        try:
            told = json.loads(line[start:])
        except ValueError:
            # The last line of a pod that was killed may be cut.
            continue
        if told.get("message") == GOES_ON:
            resumed = told["step"]
        if told.get("message") in (STEP, WHOLE, GOES_ON):
            reached = max(reached, told["step"])
    return PodStory(resumed, reached)


def count_lost(stories: Sequence[PodStory]) -> int:
    """Return the most steps that a pod had done and its successor did again."""
    pairs = itertools.pairwise(stories)
    return max((max(0, before.reached - after.resumed_at) for before, after in pairs), default=0)


@dataclass(frozen=True)
class RunVerdict:
    """How one run ended."""

    name: str
    ended: str
    """Complete, or what it was instead."""
    pods: int
    most_at_once: int
    steps_lost: int
    is_equal: bool
    """Whether its weights are those of the calm run."""


def find_failures(runs: Sequence[RunVerdict], *, most_lost: int) -> list[str]:
    """Return what must not be, in words.

    Args:
        runs: All runs.
        most_lost: Steps that a kill may cost: a checkpoint's interval, and those while it is uploaded.
    """
    failures = []
    for run in runs:
        if run.ended != "Complete":
            failures.append(f"{run.name} ended {run.ended}")
        elif not run.is_equal:
            failures.append(f"{run.name} has other weights than the calm run")
        if run.most_at_once > 1:
            failures.append(f"{run.name} had {run.most_at_once} pods at once")
        if run.steps_lost > most_lost:
            failures.append(f"{run.name} lost {run.steps_lost} steps, allowed {most_lost}")
    return failures


def build_table(
    runs: Sequence[RunVerdict], *, kills: dict[str, int], seconds: float, every_steps: int
) -> str:
    """Return the summary as Markdown."""
    rows = {
        "runs": len(runs),
        "Complete": sum(run.ended == "Complete" for run in runs),
        "weights equal to the calm run's": sum(run.is_equal for run in runs),
        "pods": sum(run.pods for run in runs),
        "most pods of one resource at once": max((run.most_at_once for run in runs), default=0),
        f"most steps done again (a checkpoint every {every_steps})": max(
            (run.steps_lost for run in runs), default=0
        ),
        **{f"kills: {kind}": count for kind, count in sorted(kills.items())},
        "minutes": round(seconds / 60, 1),
    }
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    )
