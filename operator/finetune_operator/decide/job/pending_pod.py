"""Why a pod does not run yet, in a sentence that says who must do what.

`decide` asks about the one pod that should be running; `diagnosis` says what an answer is. The texts
of scheduler and kubelet are read here and nowhere else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from finetune_operator.decide.job.diagnosis import Actor, Diagnosis, newest, plain_words
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.observation import (
    JobEvent,
    ObservedContainer,
    ObservedJob,
    ObservedPod,
)
from finetune_operator.decide.values.operator_config import DecisionContext


@dataclass(frozen=True)
class PodWait:
    """A pod that does not run yet, and what is known of it."""

    job: ObservedJob
    pod: ObservedPod
    events: tuple[JobEvent, ...]
    now: datetime
    context: DecisionContext


PULL_REASONS: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
"""Why the kubelet has no image, in its own words."""
CREATE_REASONS: Final = frozenset({"CreateContainerError", "RunContainerError"})
"""The image is there and the container cannot be made of it."""


def diagnose_waiting(waiting: PodWait) -> Diagnosis:
    """Return why the pod does not run yet; the first check that applies has the last word."""
    for check in WAITING_CHECKS:
        diagnosis = check(waiting)
        if diagnosis is not None:
            return diagnosis
    return _starting(waiting)


def is_pull_timed_out(waiting: PodWait) -> bool:
    """Return whether the image could not be pulled for so long that the run has failed.

    Counted from when the kubelet took the pod, so that slow pulls of huge images count too; only a
    pull that is failing now ends the run.
    """
    if _pull(waiting) is None or waiting.pod.started is None:
        return False
    limit = timedelta(seconds=waiting.context.image_pull_timeout_s)
    return waiting.now - waiting.pod.started >= limit


def seconds_to_recheck(waiting: PodWait) -> float | None:
    """Return the seconds after which time alone may change the diagnosis, or None."""
    pod, context = waiting.pod, waiting.context
    if _pull(waiting) is not None and pod.started is not None:
        return _left(waiting, since=pod.started, limit_s=context.image_pull_timeout_s)
    if pod.started is not None and not _says_why(pod):
        left = _left(waiting, since=pod.started, limit_s=context.pod_stuck_after_s)
        # A stuck pod is looked at again and again: its events come without a change of the pod.
        return left if left > 0 else float(context.pod_stuck_after_s)
    return None


# --- Checks of a pod that exists, in the order of a pod's life ------------------------------------


def _deleted(waiting: PodWait) -> Diagnosis | None:
    if not waiting.pod.deleting:
        return None
    return Diagnosis(
        reason=conditions.POD_STOPPING,
        message=f"Pod {waiting.pod.name} is being stopped; another follows once it is gone.",
        actor=Actor.NONE,
        retry=True,
    )


def _gated(waiting: PodWait) -> Diagnosis | None:
    unscheduled = waiting.pod.unschedulable
    if unscheduled is None or unscheduled.reason != "SchedulingGated":
        return None
    return Diagnosis(
        reason=conditions.SCHEDULING_GATED,
        message=(
            f"Pod {waiting.pod.name} waits behind a scheduling gate; whatever set the gate (a queue, "
            "a policy) removes it."
        ),
        actor=Actor.NONE,
        retry=True,
    )


def _unschedulable(waiting: PodWait) -> Diagnosis | None:
    unscheduled = waiting.pod.unschedulable
    if unscheduled is None or unscheduled.reason != "Unschedulable":
        return None
    lacks = "; ".join(_lacks(unscheduled.message, job=waiting.job)) or plain_words(
        unscheduled.message
    )
    return Diagnosis(
        reason=conditions.UNSCHEDULABLE,
        message=(
            f"No node can take pod {waiting.pod.name}: {lacks or 'the scheduler does not say why'}. "
            "It starts by itself as soon as one can."
        ),
        actor=Actor.USER,
        retry=True,
    )


def _lacks(text: str, *, job: ObservedJob) -> Iterator[str]:
    """Yield what the scheduler misses, in the user's words and always in the same order."""
    for resource in sorted(set(re.findall(r"Insufficient ([\w./-]+)", text))):
        yield _lacking_resource(resource.rstrip("."), job=job)
    for taint in sorted(set(re.findall(r"untolerated taint(?:\(s\))? \{([^}]*)\}", text))):
        key = taint.partition(":")[0].strip()
        yield f"nodes have the taint {key}, which spec.scheduling.tolerations does not tolerate"
    if "untolerated taint(s)" in text and "{" not in text:
        yield "nodes have taints that spec.scheduling.tolerations does not tolerate"
    if "node affinity/selector" in text:
        yield "no node has the labels of spec.scheduling.nodeSelector"
    claim = re.search(r"persistentvolumeclaim \"([^\"]+)\" not found", text)
    if claim is not None:
        yield f"PersistentVolumeClaim {claim[1]} does not exist in this namespace; create it"
    if "unbound immediate PersistentVolumeClaims" in text:
        yield "a PersistentVolumeClaim it reads is not bound to a volume"
    if "volume node affinity conflict" in text:
        yield "the volume of a PersistentVolumeClaim it reads is bound to another node or zone"


