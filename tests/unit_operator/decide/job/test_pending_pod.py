"""Why a pod does not run yet: the cluster's texts beside the operator's sentence."""

from typing import Any

import pytest

from finetune_operator.decide.job.diagnosis import diagnose_missing_pod, diagnose_refusal
from finetune_operator.decide.job.pending_pod import (
    PodWait,
    diagnose_container_config,
    diagnose_mount,
    diagnose_waiting,
    is_pull_timed_out,
    seconds_to_recheck,
)
from finetune_operator.decide.values.observation import JobEvent, ObservedJob, ObservedPod
from tests.unit_operator.decide.story import CONTEXT, START, build_raw_job, build_raw_pod

IMAGE = CONTEXT.trainer_image
POD = "swahili-assistant-1-train-1-x7k2p"


def waiting(
    *,
    reason: str = "",
    message: str = "",
    at_s: int = 20,
    events: tuple[JobEvent, ...] = (),
    **pod: Any,
) -> PodWait:
    job = build_raw_job({})
    status: dict[str, Any] = {"phase": "Pending", "startTime": "2026-01-05T10:00:00Z"}
    if reason:
        state = {"waiting": {"reason": reason, "message": message}}
        status["containerStatuses"] = [{"name": "trainer", "state": state}]
    raw = build_raw_pod({"node": "gpu-1", "status": status | pod.pop("status", {}), **pod}, job=job)
    return PodWait(
        job=ObservedJob.from_object(job),
        pod=ObservedPod.from_object(raw),
        events=events,
        now=START.replace(minute=at_s // 60, second=at_s % 60),
        context=CONTEXT,
    )


def unscheduled(message: str, reason: str = "Unschedulable") -> PodWait:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return waiting(status={"startTime": None, "conditions": [condition]})


def event(reason: str, message: str, time: str | None = "2026-01-05T10:00:30Z") -> JobEvent:
    return JobEvent.from_object({"reason": reason, "message": message, "lastTimestamp": time})


PULLS = {
    "name is illegal": (
        "InvalidImageName",
        'Failed to apply default image tag "A//b": invalid reference format',
        "its name is not a legal image reference; correct it and start a new run.",
    ),
    "policy is Never": (
        "ErrImageNeverPull",
        "Container image is not present with pull policy of Never",
        "the node does not have it and the pull policy is Never; load it onto the node.",
    ),
    "no access": (
        "ErrImagePull",
        "pull access denied, repository does not exist or may require authorization",
        (
            "the registry refuses access; check the image's name and the image pull secrets that the "
            "operator's settings name."
        ),
    ),
    "not there": (
        "ImagePullBackOff",
        "manifest unknown",
        "the registry does not have it; check its name, tag and digest.",
    ),
    "no registry": (
        "ErrImagePull",
        "dial tcp: lookup registry.example: no such host",
        "the registry does not answer; check its host name and the node's network.",
    ),
    "no name server": (
        "ErrImagePull",
        "dial tcp: lookup registry.example on 10.0.0.10:53: server misbehaving",
        "the registry does not answer; check its host name and the node's network.",
    ),
    "no detail": (
        "ImagePullBackOff",
        "Back-off pulling image",
        "the node will try again; check its name and the node's access to the registry.",
    ),
}


@pytest.mark.parametrize(("reason", "text", "cause"), PULLS.values(), ids=PULLS)
def test_an_image_that_cannot_be_pulled_is_named_with_the_cause(
    reason: str, text: str, cause: str
) -> None:
    diagnosis = diagnose_waiting(waiting(reason=reason, message=text))
    assert diagnosis.reason == "ImagePullFailing"
    assert diagnosis.message == f"Image {IMAGE} cannot be pulled: {cause}"


SCHEDULER = {
    "memory": (
        "0/2 nodes are available: 2 Insufficient memory.",
        "not enough free memory for spec.resources.requests.memory",
    ),
    "another resource": (
        "0/2 nodes are available: 2 Insufficient example.com/fpga.",
        "not enough free example.com/fpga",
    ),
    "taints without detail": (
        "0/2 nodes are available: 2 node(s) had untolerated taint(s).",
        "nodes have taints that spec.scheduling.tolerations does not tolerate",
    ),
    "node selector": (
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
        "no node has the labels of spec.scheduling.nodeSelector",
    ),
    "claim missing": (
        'persistentvolumeclaim "models" not found',
        "PersistentVolumeClaim models does not exist in this namespace; create it",
    ),
    "claim unbound": (
        "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
        "a PersistentVolumeClaim it reads is not bound to a volume",
    ),
    "volume elsewhere": (
        "0/2 nodes are available: 2 node(s) had volume node affinity conflict.",
        "the volume of a PersistentVolumeClaim it reads is bound to another node or zone",
    ),
    "unknown words": ("no nodes available to schedule pods", "no nodes available to schedule pods"),
    "no words": ("", "the scheduler does not say why"),
}


@pytest.mark.parametrize(("text", "lack"), SCHEDULER.values(), ids=SCHEDULER)
def test_what_no_node_has_is_told_in_the_words_of_the_resource(text: str, lack: str) -> None:
    diagnosis = diagnose_waiting(unscheduled(text))
    assert diagnosis.reason == "Unschedulable"
    assert diagnosis.message == (
        f"No node can take pod {POD}: {lack}. It starts by itself as soon as one can."
    )


def test_a_cpu_job_that_lacks_a_gpu_is_not_told_how_many_it_asked_for() -> None:
    job = build_raw_job({})
    job["spec"]["template"]["spec"]["containers"][0]["resources"] = {}
    plain = unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    without = PodWait(ObservedJob.from_object(job), plain.pod, (), plain.now, CONTEXT)
    assert "not enough free nvidia.com/gpu." in diagnose_waiting(without).message


def test_a_gated_pod_waits_for_its_gate() -> None:
    diagnosis = diagnose_waiting(unscheduled("gated", reason="SchedulingGated"))
    assert diagnosis.reason == "SchedulingGated"
    assert diagnosis.message == (
        f"Pod {POD} waits behind a scheduling gate; whatever set the gate (a queue, a policy) "
        "removes it."
    )


def test_a_pod_that_nobody_has_looked_at_waits_for_a_node() -> None:
    diagnosis = diagnose_waiting(waiting(status={"startTime": None}))
    assert (diagnosis.reason, diagnosis.needs_events) == ("PodStarting", False)
    assert diagnosis.message == f"Pod {POD} is created and waits for a node."


def test_a_pod_that_goes_is_told_before_everything_else() -> None:
    gone = waiting(reason="ErrImagePull", metadata={"deletionTimestamp": "2026-01-05T10:00:00Z"})
    assert diagnose_waiting(gone).message == (
        f"Pod {POD} is being stopped; another follows once it is gone."
    )


def test_a_pending_init_container_counts_too() -> None:
    state = {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}}
    init = waiting(status={"initContainerStatuses": [{"name": "i", "state": state}]})
    assert diagnose_waiting(init).reason == "ImagePullFailing"


