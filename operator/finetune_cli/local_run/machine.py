"""Jobs and pods of one machine: Kubernetes objects as plain dicts, each pod a process.

Stands for the Job controller and the kubelet, so that `finetune_operator.decide` sees what it sees in a
cluster. It implements what the decisions rely on: one pod at a time, `podFailurePolicy`, `backoffLimit`,
`activeDeadlineSeconds`, suspension and deletion. It decides nothing about the run.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from finetune_api import wire
from finetune_operator.decide.values.actions import Delete, Manifest, Patch
from finetune_operator.decide.values.observation import ObservedJob, ObservedPod

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"


class Process(Protocol):
    """A trainer that was started."""

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""

    def read_termination_message(self) -> str:
        """Return the outcome that the trainer wrote, or an empty text."""

    def stop(self) -> None:
        """Ask the process to save a checkpoint and end (SIGTERM)."""

    def kill(self) -> None:
        """End the process at once."""


Start = Callable[[Manifest, str], Process]
"""Starts the container of a Job's pod; the second argument is the uid of the pod."""


@dataclass
class _Pod:
    body: dict[str, Any]
    process: Process
    is_stopping: bool = False


@dataclass
class _Job:
    body: dict[str, Any]
    pods: list[_Pod] = field(default_factory=list)

    @property
    def running(self) -> _Pod | None:
        """The pod whose process runs."""
        return next((pod for pod in self.pods if pod.body["status"]["phase"] == "Running"), None)

    @property
    def is_finished(self) -> bool:
        """Whether no further pod is started."""
        return any(
            one["type"] in ("Complete", "Failed") for one in self.body["status"]["conditions"]
        )


