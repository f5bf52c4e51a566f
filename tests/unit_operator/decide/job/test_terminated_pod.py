"""How a pod ended: each exit code, each killer, and what counts as proof."""

import json
from typing import Any

import pytest

from finetune_api import wire
from finetune_api.outcome import Outcome, Published, Stage
from finetune_operator.decide.job.terminated_pod import (
    Ended,
    diagnose_ended,
    diagnose_failed_job,
    exit_code,
    proved_outcome,
)
from finetune_operator.decide.values.observation import ObservedCondition, ObservedJob, ObservedPod
from tests.unit_operator.decide.story import build_raw_job, build_raw_pod

RAW_JOB = build_raw_job({})
JOB = ObservedJob.from_object(RAW_JOB)
POD = "swahili-assistant-1-train-1-x7k2p"
PUBLISHED = Published(uri="s3://b/p", manifest_sha256="a" * 64, size_bytes=1, files=1)


def ended(
    code: int | None, *, outcome: Outcome | None = None, text: str = "", **status: Any
) -> Ended:
    said = outcome.to_termination_message() if outcome else text
    reason = status.pop("killed", "")
    terminated = {"exitCode": code, "message": said, "reason": reason}
    containers = [{"name": "trainer", "state": {"terminated": terminated}}]
    raw = {
        "node": "gpu-1",
        "status": {
            "phase": "Failed",
            "containerStatuses": containers if code is not None else [],
            **status,
        },
    }
    return Ended(pod=ObservedPod.from_object(build_raw_pod(raw, job=RAW_JOB)), job=JOB)


def outcome(code: int, **changes: Any) -> Outcome:
    values = {"reason": "Done", "stage": Stage.PUBLISH, "message": "m", "plan_hash": JOB.plan_hash}
    return Outcome(exit_code=code, **values | changes)


