"""What a soak saw of its pods and what follows from it: pure, fed by `soak` with watch events and logs.

Steps are the trainer's; a pod is running while its container is, by its status in the API.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

GOES_ON = "The training goes on from a checkpoint"
STEP = "Step done"
WHOLE = "A checkpoint is whole"


@dataclass
class Sightings:
    """Which pods of which resource were seen running, and how many at once."""

    running: dict[str, dict[str, str]] = field(default_factory=dict)
    """Resource to the pods that run now, each with its uid."""
    pods: dict[str, list[str]] = field(default_factory=dict)
    """Resource to all its pods that ever ran, in order."""
    most: dict[str, int] = field(default_factory=dict)
    """Resource to the most pods that ran at once."""

    def see(self, event: dict[str, Any]) -> tuple[str, str, str] | None:
        """Take note of a watch event; return namespace, name and uid of a pod that is new here."""
        pod = event["object"]
        name, meta = pod["metadata"]["name"], pod["metadata"]
        resource = meta.get("annotations", {}).get("langops.dev/finetune", "")
        now = self.running.setdefault(resource, {})
        if event["type"] == "DELETED" or not is_container_running(pod):
            now.pop(name, None)
            return None
        now[name] = meta["uid"]
        self.most[resource] = max(self.most.get(resource, 0), len(now))
        seen = self.pods.setdefault(resource, [])
        if name in seen:
            return None
        seen.append(name)
        return meta["namespace"], name, meta["uid"]

    def forget_running(self) -> None:
        """Begin again: a watch first reports all pods that there are."""
        self.running.clear()

    def running_now(self) -> list[tuple[str, str, str]]:
        """Return resource, name and uid of every pod that runs, in order."""
        return sorted(
            (resource, pod, uid)
            for resource, pods in list(self.running.items())
            for pod, uid in list(pods.items())
        )


def is_container_running(pod: dict[str, Any]) -> bool:
    """Return whether a container of the pod runs."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return any("running" in each.get("state", {}) for each in statuses)


@dataclass(frozen=True)
class PodStory:
    """What the log of one pod tells of its training."""

    resumed_at: int
    """Step of the checkpoint from which it went on; 0 from the start."""
    reached: int
    """The last step that it reported; 0 where it never came to train."""
    whole: int = 0
    """The newest checkpoint that it reported as whole."""
    safe_until: datetime | None = None
    """When it reported so, or else when its training began."""
    last_word: datetime | None = None


def read_story(lines: Iterable[str]) -> PodStory:
    """Return what a pod's log tells; lines are containerd's, ours begin at their first brace."""
    story = PodStory(0, 0)
    for line in lines:
        start = line.find("{")
        try:
            reported = json.loads(line[start:])
        except ValueError:
            # The last line of a pod that was killed may be cut.
            continue
        story = _with_line(story, reported)
    return story


def _with_line(story: PodStory, reported: dict[str, Any]) -> PodStory:
    message, time = reported.get("message"), datetime.fromisoformat(reported["time"])
    story = replace(story, last_word=time)
    if message not in (STEP, WHOLE, GOES_ON):
        return story
    step = reported["step"]
    story = replace(story, reached=max(story.reached, step), safe_until=story.safe_until or time)
    if message == GOES_ON:
        return replace(story, resumed_at=step)
    if message == WHOLE:
        return replace(story, whole=max(story.whole, step), safe_until=time)
    return story


@dataclass(frozen=True)
class Away:
    """A time in which the store did not answer."""

    began: datetime
    ended: datetime


@dataclass(frozen=True)
class Loss:
    """What the end of one pod cost."""

    steps: int
    """Done by it, and again by its successor."""
    is_without_store: bool
    """Whether the store was away while they were done, so that they could not have been saved."""
    is_set_back: bool
    """Whether the successor went on from an older checkpoint than the newest whole one."""


def list_losses(stories: Sequence[PodStory], *, outages: Sequence[Away]) -> list[Loss]:
    """Return what each pod but the last lost, of those that came to train."""
    trained = [story for story in stories if story.reached]
    losses, whole = [], 0
    for before, after in itertools.pairwise(trained):
        whole = max(whole, before.whole)
        losses.append(
            Loss(
                steps=max(0, before.reached - after.resumed_at),
                is_without_store=any(_overlaps(before, away) for away in outages),
                is_set_back=after.resumed_at < whole,
            )
        )
    return losses


def _overlaps(story: PodStory, away: Away) -> bool:
    if story.safe_until is None or story.last_word is None:
        return False
    return away.began <= story.last_word and away.ended >= story.safe_until


@dataclass(frozen=True)
class RunVerdict:
    """How one run ended."""

    name: str
    ended: str
    """Complete, or what it was instead."""
    pods: int
    most_at_once: int
    losses: tuple[Loss, ...]
    is_equal: bool
    """Whether its weights are those of the calm run."""

    def most_lost(self, *, is_without_store: bool) -> int:
        """Return the most steps that one end cost, with the store there or away."""
        found = (each for each in self.losses if each.is_without_store == is_without_store)
        return max((each.steps for each in found), default=0)


def find_failures(runs: Sequence[RunVerdict], *, most_lost: int) -> list[str]:
    """Return what must not be, in words.

    Args:
        runs: All runs.
        most_lost: Steps that a kill may cost where the store is there: a checkpoint's interval, and
            those that are done while it is uploaded.
    """
    failures = []
    for run in runs:
        lost = run.most_lost(is_without_store=False)
        if run.ended != "Complete":
            failures.append(f"{run.name} ended {run.ended}")
        elif not run.is_equal:
            failures.append(f"{run.name} has other weights than the calm run")
        if run.most_at_once > 1:
            failures.append(f"{run.name} had {run.most_at_once} pods at once")
        if lost > most_lost:
            failures.append(f"{run.name} lost {lost} steps, allowed {most_lost}")
        if any(each.is_set_back for each in run.losses):
            failures.append(
                f"{run.name} went on from an older checkpoint than its newest whole one"
            )
    return failures


def build_table(
    runs: Sequence[RunVerdict], *, kills: dict[str, int], seconds: float, every_steps: int
) -> str:
    """Return the summary as Markdown."""
    losses = [loss for run in runs for loss in run.losses]
    rows = {
        "runs": len(runs),
        "Complete": sum(run.ended == "Complete" for run in runs),
        "weights equal to the calm run's": sum(run.is_equal for run in runs),
        "pods": sum(run.pods for run in runs),
        "most pods of one resource at once": max((run.most_at_once for run in runs), default=0),
        "trainings that ended before their time": len(losses),
        "of them with a successor that did not take the newest whole checkpoint": sum(
            loss.is_set_back for loss in losses
        ),
        f"most steps done again (a checkpoint every {every_steps})": max(
            (run.most_lost(is_without_store=False) for run in runs), default=0
        ),
        "the same where S3 was away": max(
            (run.most_lost(is_without_store=True) for run in runs), default=0
        ),
        **{f"kills: {kind}": count for kind, count in sorted(kills.items())},
        "minutes": round(seconds / 60, 1),
    }
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    )