CONFIGS = {
    "missing Secret": (
        'secret "hf-token" not found',
        "SecretMissing",
        "Secret hf-token does not exist in namespace ml; create it and the run starts by itself.",
    ),
    "missing key": (
        "couldn't find key HF_TOKEN in Secret ml/hf-token",
        "SecretKeyMissing",
        "Secret ml/hf-token has no key HF_TOKEN; add it and the run starts by itself.",
    ),
    "else": (
        "container has runAsNonRoot and image will run as root",
        "ContainerConfigInvalid",
        (
            "The kubelet cannot configure the trainer's container: container has runAsNonRoot and "
            "image will run as root."
        ),
    ),
}


@pytest.mark.parametrize(("text", "reason", "message"), CONFIGS.values(), ids=CONFIGS)
def test_what_the_container_lacks_is_named(text: str, reason: str, message: str) -> None:
    diagnosis = diagnose_container_config(text, namespace="ml")
    assert (diagnosis.reason, diagnosis.message) == (reason, message)


def test_an_image_that_does_not_start_is_named() -> None:
    diagnosis = diagnose_waiting(
        waiting(reason="CreateContainerError", message="exec format error")
    )
    assert diagnosis.message == (
        f"The node cannot start image {IMAGE}: exec format error; check that it is a trainer image "
        "for the node's architecture."
    )


MOUNTS = {
    "claim": (
        'persistentvolumeclaim "models" not found',
        (
            'PersistentVolumeClaim models cannot be mounted: persistentvolumeclaim "models" not found; '
            "the node tries again by itself."
        ),
    ),
    "else": (
        "AttachVolume.Attach failed for volume pv-1: timed out.",
        (
            "A volume cannot be mounted: AttachVolume.Attach failed for volume pv-1: timed out; the "
            "node tries again by itself."
        ),
    ),
}


@pytest.mark.parametrize(("text", "message"), MOUNTS.values(), ids=MOUNTS)
def test_a_volume_that_is_not_mounted_is_named(text: str, message: str) -> None:
    assert diagnose_mount(text, namespace="ml").message == message


def test_the_newest_event_counts_and_one_without_time_is_the_oldest() -> None:
    events = (
        event("FailedMount", "no time", None),
        event("FailedMount", "old", "2026-01-05T10:00:01Z"),
        event("FailedCreatePodSandBox", "new", "2026-01-05T10:00:09Z"),
        event("BackOff", "newest and of no interest", "2026-01-05T10:00:10Z"),
    )
    diagnosis = diagnose_waiting(waiting(reason="ContainerCreating", events=events))
    assert diagnosis.message == (
        f"Node gpu-1 cannot set up pod {POD}; check the node's container runtime and network plugin."
    )