def _lacking_resource(resource: str, *, job: ObservedJob) -> str:
    if resource == "nvidia.com/gpu":
        asked = f" (the run asks for {job.gpus})" if job.gpus else ""
        return f"not enough free nvidia.com/gpu{asked}"
    field = {"cpu": "cpu", "memory": "memory", "ephemeral-storage": "ephemeral-storage"}
    if resource in field:
        return f"not enough free {resource} for spec.resources.requests.{field[resource]}"
    return f"not enough free {resource}"


def _pull(waiting: PodWait) -> Diagnosis | None:
    container = _stuck_container(waiting.pod, PULL_REASONS)
    if container is None:
        return None
    image = waiting.job.image or container.image or "of the trainer"
    return Diagnosis(
        reason=conditions.IMAGE_PULL_FAILING,
        message=f"Image {image} cannot be pulled: {_pull_cause(container)}",
        actor=Actor.ADMINISTRATOR,
        retry=True,
    )


NO_ANSWER: Final = (
    "no such host",
    "server misbehaving",  # a name server's own failure, reported in turns with the others
    "name resolution",
    "timeout",
    "refused",
    "unreachable",
    "eof",
)
"""Words of a registry that is not reached; one cause, or each of the node's tries were a status write."""


def _pull_cause(container: ObservedContainer) -> str:
    """Return cause and remedy; the kubelet's own words alternate between two states all the time."""
    text = f"{container.reason} {container.message}".lower()
    if "invalidimagename" in text:
        return "its name is not a legal image reference; correct it and start a new run."
    if "errimageneverpull" in text:
        return "the node does not have it and the pull policy is Never; load it onto the node."
    if any(word in text for word in ("401", "403", "unauthorized", "denied", "authentication")):
        return (
            "the registry refuses access; check the image's name and the image pull secrets that "
            "the operator's settings name."
        )
    if "not found" in text or "manifest unknown" in text:
        return "the registry does not have it; check its name, tag and digest."
    if any(word in text for word in NO_ANSWER):
        return "the registry does not answer; check its host name and the node's network."
    return "the node will try again; check its name and the node's access to the registry."


def _config(waiting: PodWait) -> Diagnosis | None:
    container = _stuck_container(waiting.pod, frozenset({"CreateContainerConfigError"}))
    if container is None:
        return None
    return diagnose_container_config(container.message, namespace=waiting.job.namespace)


def diagnose_container_config(text: str, *, namespace: str) -> Diagnosis:
    """Return what the kubelet misses before it can make the container."""
    missing = re.search(r"secret \"([^\"]+)\" not found", text, re.IGNORECASE)
    if missing is not None:
        return Diagnosis(
            reason=conditions.CREDENTIALS_MISSING,
            message=(
                f"Secret {missing[1]} does not exist in namespace {namespace}; create it and the "
                "run starts by itself."
            ),
            actor=Actor.USER,
            retry=True,
        )
    key = re.search(r"couldn't find key (\S+) in Secret (\S+)", text, re.IGNORECASE)
    if key is not None:
        return Diagnosis(
            reason=conditions.CREDENTIALS_KEY_MISSING,
            message=f"Secret {key[2]} has no key {key[1]}; add it and the run starts by itself.",
            actor=Actor.USER,
            retry=True,
        )
    return Diagnosis(
        reason=conditions.CONTAINER_CONFIG_INVALID,
        message=f"The kubelet cannot configure the trainer's container: {plain_words(text)}.",
        actor=Actor.ADMINISTRATOR,
        retry=True,
    )


