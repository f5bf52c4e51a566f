"""How a pod ended: success that is proved, or why not, in a sentence that says who must do what.

The trainer's own outcome has the first word wherever it left one; what killed the pod from outside
(memory, disk, preemption, a lost node) stands in the pod's status. An exit code alone is never
success. `decide` asks once a pod has ended and once the Job controller has given up.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from finetune_api import wire
from finetune_api.outcome import Outcome
from finetune_operator.decide.job.diagnosis import Actor, Diagnosis, plain_words
from finetune_operator.decide.values import conditions
from finetune_operator.decide.values.observation import ObservedCondition, ObservedJob, ObservedPod


@dataclass(frozen=True, slots=True)
class _Exit:
    """What an exit code of the trainer means where it left no outcome."""

    reason: str
    message: str
    actor: Actor


@dataclass(frozen=True, slots=True)
class Ended:
    """A pod that will never run again, and its Job."""

    pod: ObservedPod
    job: ObservedJob


_EXITS: Final = {
    wire.ExitCode.PLAN_INVALID: _Exit(
        "PlanInvalid",
        "the trainer refused the plan; delete the resource and apply it again",
        Actor.USER,
    ),
    wire.ExitCode.DATA_INVALID: _Exit(
        "DataInvalid", "the training data is invalid; the pod's log names file and line", Actor.USER
    ),
    wire.ExitCode.NOT_FOUND: _Exit(
        "NotFound",
        "the model or the data does not exist; check spec.model.uri and dataset.uri",
        Actor.USER,
    ),
    wire.ExitCode.OUT_OF_GPU_MEMORY: _Exit(
        "OutOfGpuMemory",
        "one sequence does not fit the GPU's memory; lower spec.parameters.maxSeqLength, use a "
        "smaller model or a larger GPU",
        Actor.USER,
    ),
    wire.ExitCode.NOT_FINITE: _Exit(
        "NotFinite",
        "loss or gradient became NaN or infinite; lower spec.parameters.learningRate and look at "
        "the data",
        Actor.USER,
    ),
    wire.ExitCode.SERVICE_UNAVAILABLE: _Exit(
        "ServiceUnavailable",
        "S3 or the hub did not answer; check their endpoints and the pod's network",
        Actor.ADMINISTRATOR,
    ),
    wire.ExitCode.BUG: _Exit(
        "TrainerBug",
        "the trainer met a fault of its own; report it with the pod's log",
        Actor.ADMINISTRATOR,
    ),
    wire.ExitCode.OUTPUT_UNWRITABLE: _Exit(
        "OutputUnwritable",
        "nothing can be written to spec.output.uri; check the bucket and the rights of "
        "spec.output.secretRef",
        Actor.USER,
    ),
    wire.ExitCode.INTERRUPTED: _Exit(
        "Interrupted", "it was stopped after a checkpoint and resumes there", Actor.NONE
    ),
    wire.ExitCode.ACCESS_DENIED: _Exit(
        "AccessDenied",
        "credentials were refused; check the keys of the Secrets that the resource names",
        Actor.USER,
    ),
    wire.ExitCode.ENVIRONMENT_UNFIT: _Exit(
        "EnvironmentUnfit",
        "the image or the node cannot train: no usable GPU, or a wrong library",
        Actor.ADMINISTRATOR,
    ),
}

_DISRUPTIONS: Final = {
    "PreemptionByScheduler": (conditions.PREEMPTED, "was preempted by a pod of higher priority"),
    "PreemptionByKueue": (conditions.PREEMPTED, "was preempted by its queue"),
    "EvictionByEvictionAPI": (conditions.DISRUPTED, "was evicted, as a drain of its node does"),
    "DeletionByTaintManager": (conditions.DISRUPTED, "was evicted by a taint of its node"),
    "DeletionByPodGC": (conditions.NODE_LOST, "was lost with its node"),
}
"""The cluster's disruptions, by the reason of DisruptionTarget; none counts as an attempt."""


def proved_outcome(pod: ObservedPod, *, job: ObservedJob) -> Outcome | None:
    """Return the outcome of a pod that did the whole job, or None.

    Proof is exit code 0 together with an outcome that says 0, holds what the Job is for (what was
    published, or what was measured), and is about the plan of this Job.
    """
    outcome = read_outcome(pod)
    if outcome is None or outcome.exit_code != wire.ExitCode.DONE:
        return None
    made = outcome.profile if job.role == wire.ROLE_MEASURE else outcome.published
    if made is None:
        return None
    if job.plan_hash and outcome.plan_hash != job.plan_hash:
        return None
    return outcome if exit_code(pod) == wire.ExitCode.DONE else None