def test_events_are_asked_for_once_a_pod_is_stuck() -> None:
    asked = [
        diagnose_waiting(waiting(reason="ContainerCreating", at_s=seconds)).needs_events
        for seconds in (59, 60)
    ]
    assert asked == [False, True]


def test_a_pull_times_out_only_while_it_is_failing() -> None:
    timed_out = [
        is_pull_timed_out(waiting(reason="ErrImagePull", at_s=599)),
        is_pull_timed_out(waiting(reason="ErrImagePull", at_s=600)),
        is_pull_timed_out(waiting(reason="ContainerCreating", at_s=900)),
        is_pull_timed_out(waiting(reason="ErrImagePull", at_s=900, status={"startTime": None})),
    ]
    assert timed_out == [False, True, False, False]


RECHECKS = {
    "a failing pull is looked at when it times out": (waiting(reason="ErrImagePull"), 580.0),
    "a starting pod when it counts as stuck": (waiting(reason="ContainerCreating"), 40.0),
    "a stuck pod every minute": (waiting(reason="ContainerCreating", at_s=90), 60.0),
    "a missing Secret never": (waiting(reason="CreateContainerConfigError"), None),
    "a pod without a node never": (waiting(status={"startTime": None}), None),
    "a pull without a start never": (
        waiting(reason="ErrImagePull", status={"startTime": None}),
        None,
    ),
}


@pytest.mark.parametrize(("pod", "seconds"), RECHECKS.values(), ids=RECHECKS)
def test_time_is_waited_for_only_where_it_changes_something(
    pod: PodWait, seconds: float | None
) -> None:
    assert seconds_to_recheck(pod) == seconds


REFUSALS = {
    "quota": (
        'pods "x" is forbidden: exceeded quota: gpu, requested: a=1, used: a=4,b=2, limited: a=4',
        "QuotaExceeded",
        (
            "exceeded quota: gpu, requested: a=1, limited: a=4; it is created by itself once the quota "
            "has room: wait for other work to end, ask for less in spec.resources, or have the quota "
            "raised"
        ),
    ),
    "pod security": (
        'pods "x" is forbidden: violates PodSecurity "restricted:latest": hostPath',
        "PodSecurityRefused",
        (
            'violates PodSecurity "restricted:latest": hostPath; the pod satisfies Pod Security '
            "restricted as it leaves the operator: look for a webhook that changes pods"
        ),
    ),
    "webhook": (
        'admission webhook "policy.example" denied the request: no tag latest.',
        "AdmissionRefused",
        (
            'admission webhook "policy.example" denied the request: no tag latest; change what the '
            "policy names, or have the policy changed; it is tried again by itself"
        ),
    ),
    "limit range": (
        'pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 32Gi',
        "LimitRangeRefused",
        (
            "maximum memory usage per Container is 1Gi, but limit is 32Gi; set spec.resources.requests "
            "and spec.resources.limits within the namespace's LimitRange"
        ),
    ),
    "service account": (
        'pods "x" is forbidden: error looking up service account ml/t: serviceaccount "t" not found',
        "ServiceAccountMissing",
        (
            'error looking up service account ml/t: serviceaccount "t" not found; create the '
            "ServiceAccount, or change spec.scheduling.serviceAccountName; it is tried again by itself"
        ),
    ),
    "priority class": (
        'pods "x" is forbidden: no PriorityClass with name urgent was found',
        "PriorityClassMissing",
        (
            "no PriorityClass with name urgent was found; create the PriorityClass, or name another in "
            "spec.scheduling.priorityClassName"
        ),
    ),
    "else": (
        "the server could not find the requested resource",
        "CreateRefused",
        "the server could not find the requested resource; it is tried again by itself",
    ),
}


@pytest.mark.parametrize(("text", "reason", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_of_the_cluster_is_told_with_its_remedy(
    text: str, reason: str, message: str
) -> None:
    diagnosis = diagnose_refusal(text, what="Job j")
    assert diagnosis.reason == reason
    assert diagnosis.message == f"The cluster refused Job j: {message}."


def test_what_is_used_of_a_quota_does_not_change_the_sentence() -> None:
    text = "exceeded quota: gpu, requested: a=1, used: a={}, limited: a=4"
    first, second = (diagnose_refusal(text.format(used), what="it") for used in (4, 3))
    assert first == second


def test_a_job_without_any_time_is_young() -> None:
    job = ObservedJob.from_object({"metadata": {"name": "j"}})
    diagnosis = diagnose_missing_pod(job, events=(), now=START, context=CONTEXT)
    assert diagnosis.message == "Job j is created and its pod follows."