def _create(waiting: PodWait) -> Diagnosis | None:
    container = _stuck_container(waiting.pod, CREATE_REASONS)
    if container is None:
        return None
    return Diagnosis(
        reason=conditions.CONTAINER_NOT_STARTED,
        message=(
            f"The node cannot start image {waiting.job.image}: {plain_words(container.message)}; check "
            "that it is a trainer image for the node's architecture."
        ),
        actor=Actor.ADMINISTRATOR,
        retry=True,
    )


def _mount(waiting: PodWait) -> Diagnosis | None:
    for event in newest(waiting.events):
        if event.reason in ("FailedMount", "FailedAttachVolume"):
            return diagnose_mount(event.message, namespace=waiting.job.namespace)
        if event.reason == "FailedCreatePodSandBox":
            return Diagnosis(
                reason=conditions.SANDBOX_NOT_CREATED,
                message=(
                    f"Node {waiting.pod.node} cannot set up pod {waiting.pod.name}; check the "
                    "node's container runtime and network plugin."
                ),
                actor=Actor.ADMINISTRATOR,
                retry=True,
            )
    return None


def diagnose_mount(text: str, *, namespace: str) -> Diagnosis:
    """Return why a volume cannot be mounted."""
    config_map = re.search(r"configmap \"([^\"]+)\" not found", text, re.IGNORECASE)
    if config_map is not None:
        return Diagnosis(
            reason=conditions.CONFIG_MAP_MISSING,
            message=(
                f"ConfigMap {config_map[1]}, which holds the plan, is gone from namespace "
                f"{namespace}; delete the Job and the operator creates both again."
            ),
            actor=Actor.USER,
            retry=True,
        )
    claim = re.search(r"persistentvolumeclaim \"([^\"]+)\"", text, re.IGNORECASE)
    named = f"PersistentVolumeClaim {claim[1]}" if claim is not None else "A volume"
    return Diagnosis(
        reason=conditions.VOLUME_NOT_MOUNTED,
        message=f"{named} cannot be mounted: {plain_words(text)}; the node tries again by itself.",
        actor=Actor.ADMINISTRATOR,
        retry=True,
    )


def _starting(waiting: PodWait) -> Diagnosis:
    pod = waiting.pod
    if pod.started is None:
        message = f"Pod {pod.name} is created and waits for a node."
    else:
        message = f"Pod {pod.name} is starting on node {pod.node}; a large image takes minutes."
    left = 1.0
    if pod.started is not None:
        left = _left(waiting, since=pod.started, limit_s=waiting.context.pod_stuck_after_s)
    return Diagnosis(
        reason=conditions.POD_STARTING,
        message=message,
        actor=Actor.NONE,
        retry=True,
        needs_events=left <= 0,
    )


WAITING_CHECKS: Final = (
    _deleted,  # nothing else matters of a pod that goes
    _gated,  # it may not even be looked at by the scheduler
    _unschedulable,  # no node
    _pull,  # a node, no image
    _config,  # an image, no Secret
    _create,  # all there, and the runtime says no
    _mount,  # the pod says nothing: its events do
)


def _stuck_container(pod: ObservedPod, reasons: frozenset[str]) -> ObservedContainer | None:
    containers = (*pod.init_containers, *((pod.trainer,) if pod.trainer else ()))
    return next(
        (one for one in containers if one.state == "waiting" and one.reason in reasons), None
    )


def _says_why(pod: ObservedPod) -> bool:
    stuck = PULL_REASONS | CREATE_REASONS | {"CreateContainerConfigError"}
    return pod.deleting or _stuck_container(pod, stuck) is not None


def _left(waiting: PodWait, *, since: datetime, limit_s: int) -> float:
    return limit_s - (waiting.now - since).total_seconds()