def disrupted(reason: str) -> list[dict[str, str]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": ""}]


@pytest.mark.parametrize("code", [code for code in wire.ExitCode if code], ids=lambda one: one.name)
def test_an_exit_code_without_an_outcome_still_says_what_to_do(code: wire.ExitCode) -> None:
    diagnosis = diagnose_ended(ended(code))
    assert diagnosis.message.startswith(f"The trainer ended with exit code {code.value}: ")
    assert diagnosis.retry == (code not in wire.USELESS_TO_RETRY)


@pytest.mark.parametrize("code", [code for code in wire.ExitCode if code], ids=lambda one: one.name)
def test_the_trainers_own_words_come_first(code: wire.ExitCode) -> None:
    own = outcome(code, reason="BucketNotFound", message="Bucket b does not exist.")
    diagnosis = diagnose_ended(ended(code, outcome=own))
    assert (diagnosis.reason, diagnosis.message) == ("BucketNotFound", "Bucket b does not exist.")


OWN_REASONS = {
    "a reason that Kubernetes refuses": (65, outcome(65, reason="not one!"), "DataInvalid"),
    "an unknown code": (42, outcome(42, reason="not one!"), "UnexpectedExit"),
    "an unknown code with a good reason": (42, outcome(42, reason="Odd"), "Odd"),
    "an outcome of another end": (65, outcome(69, reason="Other"), "DataInvalid"),
}


@pytest.mark.parametrize(("code", "own", "reason"), OWN_REASONS.values(), ids=OWN_REASONS)
def test_a_reason_is_always_one_that_kubernetes_takes(code: int, own: Outcome, reason: str) -> None:
    assert diagnose_ended(ended(code, outcome=own)).reason == reason


EMPTY_MESSAGES = {
    "known": (65, "the training data is invalid; the pod's log names file and line"),
    "unknown": (42, "the trainer left no message"),
}


@pytest.mark.parametrize(("code", "message"), EMPTY_MESSAGES.values(), ids=EMPTY_MESSAGES)
def test_an_outcome_without_words_is_told_in_ours(code: int, message: str) -> None:
    own = outcome(code, reason="DataInvalid", message="")
    assert diagnose_ended(ended(code, outcome=own)).message == message


KILLERS = {
    "memory limit": (
        ended(137, killed="OOMKilled"),
        "OOMKilled",
        (
            "The trainer needed more memory than its limit of 32Gi (main memory, not the GPU's) and "
            "was killed; raise spec.resources.limits.memory."
        ),
    ),
    "disk": (
        ended(137, reason="Evicted", message='Usage of EmptyDir volume "work" exceeds the limit.'),
        "Evicted",
        (
            f'Pod {POD} was evicted from node gpu-1 for local disk: Usage of EmptyDir volume "work" '
            "exceeds the limit; raise spec.resources.limits.ephemeral-storage. This counts as an "
            "attempt."
        ),
    ),
    "memory of the node": (
        ended(
            137,
            reason="Evicted",
            message="The node was low on resource: memory.",
            conditions=disrupted("TerminationByKubelet"),
        ),
        "Evicted",
        (
            f"Pod {POD} was evicted from node gpu-1 for memory: The node was low on resource: memory; "
            "raise spec.resources.requests.memory to what the run needs."
        ),
    ),
    "another resource of the node": (
        ended(None, reason="Evicted", message="The node was low on resource: pids."),
        "Evicted",
        (
            f"Pod {POD} was evicted from node gpu-1 for a resource of its node: The node was low on "
            "resource: pids; see the node's events. This counts as an attempt."
        ),
    ),
    "preemption": (
        ended(75, conditions=disrupted("PreemptionByScheduler")),
        "Preempted",
        (
            f"Pod {POD} was preempted by a pod of higher priority; this does not count as an attempt "
            "and another pod resumes."
        ),
    ),
    "drain": (
        ended(143, conditions=disrupted("EvictionByEvictionAPI")),
        "Disrupted",
        (
            f"Pod {POD} was evicted, as a drain of its node does; this does not count as an attempt "
            "and another pod resumes."
        ),
    ),
    "unknown disruption": (
        ended(143, conditions=disrupted("Odd")),
        "Disrupted",
        (
            f"Pod {POD} was stopped by the cluster; this does not count as an attempt and another pod "
            "resumes."
        ),
    ),
    "lost node": (
        ended(None, conditions=disrupted("DeletionByPodGC")),
        "NodeLost",
        (
            f"Pod {POD} was lost with its node; this does not count as an attempt and another pod "
            "resumes."
        ),
    ),
    "node shut down": (
        ended(None, reason="NodeShutdown"),
        "NodeLost",
        f"Node gpu-1 of pod {POD} went away; another pod resumes.",
    ),
    "asked to stop": (
        ended(143),
        "Terminated",
        f"The trainer of pod {POD} was asked to stop and ended without a checkpoint.",
    ),
    "killed": (
        ended(137),
        "Killed",
        (
            f"The trainer of pod {POD} was killed: it was asked to stop and took longer than its grace "
            "period, or its node ran out of memory."
        ),
    ),
    "a crash": (
        ended(139),
        "UnexpectedExit",
        f"The trainer of pod {POD} ended with exit code 139; see the pod's log.",
    ),
    "a crash with words": (
        ended(1, text="boom."),
        "UnexpectedExit",
        f"The trainer of pod {POD} ended with exit code 1: boom.",
    ),
    "never started": (
        ended(None, message="Pod was rejected: UnexpectedAdmissionError"),
        "UnexpectedExit",
        f"Pod {POD} ended before its trainer started: Pod was rejected: UnexpectedAdmissionError.",
    ),
    "drained after it had found its data invalid": (
        ended(
            65,
            outcome=outcome(65, reason="DataInvalid", message="Line 37 is no JSON."),
            conditions=disrupted("EvictionByEvictionAPI"),
        ),
        "DataInvalid",
        "Line 37 is no JSON.",
    ),
}


@pytest.mark.parametrize(("end", "reason", "message"), KILLERS.values(), ids=KILLERS)
def test_what_killed_a_pod_is_told(end: Ended, reason: str, message: str) -> None:
    diagnosis = diagnose_ended(end)
    assert (diagnosis.reason, diagnosis.message) == (reason, message)


def test_a_pod_without_a_memory_limit_was_killed_by_its_nodes_need() -> None:
    raw = json.loads(json.dumps(RAW_JOB))
    raw["spec"]["template"]["spec"]["containers"][0]["resources"] = {}
    end = ended(137, killed="OOMKilled")
    diagnosis = diagnose_ended(Ended(pod=end.pod, job=ObservedJob.from_object(raw)))
    assert diagnosis.message.startswith("The trainer needed more memory than what its node has ")


NO_PROOFS = {
    "no outcome": ended(0),
    "half an outcome": ended(0, text='{"exitCode": 0'),
    "nothing published": ended(0, outcome=outcome(0)),
    "an outcome that says otherwise": ended(0, outcome=outcome(73, published=PUBLISHED)),
    "an exit code that says otherwise": ended(70, outcome=outcome(0, published=PUBLISHED)),
    "another plan": ended(0, outcome=outcome(0, published=PUBLISHED, plan_hash="b" * 64)),
}


@pytest.mark.parametrize("end", NO_PROOFS.values(), ids=NO_PROOFS)
def test_less_than_proof_is_no_success(end: Ended) -> None:
    assert proved_outcome(end.pod, job=JOB) is None


def test_an_outcome_with_what_was_published_for_this_plan_is_proof() -> None:
    own = outcome(0, published=PUBLISHED)
    assert proved_outcome(ended(0, outcome=own).pod, job=JOB) == own


def test_a_pod_without_a_trainer_has_no_exit_code() -> None:
    assert exit_code(ended(None).pod) is None


def failure(reason: str, message: str = "it failed") -> ObservedCondition:
    return ObservedCondition("Failed", "True", reason, message, None)


@pytest.mark.parametrize("reason", ["", "no reason", "x" * 2000], ids=["none", "odd", "long"])
def test_a_job_that_failed_and_lost_its_pods_is_told_in_its_own_words(reason: str) -> None:
    diagnosis = diagnose_failed_job(JOB, failure=failure(reason), ended=())
    assert diagnosis.reason == "JobFailed"
    assert diagnosis.message == "The Job failed and its pods are gone: it failed."


def test_a_job_that_gave_up_blames_its_last_pod_and_says_how_often_it_tried() -> None:
    pods = (ended(137, killed="OOMKilled").pod, ended(69).pod)
    diagnosis = diagnose_failed_job(JOB, failure=failure("BackoffLimitExceeded"), ended=pods)
    assert diagnosis.reason == "ServiceUnavailable"
    assert diagnosis.message == (
        "The trainer ended with exit code 69: S3 or the hub did not answer; check their endpoints "
        "and the pod's network. It was tried 4 times, as spec.backoffLimit allows."
    )