class Machine:
    """The Jobs and pods of one resource.

    Args:
        start: Starts a trainer.
        node: Name of this machine.
        now: Returns the present time.
    """

    def __init__(self, *, start: Start, node: str, now: Callable[[], datetime]) -> None:
        self._start = start
        self._node = node
        self._now = now
        self._jobs: dict[str, _Job] = {}

    def observe(self) -> tuple[tuple[ObservedJob, ...], tuple[ObservedPod, ...]]:
        """Return the Jobs and pods as the decisions see those of a cluster."""
        jobs = self._jobs.values()
        pods = (pod.body for job in jobs for pod in job.pods)
        return (
            tuple(ObservedJob.from_object(job.body) for job in jobs),
            tuple(ObservedPod.from_object(pod) for pod in pods),
        )

    @property
    def is_busy(self) -> bool:
        """Whether a process runs."""
        return any(job.running is not None for job in self._jobs.values())

    # --- What the decisions ask for -----------------------------------------------------------------

    def create(self, manifest: Manifest) -> None:
        """Create a Job."""
        metadata = {
            **manifest["metadata"],
            "uid": str(uuid.uuid4()),
            "resourceVersion": "1",
            "creationTimestamp": self._time(),
        }
        body = {**manifest, "metadata": metadata, "status": {"conditions": []}}
        self._jobs[metadata["name"]] = _Job(body)

    def patch(self, patch: Patch) -> None:
        """Change a Job: its suspension, its limits, its annotations."""
        job = self._find(patch.name, uid=patch.uid)
        if job is None:
            return
        metadata = dict(job.body["metadata"])
        metadata["annotations"] = _merged(metadata.get("annotations", {}), patch.annotations)
        job.body = {
            **job.body,
            "metadata": metadata,
            "spec": _merged(job.body["spec"], patch.spec),
        }

    def delete(self, delete: Delete) -> None:
        """Delete a Job; its pod saves a checkpoint first where the deletion waits for it."""
        job = self._find(delete.name, uid=delete.uid)
        if job is None:
            return
        pod = job.running
        if pod is None:
            del self._jobs[delete.name]
        elif delete.keeps_until_stopped:
            job.body["metadata"]["deletionTimestamp"] = self._time()
            self._stop(pod)
        else:
            pod.process.kill()
            del self._jobs[delete.name]

    # --- What passes by itself ----------------------------------------------------------------------

    def advance(self) -> None:
        """Do what the Job controller and the kubelet do: start, stop and observe processes."""
        for name, job in tuple(self._jobs.items()):
            self._reap(job)
            self._enforce_deadline(job)
            is_deleted = "deletionTimestamp" in job.body["metadata"]
            if is_deleted and job.running is None:
                del self._jobs[name]
            elif job.body["spec"].get("suspend") is True:
                self._suspend(job)
            elif not is_deleted and not job.is_finished and job.running is None:
                self._start_pod(job)

    def kill(self) -> None:
        """End every process at once."""
        for job in self._jobs.values():
            if job.running is not None:
                job.running.process.kill()

    def _find(self, name: str, *, uid: str) -> _Job | None:
        job = self._jobs.get(name)
        return job if job is not None and job.body["metadata"]["uid"] == uid else None

    def _start_pod(self, job: _Job) -> None:
        uid, time = str(uuid.uuid4()), self._time()
        owner = {"uid": job.body["metadata"]["uid"], "controller": True}
        name = job.body["metadata"]["name"]
        body = {
            "metadata": {
                "name": f"{name}-{uid[:5]}",
                "namespace": job.body["metadata"]["namespace"],
                "uid": uid,
                "creationTimestamp": time,
                "labels": {JOB_NAME_LABEL: name},
                "ownerReferences": [owner],
            },
            "spec": {"nodeName": self._node},
            "status": {"phase": "Running", "startTime": time},
        }
        body["status"] |= _container({"running": {"startedAt": time}})
        job.pods.append(_Pod(body, self._start(job.body, uid)))
        status = job.body["status"]
        status.setdefault("startTime", time)
        status["active"] = 1
        status["conditions"] = [one for one in status["conditions"] if one["type"] != "Suspended"]

    def _suspend(self, job: _Job) -> None:
        if job.running is not None:
            self._stop(job.running)
        elif not any(one["type"] == "Suspended" for one in job.body["status"]["conditions"]):
            self._add_condition(job, "Suspended", reason="JobSuspended", message="Job suspended")

    def _stop(self, pod: _Pod) -> None:
        if not pod.is_stopping:
            pod.is_stopping = True
            pod.body["metadata"]["deletionTimestamp"] = self._time()
            pod.process.stop()

    def _reap(self, job: _Job) -> None:
        """Write down that the process ended, and what that means for the Job."""
        pod = job.running
        code = pod.process.poll() if pod is not None else None
        if pod is None or code is None:
            return
        started = pod.body["status"]["startTime"]
        ended = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "message": pod.process.read_termination_message(),
            "startedAt": started,
            "finishedAt": self._time(),
        }
        pod.body["status"] = {
            "phase": "Succeeded" if code == 0 else "Failed",
            "startTime": started,
        } | _container({"terminated": ended})
        job.body["status"]["active"] = 0
        if not pod.is_stopping:
            self._judge(job, code=code)

    def _judge(self, job: _Job, *, code: int) -> None:
        """Apply `podFailurePolicy` and `backoffLimit` to a pod that ended by itself."""
        status = job.body["status"]
        if code == 0:
            status["completionTime"] = self._time()
            self._add_condition(job, "Complete", reason="CompletionsReached", message="")
        elif code in wire.USELESS_TO_RETRY:
            message = f"Container {wire.TRAINER_CONTAINER} failed with exit code {code}"
            self._add_condition(job, "Failed", reason="PodFailurePolicy", message=message)
        elif code != wire.ExitCode.INTERRUPTED:
            status["failed"] = status.get("failed", 0) + 1
            if status["failed"] > job.body["spec"].get("backoffLimit", 0):
                message = "Job has reached the specified backoff limit"
                self._add_condition(job, "Failed", reason="BackoffLimitExceeded", message=message)

    def _enforce_deadline(self, job: _Job) -> None:
        limit_s, start = (
            job.body["spec"].get("activeDeadlineSeconds"),
            job.body["status"].get("startTime"),
        )
        if limit_s is None or start is None or job.is_finished:
            return
        if (self._now() - datetime.fromisoformat(start)).total_seconds() < limit_s:
            return
        message = "Job was active longer than specified deadline"
        self._add_condition(job, "Failed", reason="DeadlineExceeded", message=message)
        if job.running is not None:
            self._stop(job.running)

    def _add_condition(self, job: _Job, kind: str, *, reason: str, message: str) -> None:
        job.body["status"]["conditions"].append(
            {
                "type": kind,
                "status": "True",
                "reason": reason,
                "message": message,
                "lastTransitionTime": self._time(),
            }
        )

    def _time(self) -> str:
        return self._now().astimezone(UTC).isoformat(timespec="seconds")


def _container(state: Mapping[str, Any]) -> dict[str, Any]:
    return {"containerStatuses": [{"name": wire.TRAINER_CONTAINER, "state": dict(state)}]}


def _merged(before: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON merge patch of one level: None removes a field."""
    return {key: value for key, value in {**before, **change}.items() if value is not None}
