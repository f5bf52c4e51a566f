"""Words of the conditions: types, reasons, and how a list of conditions becomes the next one.

`decide` and `status` say what is true; this module keeps the convention of Kubernetes: one condition
a type, `lastTransitionTime` moves only with `status`, and what is abnormal by being there at all
(Reconciling, Stalled) is left out while it is not so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from finetune_api.status import Condition

# --- Types, in the order in which a run meets them ------------------------------------------------

ACCEPTED: Final = "Accepted"
CORPUS_MEASURED: Final = "CorpusMeasured"
RESOLVED: Final = "Resolved"
JOB_CREATED: Final = "JobCreated"
RUNNING: Final = "Running"
SUSPENDED: Final = "Suspended"
ADAPTER_UPLOADED: Final = "AdapterUploaded"
COMPLETE: Final = "Complete"
FAILED: Final = "Failed"
RECONCILING: Final = "Reconciling"
STALLED: Final = "Stalled"

ORDER: Final = (
    ACCEPTED,
    CORPUS_MEASURED,
    RESOLVED,
    JOB_CREATED,
    RUNNING,
    SUSPENDED,
    ADAPTER_UPLOADED,
    COMPLETE,
    FAILED,
    RECONCILING,
    STALLED,
)
"""The order in status: the same facts are always the same list."""
TERMINAL: Final = (COMPLETE, FAILED)
"""One of these True ends the run for good; never both."""
ONLY_WHILE_TRUE: Final = (SUSPENDED, RECONCILING, STALLED)

# --- Reasons of what the operator decides ---------------------------------------------------------

VALID: Final = "Valid"
INVALID_SPEC: Final = "InvalidSpec"
NOT_ALLOWED: Final = "NotAllowed"
UNKNOWN_LANGUAGE: Final = "UnknownLanguage"
MEASURING: Final = "Measuring"
AWAITING_MEASUREMENT: Final = "AwaitingMeasurement"
MODEL_NOT_SUPPORTED: Final = "ModelNotSupported"
INSUFFICIENT_GPU_MEMORY: Final = "InsufficientGPUMemory"
PLAN_READY: Final = "PlanReady"
RULES_APPLIED: Final = "RulesApplied"
PLAN_KEPT: Final = "PlanKept"
CREATED: Final = "Created"
RECREATING: Final = "Recreating"
RECREATED: Final = "Recreated"
NAME_CONFLICT: Final = "NameConflict"
PREDECESSOR_GOING: Final = "PredecessorGoing"
JOB_SUSPENDED: Final = "JobSuspended"
SUSPENDED_BY_SPEC: Final = "SuspendedBySpec"
SUSPENDING: Final = "Suspending"
RESUMED: Final = "Resumed"
QUEUED: Final = "Queued"
EVICTED_BY_QUEUE: Final = "EvictedByQueue"
JOB_DELETED: Final = "JobDeleted"
TRAINING: Final = "Training"
RETRYING: Final = "Retrying"
RETRYING_WITH_MORE_MEMORY: Final = "RetryingWithMoreMemory"
PUBLISHING_BEST: Final = "PublishingBest"
FINISHED: Final = "Finished"
MEASURED: Final = "Measured"
PUBLISHED: Final = "Published"
PROBING: Final = "LookingForFinishedWork"
PROBED: Final = "LookedForFinishedWork"
OUTCOME_MISSING: Final = "OutcomeMissing"

# --- Reasons of a pod that waits, or is not there -------------------------------------------------

POD_STARTING: Final = "PodStarting"
POD_MISSING: Final = "PodMissing"
POD_STOPPING: Final = "PodStopping"
IMAGE_PULL_FAILING: Final = "ImagePullFailing"
IMAGE_PULL_FAILED: Final = "ImagePullFailed"
CREDENTIALS_MISSING: Final = "SecretMissing"
CREDENTIALS_KEY_MISSING: Final = "SecretKeyMissing"
CONFIG_MAP_MISSING: Final = "ConfigMapMissing"
CONTAINER_CONFIG_INVALID: Final = "ContainerConfigInvalid"
CONTAINER_NOT_STARTED: Final = "ContainerNotStarted"
VOLUME_NOT_MOUNTED: Final = "VolumeNotMounted"
SANDBOX_NOT_CREATED: Final = "SandboxNotCreated"
SCHEDULING_GATED: Final = "SchedulingGated"
UNSCHEDULABLE: Final = "Unschedulable"
QUOTA_EXCEEDED: Final = "QuotaExceeded"
LIMIT_RANGE_REFUSED: Final = "LimitRangeRefused"
POD_SECURITY_REFUSED: Final = "PodSecurityRefused"
ADMISSION_REFUSED: Final = "AdmissionRefused"
SERVICE_ACCOUNT_MISSING: Final = "ServiceAccountMissing"
PRIORITY_CLASS_MISSING: Final = "PriorityClassMissing"
CREATE_REFUSED: Final = "CreateRefused"

# --- Reasons of a pod or a Job that ended ---------------------------------------------------------

OOM_KILLED: Final = "OOMKilled"
EVICTED: Final = "Evicted"
PREEMPTED: Final = "Preempted"
DISRUPTED: Final = "Disrupted"
NODE_LOST: Final = "NodeLost"
POD_LOST: Final = "PodLost"
KILLED: Final = "Killed"
TERMINATED: Final = "Terminated"
DEADLINE_EXCEEDED: Final = "DeadlineExceeded"
BACKOFF_LIMIT_EXCEEDED: Final = "BackoffLimitExceeded"
JOB_FAILED: Final = "JobFailed"
UNEXPECTED_EXIT: Final = "UnexpectedExit"


MESSAGE_LIMIT: Final = 32768
"""Characters of a condition's message; a Kubernetes convention."""


@dataclass(frozen=True, slots=True)
class ConditionUpdate:
    """What is now true of one condition; its time and generation come when it is written."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def build_conditions(
    updates: Iterable[ConditionUpdate],
    *,
    before: Iterable[Condition],
    generation: int,
    now: datetime,
) -> list[Condition]:
    """Return the conditions of `claims`; one that is not claimed is gone.

    A claim whose status is as in `before`, the conditions as stored, keeps the time it has there.
    """
    times = {old.type: (old.status, old.last_transition_time) for old in before}
    moment = format_time(now)
    written = []
    for update in sorted(updates, key=lambda one: ORDER.index(one.type)):
        status, time = times.get(update.type, ("", ""))
        written.append(
            Condition(
                type=update.type,
                status=update.status,
                reason=update.reason,
                message=update.message[:MESSAGE_LIMIT],
                last_transition_time=time if status == update.status and time else moment,
                observed_generation=generation,
            )
        )
    return written


def is_terminal(conditions: Iterable[Condition]) -> bool:
    """Return whether the run has ended for good."""
    return any(one.type in TERMINAL and one.status == "True" for one in conditions)


def format_time(moment: datetime) -> str:
    """Return a moment as Kubernetes writes it, in whole seconds of UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
