"""What the operator wants done: the output of `decide`, carried out by the shell alone.

The shell keeps this order, so that a crash between any two steps loses nothing:

1. `creates`, one after the other. A name that is taken by an object of ours counts as created. At
   the first one that is refused the shell stops, observes again with `name_conflicts`,
   `predecessors` or `rejected` filled in, decides again and carries out that answer instead.
2. `progress`, then `status`, which presumes that the creates succeeded; the end is the last write.
3. `patches` of a Job: limits that the spec changed since, suspension, what is safe by now.
4. `deletes`: what frees a GPU comes after the status that says why, or a restart would begin again.
5. `events`, only once the status is written.

Where `lookups` is set, the shell fetches it and decides again; a decision asks for the same lookup once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from finetune_operator.decide.values.observation import ObservedJob

Manifest = Mapping[str, Any]
"""A Kubernetes object as a plain dict that reads like the YAML it becomes."""


@dataclass(frozen=True, slots=True)
class Delete:
    """An object to delete, only if it still has this uid."""

    kind: Literal["Job"]
    namespace: str
    name: str
    uid: str
    keeps_until_stopped: bool = False
    """Whether the object stays, going, until the pods below it have stopped."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A change of an object, only if it still has this uid."""

    kind: Literal["Job"]
    namespace: str
    name: str
    uid: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Field to value; None removes the field."""
    annotations: Mapping[str, str | None] = field(default_factory=dict)
    """The same of annotations."""


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes event about the resource."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Lookups:
    """What a decision needs that is not in memory and has to be requested from the API server."""

    pinned_plan: str = ""
    """Name of the ConfigMap that holds the plan of a run that has begun."""
    job_events: bool = False
    """Whether the events of the Jobs and their pods are needed."""


@dataclass(frozen=True)
class Actions:
    """Everything to do for one resource now."""

    creates: tuple[Manifest, ...] = ()
    patches: tuple[Patch, ...] = ()
    deletes: tuple[Delete, ...] = ()
    progress: dict[str, Any] | None = None
    """`status.progress` of a run that is complete, where its last report got lost."""
    status: dict[str, Any] | None = None
    """The whole status to apply, `progress` left out; None: it is as it should be."""
    events: tuple[Event, ...] = ()
    requeue_after_s: float | None = None
    """Seconds after which the passing of time alone may change the answer; None: never."""
    lookups: Lookups | None = None
    """What to fetch before this answer counts; the rest is what would be done without it."""


def merge_patches(patches: Iterable[Patch]) -> tuple[Patch, ...]:
    """Return one patch for each object: two changes are one write."""
    merged: dict[str, Patch] = {}
    for patch in patches:
        known = merged.get(patch.uid, patch)
        merged[patch.uid] = replace(
            patch,
            spec={**known.spec, **patch.spec},
            annotations={**known.annotations, **patch.annotations},
        )
    return tuple(merged.values())


def delete_job(job: ObservedJob, *, keeps_until_stopped: bool = False) -> Delete:
    """Return the deletion of this Job and of no other of its name."""
    return Delete(
        kind="Job",
        namespace=job.namespace,
        name=job.name,
        uid=job.uid,
        keeps_until_stopped=keeps_until_stopped,
    )
