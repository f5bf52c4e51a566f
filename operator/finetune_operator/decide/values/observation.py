"""What the operator saw: small frozen values made of the API server's objects.

Before it the shell's reflector, which projects every object at ingest so that ten thousand Jobs and
Pods fit in memory; after it `decide`. A projection is pure and total: a field that is absent or of
an unexpected shape becomes None or empty, because an object of another version must still be seen.
This module never fetches anything and never judges what it shows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from finetune_api import wire
from finetune_operator.raw_object import RawObject

HELD = "true"
"""Of the annotation that marks a Job which this operator suspended."""
MESSAGE_LIMIT = wire.TERMINATION_LIMIT_BYTES
"""Characters kept of any text; the longest one that matters is the termination message."""


@dataclass(frozen=True, slots=True)
class ObservedCondition:
    """One condition of a Job or Pod that is True, or that says why it is not."""

    type: str
    status: str
    reason: str
    message: str
    time: datetime | None
    """When status last changed."""


@dataclass(frozen=True, slots=True)
class ObservedJob:
    """What matters of one Job."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    owner_uid: str
    """uid of the controlling owner, or empty."""
    role: str
    run: int
    attempt: int
    plan_hash: str
    secrets: frozenset[tuple[str, str]]
    """Prefix and name of each Secret whose keys its pods get."""
    created: datetime | None
    deleting: bool
    suspended: bool
    deadline_s: int | None
    """Longest time over all pods, as the Job was created with."""
    ttl_s: int | None
    """Seconds after its end when the Job is deleted."""
    backoff_limit: int
    image: str
    gpus: str
    """GPUs that a pod asks for; the Job's own word, whatever the resource says by now."""
    memory_limit: str
    plan_config_map: str
    """Name of the ConfigMap that holds the plan of this Job."""
    queue: str
    """Kueue's LocalQueue, which then decides when the Job may run; or empty."""
    is_stopped: bool
    """Whether the Job controller says so by now; it follows `suspended` with a delay, both ways."""
    stopped: datetime | None
    """When it last became so."""
    held: bool
    """Whether it was this operator that suspended it."""
    safe_to_preempt: str
    """The annotation of that name."""
    active: int
    failed: int
    start: datetime | None
    end: datetime | None
    complete: ObservedCondition | None
    """Set once the Job controller says that the Job is done."""
    failure: ObservedCondition | None
    """Set once the Job controller says that the Job has failed for good."""

    @classmethod
    def from_object(cls, body: RawObject) -> Self:
        """Project a Job of the API server."""
        metadata, spec, status = _map(body, "metadata"), _map(body, "spec"), _map(body, "status")
        labels, conditions = _map(metadata, "labels"), _conditions(status)
        annotations = _map(metadata, "annotations")
        template = _map(_map(spec, "template"), "spec")
        trainer = next(_named(template, "containers", name=wire.TRAINER_CONTAINER), {})
        limits = _map(_map(trainer, "resources"), "limits")
        plan = next(_named(template, "volumes", name=wire.PLAN_VOLUME), {})
        return cls(
            name=_text(metadata, "name"),
            namespace=_text(metadata, "namespace"),
            uid=_text(metadata, "uid"),
            resource_version=_text(metadata, "resourceVersion"),
            owner_uid=_controller(metadata),
            role=_text(labels, wire.LABEL_ROLE),
            run=_digits(labels, wire.LABEL_RUN),
            attempt=_digits(labels, wire.LABEL_ATTEMPT),
            plan_hash=_text(annotations, wire.ANNOTATION_PLAN_HASH),
            secrets=_secrets(trainer),
            created=_time(metadata, "creationTimestamp"),
            deleting=_time(metadata, "deletionTimestamp") is not None,
            suspended=spec.get("suspend") is True,
            deadline_s=_number(spec, "activeDeadlineSeconds"),
            ttl_s=_number(spec, "ttlSecondsAfterFinished"),
            backoff_limit=_number(spec, "backoffLimit") or 0,
            image=_text(trainer, "image"),
            gpus=_text(limits, wire.RESOURCE_GPU),
            memory_limit=_text(limits, "memory"),
            plan_config_map=_text(_map(plan, "configMap"), "name"),
            queue=_text(labels, wire.LABEL_QUEUE),
            is_stopped=_true(conditions, "Suspended") is not None,
            stopped=next((one.time for one in conditions if one.type == "Suspended"), None),
            held=_text(annotations, wire.ANNOTATION_HELD) == HELD,
            safe_to_preempt=_text(annotations, wire.ANNOTATION_SAFE_TO_PREEMPT),
            active=_number(status, "active") or 0,
            failed=_number(status, "failed") or 0,
            start=_time(status, "startTime"),
            end=_time(status, "completionTime"),
            complete=_true(conditions, "Complete"),
            failure=_true(conditions, "Failed"),
        )

    @property
    def finished(self) -> bool:
        """Whether the Job controller will start no further pod."""
        return self.complete is not None or self.failure is not None


