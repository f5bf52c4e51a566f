"""One machine in the place of the Job controller and the kubelet: what the decisions rely on."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_api import wire
from finetune_cli.local_run.machine import Machine
from finetune_operator.decide.values.actions import Delete, Patch

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass
class FakeProcess:
    """A trainer that ends when a test says so."""

    code: int | None = None
    message: str = ""
    signals: list[str] = field(default_factory=list)

    def poll(self) -> int | None:
        return self.code

    def read_termination_message(self) -> str:
        return self.message

    def stop(self) -> None:
        self.signals.append("stop")

    def kill(self) -> None:
        self.signals.append("kill")
        self.code = 137


@dataclass
class Bench:
    """A machine, its clock, and the processes that it started."""

    started: list[FakeProcess] = field(default_factory=list)
    now: datetime = NOON

    def __post_init__(self) -> None:
        self.machine = Machine(start=self._start, node="here", now=lambda: self.now)

    def _start(self, job: Any, pod_uid: str) -> FakeProcess:
        self.started.append(FakeProcess())
        return self.started[-1]

    def create(self, **spec: Any) -> None:
        metadata = {"name": "sw-1-train-1", "namespace": "ml", "annotations": {"a": "1"}}
        body = {"kind": "Job", "metadata": metadata, "spec": {"backoffLimit": 0, **spec}}
        self.machine.create(body)
        self.machine.advance()

    def end(self, code: int, message: str = "") -> None:
        self.started[-1].code, self.started[-1].message = code, message
        self.machine.advance()

    @property
    def job(self) -> Any:
        return self.machine.observe()[0][0]

    @property
    def pods(self) -> Any:
        return self.machine.observe()[1]

    def patch(self, **changes: Any) -> None:
        job = self.job
        self.machine.patch(Patch(kind="Job", namespace="ml", name=job.name, uid=job.uid, **changes))
        self.machine.advance()

    def delete(self, **how: Any) -> None:
        job = self.job
        self.machine.delete(Delete(kind="Job", namespace="ml", name=job.name, uid=job.uid, **how))
        self.machine.advance()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_created_job_has_one_running_pod(bench: Bench) -> None:
    bench.create()
    (pod,) = bench.pods
    assert (pod.phase, pod.node, pod.started, pod.job_uid) == (
        "Running",
        "here",
        NOON,
        bench.job.uid,
    )
    assert (bench.job.active, bench.job.start, bench.machine.is_busy) == (1, NOON, True)


def test_exit_code_0_completes_the_job_and_keeps_the_termination_message(bench: Bench) -> None:
    bench.create()
    bench.end(0, "outcome")
    (pod,) = bench.pods
    assert bench.job.complete is not None
    assert (pod.phase, pod.trainer.exit_code, pod.trainer.message) == ("Succeeded", 0, "outcome")
    assert not bench.machine.is_busy


@pytest.mark.parametrize("code", wire.USELESS_TO_RETRY)
def test_an_exit_that_another_try_cannot_cure_fails_the_job_at_once(
    bench: Bench, code: int
) -> None:
    bench.create(backoffLimit=3)
    bench.end(code)
    assert bench.job.failure is not None
    assert bench.job.failure.reason == "PodFailurePolicy"
    assert len(bench.started) == 1


def test_other_exits_are_tried_again_until_the_limit(bench: Bench) -> None:
    bench.create(backoffLimit=1)
    bench.end(wire.ExitCode.SERVICE_UNAVAILABLE)
    assert len(bench.started) == 2
    bench.end(wire.ExitCode.SERVICE_UNAVAILABLE)
    assert (bench.job.failed, bench.job.failure.reason) == (2, "BackoffLimitExceeded")
    assert len(bench.started) == 2


def test_an_interrupted_trainer_goes_on_and_does_not_count(bench: Bench) -> None:
    bench.create()
    bench.end(wire.ExitCode.INTERRUPTED)
    assert (len(bench.started), bench.job.failed, bench.job.failure) == (2, 0, None)


def test_a_suspended_job_stops_its_pod_once_and_says_so_when_it_has_ended(bench: Bench) -> None:
    bench.create()
    bench.patch(spec={"suspend": True}, annotations={"held": "true"})
    bench.machine.advance()
    assert bench.started[-1].signals == ["stop"]
    assert not bench.job.is_stopped
    bench.end(wire.ExitCode.INTERRUPTED)
    assert (bench.job.is_stopped, bench.job.failed, len(bench.started)) == (True, 0, 1)


def test_a_resumed_job_starts_another_pod(bench: Bench) -> None:
    bench.create()
    bench.patch(spec={"suspend": True})
    bench.end(wire.ExitCode.INTERRUPTED)
    bench.patch(spec={"suspend": False}, annotations={"a": None})
    assert (bench.job.is_stopped, len(bench.started), len(bench.pods)) == (False, 2, 2)


def test_a_patch_of_another_job_of_the_name_changes_nothing(bench: Bench) -> None:
    bench.create()
    other = Patch(
        kind="Job", namespace="ml", name="sw-1-train-1", uid="other", spec={"suspend": True}
    )
    bench.machine.patch(other)
    assert not bench.job.suspended


def test_a_deleted_job_is_gone_at_once_and_its_process_killed(bench: Bench) -> None:
    bench.create()
    bench.delete()
    assert bench.machine.observe() == ((), ())
    assert bench.started[-1].signals == ["kill"]


def test_a_job_that_is_deleted_when_its_pod_has_stopped_stays_until_then(bench: Bench) -> None:
    bench.create()
    bench.delete(keeps_until_stopped=True)
    assert bench.job.deleting
    assert bench.started[-1].signals == ["stop"]
    bench.end(wire.ExitCode.INTERRUPTED)
    assert bench.machine.observe() == ((), ())


def test_a_deadline_fails_the_job_and_asks_its_pod_to_stop(bench: Bench) -> None:
    bench.create(activeDeadlineSeconds=60)
    bench.now = NOON + timedelta(seconds=59)
    bench.machine.advance()
    assert bench.job.failure is None
    bench.now = NOON + timedelta(seconds=60)
    bench.machine.advance()
    failure = bench.job.failure
    assert failure is not None
    assert failure.reason == "DeadlineExceeded"
    assert bench.started[-1].signals == ["stop"]


def test_killing_ends_every_process(bench: Bench) -> None:
    bench.create()
    bench.machine.kill()
    assert bench.started[-1].signals == ["kill"]