def read_outcome(pod: ObservedPod) -> Outcome | None:
    """Return what the trainer left in the termination message, if it is whole."""
    if pod.trainer is None or pod.trainer.state != "terminated":
        return None
    return Outcome.from_termination_message(pod.trainer.message)


def exit_code(pod: ObservedPod) -> int | None:
    """Return the exit code of the trainer, or None where it has not ended."""
    return pod.trainer.exit_code if pod.trainer is not None else None


def diagnose_ended(ended: Ended) -> Diagnosis:
    """Return why an ended pod is no success; the first check that applies has the last word."""
    for check in ENDED_CHECKS:
        diagnosis = check(ended)
        if diagnosis is not None:
            return diagnosis
    return _unexpected(ended)


def diagnose_failed_job(
    job: ObservedJob,
    *,
    failure: ObservedCondition,
    ended: Iterable[ObservedPod],
    deadline_s: int | None = None,
) -> Diagnosis:
    """Return why the Job controller gave up: the newest pod's reason where a pod is to blame.

    `deadline_s` is the run's, over all attempts; the Job's own is what an attempt had left of it.
    """
    if failure.reason == conditions.DEADLINE_EXCEEDED:
        return Diagnosis(
            reason=conditions.DEADLINE_EXCEEDED,
            message=(
                f"The run took longer than its {deadline_s or job.deadline_s} seconds; create it again with a "
                "longer spec.activeDeadlineSeconds."
            ),
            actor=Actor.USER,
            retry=False,
        )
    pods = list(ended)
    if not pods:
        return _blame_job(failure)
    last = diagnose_ended(Ended(pod=pods[-1], job=job))
    return Diagnosis(
        reason=last.reason,
        message=last.message + _tries(failure, job=job),
        actor=last.actor,
        retry=False,
    )


def _blame_job(failure: ObservedCondition) -> Diagnosis:
    return Diagnosis(
        reason=_legal(failure.reason, fallback=conditions.JOB_FAILED),
        message=f"The Job failed and its pods are gone: {plain_words(failure.message)}.",
        actor=Actor.USER,
        retry=False,
    )


def _tries(failure: ObservedCondition, *, job: ObservedJob) -> str:
    if failure.reason != conditions.BACKOFF_LIMIT_EXCEEDED:
        return ""
    # The Job controller counts only what its policy does not ignore.
    times = f"{job.backoff_limit + 1} times" if job.backoff_limit else "once"
    return f" It was tried {times}, as spec.backoffLimit allows."


# --- Checks of an ended pod: what killed it from outside first, then what it says of itself -------


def _killed_for_memory(ended: Ended) -> Diagnosis | None:
    if ended.pod.trainer is None or ended.pod.trainer.reason != "OOMKilled":
        return None
    limit = (
        f"its limit of {ended.job.memory_limit}" if ended.job.memory_limit else "what its node has"
    )
    return Diagnosis(
        reason=conditions.OOM_KILLED,
        message=(
            f"The trainer needed more memory than {limit} (main memory, not the GPU's) and was "
            "killed; raise spec.resources.limits.memory."
        ),
        actor=Actor.USER,
        retry=True,
    )


def _evicted(ended: Ended) -> Diagnosis | None:
    if ended.pod.reason != "Evicted":
        return None
    text = ended.pod.message.lower()
    if "ephemeral" in text or "emptydir" in text or "disk" in text:
        what, remedy = "local disk", "raise spec.resources.limits.ephemeral-storage"
    elif "memory" in text:
        what, remedy = "memory", "raise spec.resources.requests.memory to what the run needs"
    else:
        what, remedy = "a resource of its node", "see the node's events"
    counted = "" if ended.pod.disruption else " This counts as an attempt."
    return Diagnosis(
        reason=conditions.EVICTED,
        message=(
            f"Pod {ended.pod.name} was evicted from node {ended.pod.node} for {what}: "
            f"{plain_words(ended.pod.message)}; {remedy}.{counted}"
        ),
        actor=Actor.USER,
        retry=True,
    )