@dataclass(frozen=True, slots=True)
class ObservedContainer:
    """State of one container: waiting, running or terminated."""

    name: str
    image: str
    state: str
    """`waiting`, `running`, `terminated`, or empty where the kubelet has said nothing yet."""
    reason: str
    message: str
    """Of a terminated trainer this is its termination message."""
    exit_code: int | None
    started: datetime | None
    finished: datetime | None


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """What matters of one Pod."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    job_name: str
    job_uid: str
    phase: str
    node: str
    reason: str
    message: str
    """Of the pod as a whole, such as the kubelet's word about an eviction."""
    created: datetime | None
    deleting: bool
    started: datetime | None
    unschedulable: ObservedCondition | None
    """PodScheduled where it is not True."""
    disruption: ObservedCondition | None
    """DisruptionTarget where it is True: preempted, drained, evicted by the API or by taint."""
    trainer: ObservedContainer | None
    init_containers: tuple[ObservedContainer, ...] = ()

    @classmethod
    def from_object(cls, body: RawObject) -> Self:
        """Project a Pod of the API server."""
        metadata, spec, status = _map(body, "metadata"), _map(body, "spec"), _map(body, "status")
        conditions = _conditions(status)
        containers = _containers(status, "containerStatuses")
        return cls(
            name=_text(metadata, "name"),
            namespace=_text(metadata, "namespace"),
            uid=_text(metadata, "uid"),
            resource_version=_text(metadata, "resourceVersion"),
            job_name=_text(_map(metadata, "labels"), "batch.kubernetes.io/job-name"),
            job_uid=_controller(metadata),
            phase=_text(status, "phase"),
            node=_text(spec, "nodeName"),
            reason=_text(status, "reason"),
            message=_text(status, "message"),
            created=_time(metadata, "creationTimestamp"),
            deleting=_time(metadata, "deletionTimestamp") is not None,
            started=_time(status, "startTime"),
            unschedulable=next(
                (one for one in conditions if one.type == "PodScheduled" and one.status != "True"),
                None,
            ),
            disruption=_true(conditions, "DisruptionTarget"),
            trainer=next((one for one in containers if one.name == wire.TRAINER_CONTAINER), None),
            init_containers=_containers(status, "initContainerStatuses"),
        )

    @property
    def ended(self) -> bool:
        """Whether the pod will never run again."""
        if self.phase in ("Succeeded", "Failed"):
            return True
        return self.trainer is not None and self.trainer.state == "terminated"


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A Warning event about the Job, or about one of its pods."""

    reason: str
    message: str
    time: datetime | None
    about: str = ""
    """Name of the Job or Pod."""

    @classmethod
    def from_object(cls, body: RawObject) -> Self:
        """Project a core/v1 Event; of a repeated one the last time counts."""
        times = (_time(body, key) for key in ("lastTimestamp", "eventTime", "firstTimestamp"))
        return cls(
            reason=_text(body, "reason"),
            message=_text(body, "message"),
            time=next((one for one in times if one is not None), None),
            about=_text(_map(body, "involvedObject"), "name"),
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """A create that the API server refused: quota, admission, forbidden."""

    kind: str
    name: str
    message: str


@dataclass(frozen=True)
class Observed:
    """Everything about one LanguageFinetune at one moment; all that `decide` ever knows."""

    body: RawObject
    """The resource itself, as stored."""
    jobs: tuple[ObservedJob, ...] = ()
    """Jobs whose controller is the resource."""
    pods: tuple[ObservedPod, ...] = ()
    """Pods of these Jobs."""
    job_events: tuple[JobEvent, ...] | None = None
    """Warning events about the Jobs and their pods; None until `Lookups.job_events` is fetched."""
    pinned_plan: str | None = None
    """The plan that a run without a Job began with, as JSON; empty if its ConfigMap is gone; None until
    `Lookups.pinned_plan` is fetched."""
    name_conflicts: tuple[str, ...] = ()
    """Names that the last creates found taken by objects of somebody else."""
    predecessors: tuple[str, ...] = ()
    """Names that the last creates found taken by what a deleted resource of this name left."""
    rejected: tuple[Rejection, ...] = field(default=())
    """Creates that the API server just refused."""

    @property
    def is_refused(self) -> bool:
        """Whether the last creates were refused, for whatever reason."""
        return bool(self.name_conflicts or self.predecessors or self.rejected)


def _map(value: object, key: str) -> RawObject:
    inner = value.get(key) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _secrets(trainer: RawObject) -> frozenset[tuple[str, str]]:
    """Return the Secrets that we gave; a policy of the cluster may add others to every Job."""
    sources = ((_text(one, "prefix"), _map(one, "secretRef")) for one in _items(trainer, "envFrom"))
    return frozenset(
        (prefix, _text(secret, "name"))
        for prefix, secret in sources
        if prefix.startswith(wire.CREDENTIALS_BEGIN)
    )


def _items(value: RawObject, key: str) -> Iterator[RawObject]:
    inner = value.get(key)
    return (one for one in (inner if isinstance(inner, list) else ()) if isinstance(one, Mapping))


def _named(value: RawObject, key: str, *, name: str) -> Iterator[RawObject]:
    return (one for one in _items(value, key) if one.get("name") == name)


def _text(value: RawObject, key: str) -> str:
    inner = value.get(key)
    return inner[:MESSAGE_LIMIT] if isinstance(inner, str) else ""


def _number(value: RawObject, key: str) -> int | None:
    inner = value.get(key)
    return inner if isinstance(inner, int) and not isinstance(inner, bool) else None


def _digits(value: RawObject, key: str) -> int:
    text = _text(value, key)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _time(value: RawObject, key: str) -> datetime | None:
    return parse_time(value.get(key))


def parse_time(value: object) -> datetime | None:
    """Return the moment that an RFC 3339 text names, or None where it names none."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _controller(metadata: RawObject) -> str:
    owners = _items(metadata, "ownerReferences")
    return next((_text(owner, "uid") for owner in owners if owner.get("controller") is True), "")


def _conditions(status: RawObject) -> tuple[ObservedCondition, ...]:
    return tuple(
        ObservedCondition(
            type=_text(one, "type"),
            status=_text(one, "status"),
            reason=_text(one, "reason"),
            message=_text(one, "message"),
            time=_time(one, "lastTransitionTime"),
        )
        for one in _items(status, "conditions")
    )


def _true(conditions: tuple[ObservedCondition, ...], wanted: str) -> ObservedCondition | None:
    return next((one for one in conditions if one.type == wanted and one.status == "True"), None)


def _containers(status: RawObject, key: str) -> tuple[ObservedContainer, ...]:
    return tuple(_container(one) for one in _items(status, key))


def _container(raw: RawObject) -> ObservedContainer:
    states = _map(raw, "state")
    state = next((one for one in ("terminated", "running", "waiting") if one in states), "")
    detail = _map(states, state)
    return ObservedContainer(
        name=_text(raw, "name"),
        image=_text(raw, "image"),
        state=state,
        reason=_text(detail, "reason"),
        message=_text(detail, "message"),
        exit_code=_number(detail, "exitCode"),
        started=_time(detail, "startedAt"),
        finished=_time(detail, "finishedAt"),
    )