def _disrupted(ended: Ended) -> Diagnosis | None:
    # An exit code that fails the Job does so for a drained pod too: its own word comes first then.
    if ended.pod.disruption is None or exit_code(ended.pod) in wire.USELESS_TO_RETRY:
        return None
    reason, what = _DISRUPTIONS.get(
        ended.pod.disruption.reason, (conditions.DISRUPTED, "was stopped by the cluster")
    )
    return Diagnosis(
        reason=reason,
        message=(
            f"Pod {ended.pod.name} {what}; this does not count as an attempt and another pod resumes."
        ),
        actor=Actor.NONE,
        retry=True,
    )


def _node_lost(ended: Ended) -> Diagnosis | None:
    if ended.pod.reason not in ("NodeLost", "NodeShutdown", "Shutdown", "Terminated"):
        return None
    return Diagnosis(
        reason=conditions.NODE_LOST,
        message=f"Node {ended.pod.node} of pod {ended.pod.name} went away; another pod resumes.",
        actor=Actor.NONE,
        retry=True,
    )


def _own_outcome(ended: Ended) -> Diagnosis | None:
    outcome = read_outcome(ended.pod)
    code = exit_code(ended.pod)
    if outcome is None or code == wire.ExitCode.DONE or outcome.exit_code != code:
        return None
    known = _EXITS.get(wire.ExitCode(code)) if code in _EXITS else None
    return Diagnosis(
        reason=_legal(
            outcome.reason, fallback=known.reason if known else conditions.UNEXPECTED_EXIT
        ),
        message=outcome.message or (known.message if known else "the trainer left no message"),
        actor=known.actor if known else Actor.ADMINISTRATOR,
        retry=code not in wire.USELESS_TO_RETRY,
    )


def _legal(text: str, *, fallback: str) -> str:
    """Return the text where the API server takes it as the reason of a condition."""
    return text if re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]{0,126}[A-Za-z0-9_])?", text) else fallback


def _known_exit(ended: Ended) -> Diagnosis | None:
    code = exit_code(ended.pod)
    if code not in _EXITS:
        return None
    known = _EXITS[wire.ExitCode(code)]
    return Diagnosis(
        reason=known.reason,
        message=f"The trainer ended with exit code {code}: {known.message}.",
        actor=known.actor,
        retry=code not in wire.USELESS_TO_RETRY,
    )


def _unproved(ended: Ended) -> Diagnosis | None:
    if exit_code(ended.pod) != wire.ExitCode.DONE:
        return None
    return Diagnosis(
        reason=conditions.OUTCOME_MISSING,
        message=(
            f"The trainer of pod {ended.pod.name} ended with exit code 0 and without proof of what it "
            f"{'measured' if ended.job.role == wire.ROLE_MEASURE else 'published'}; check that {ended.job.image or 'the image'} is a trainer of this operator's "
            "version."
        ),
        actor=Actor.ADMINISTRATOR,
        retry=False,
    )


def _signalled(ended: Ended) -> Diagnosis | None:
    code = exit_code(ended.pod)
    if code == 143:
        return Diagnosis(
            reason=conditions.TERMINATED,
            message=f"The trainer of pod {ended.pod.name} was asked to stop and ended without a checkpoint.",
            actor=Actor.NONE,
            retry=True,
        )
    if code == 137:
        return Diagnosis(
            reason=conditions.KILLED,
            message=(
                f"The trainer of pod {ended.pod.name} was killed: it was asked to stop and took longer "
                "than its grace period, or its node ran out of memory."
            ),
            actor=Actor.ADMINISTRATOR,
            retry=True,
        )
    return None


ENDED_CHECKS: Final = (
    _killed_for_memory,  # the kernel's word
    _evicted,  # the kubelet's; also where it sets DisruptionTarget
    _disrupted,  # the cluster's: does not count
    _node_lost,  # its node's shutdown
    _own_outcome,  # the trainer's own
    _known_exit,  # its exit code alone
    _unproved,  # 0 is not enough
    _signalled,  # killed for an unknown reason
)


def _unexpected(ended: Ended) -> Diagnosis:
    code = exit_code(ended.pod)
    said = plain_words(ended.pod.trainer.message if ended.pod.trainer else ended.pod.message)
    detail = f": {said}" if said else "; see the pod's log"
    return Diagnosis(
        reason=conditions.UNEXPECTED_EXIT,
        message=(
            f"The trainer of pod {ended.pod.name} ended with exit code {code}{detail}."
            if code is not None
            else f"Pod {ended.pod.name} ended before its trainer started{detail}."
        ),
        actor=Actor.ADMINISTRATOR,
        retry=True,
    )
