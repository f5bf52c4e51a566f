"""Measuring on a real API server: one Measure Job and one training Job, whatever dies in between.

No kubelet takes the pods that measure (nothing has the label they ask for), so the tests end them as
the kubelet would: through the pod's status.
"""

import asyncio
import functools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_api import wire
from finetune_api.outcome import Outcome, Stage
from finetune_api.profile import LanguageProfile, Profile, TokenizerProfile
from tests.cluster.fixtures import Lab
from tests.integration.conftest import StartOperator
from tests.integration.operator_process import FaultProxy, OperatorProcess, wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.usefixtures("definition"),
]

NOWHERE = {
    "MEASURE_NODE_SELECTOR": '{"langops.dev/test": "nowhere"}',
    "MEASURE_REQUESTS": '{"cpu": "10m"}',
}
QUIET_S = 5.0
PROFILE = Profile(
    tokenizer=TokenizerProfile(sha256="a" * 64, vocabulary=49152),
    languages=(
        LanguageProfile(
            tag="sw",
            examples=11_400,
            unique_examples=11_400,
            tokens=2_345_678,
            unique_tokens=2_345_678,
            supervised_tokens=1_600_000,
            p50=180,
            p95=512,
            p99=1312,
            longest=2044,
            characters=4_100_000,
            text_tokens=1_588_600,
            text_bytes=4_150_000,
            validation_examples=600,
            truncated=(570, 200, 0, 0, 0),
        ),
    ),
)


@pytest.fixture
def start_operator(start_operator: StartOperator) -> StartOperator:
    """Starts replicas whose pods that measure no kubelet takes."""
    return functools.partial(start_operator, settings=NOWHERE)


def build_resource(namespace: str, **spec: Any) -> dict[str, Any]:
    """Return the smallest resource: how much text there is, is not known."""
    return {
        "apiVersion": wire.API_VERSION,
        "kind": wire.KIND,
        "metadata": {"name": "swahili", "namespace": namespace},
        "spec": {
            "model": {"uri": "s3://models/tiny"},
            "languages": [{"tag": "sw", "dataset": {"uri": "s3://corpora/swahili/"}}],
            "resources": {"gpus": 0},
            "output": {"uri": "s3://adapters/"},
        }
        | spec,
    }


def items(lab: Lab, kind: str, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        lab.kubectl("get", kind, "--namespace", namespace, "--output=json")
    )["items"]
    return found


def job_names(lab: Lab, namespace: str) -> list[str]:
    return sorted(job["metadata"]["name"] for job in items(lab, "jobs", namespace))


def reason(lab: Lab, namespace: str, wanted: str) -> str:
    """Return the reason of a condition that is True, or nothing."""
    status = lab.get("lft", "swahili", namespace=namespace).get("status", {})
    conditions = status.get("conditions", [])
    return next(
        (one["reason"] for one in conditions if (one["type"], one["status"]) == (wanted, "True")),
        "",
    )


def end_measuring(lab: Lab, namespace: str) -> None:
    """Say what the kubelet says once the pod that measures is done."""

    def measuring() -> list[dict[str, Any]]:
        selector = f"--selector={wire.LABEL_ROLE}={wire.ROLE_MEASURE}"
        listed = lab.kubectl("get", "pods", "-n", namespace, selector, "--output=json")
        found: list[dict[str, Any]] = json.loads(listed)["items"]
        return [pod for pod in found if pod["status"].get("phase") == "Pending"]

    [pod] = wait_for("a pod that measures", measuring)
    name = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
    job = lab.get("job", name, namespace=namespace)
    outcome = Outcome(
        exit_code=0,
        reason="Measured",
        stage=Stage.PUBLISH,
        message="Measured 1 language.",
        plan_hash=job["metadata"]["annotations"][wire.ANNOTATION_PLAN_HASH],
        profile=PROFILE,
    )
    times = {"startedAt": "2026-01-05T10:00:05Z", "finishedAt": "2026-01-05T10:00:17Z"}
    terminated = {"exitCode": 0, "message": outcome.to_termination_message(), **times}
    container = {
        "name": wire.TRAINER_CONTAINER,
        "state": {"terminated": terminated},
        "image": "i",
        "imageID": "i",
        "ready": False,
        "restartCount": 0,
    }
    status = {
        "phase": "Succeeded",
        "startTime": "2026-01-05T10:00:02Z",
        "containerStatuses": [container],
    }
    lab.kubectl(
        "patch",
        "pod",
        pod["metadata"]["name"],
        f"--namespace={namespace}",
        "--subresource=status",
        "--type=merge",
        f"--patch={json.dumps({'status': status})}",
    )


def writes(lab: Lab, namespace: str) -> list[str]:
    """Return what operators wrote into the namespace, events and renewals of the Lease left out."""
    written = []
    for line in lab.audit_log.read_text().splitlines():
        if namespace not in line or "language-finetune-operator" not in line:
            continue
        event = json.loads(line)
        verb, about = event["verb"], event.get("objectRef", {})
        is_write = verb in ("create", "update", "patch", "delete")
        if is_write and about["resource"] not in ("leases", "events", "secrets"):
            written.append(f"{verb} {about['resource']}/{about.get('subresource', '')}")
    return written


def test_a_text_is_measured_then_trained_and_nothing_is_written_in_between(
    control_plane: Lab, namespace: str, start_operator: StartOperator
) -> None:
    start_operator()
    control_plane.apply(build_resource(namespace))
    # No node has the label, which is reported where it is seen only after the first status.
    wait_for(
        "Unschedulable", lambda: reason(control_plane, namespace, "Reconciling") == "Unschedulable"
    )
    assert job_names(control_plane, namespace) == ["swahili-1-measure-1"]
    time.sleep(QUIET_S)
    written = writes(control_plane, namespace)
    assert written[:2] == ["create configmaps/", "create jobs/"]
    assert set(written[2:]) == {"patch languagefinetunes/status"}
    assert len(written) <= 4

    end_measuring(control_plane, namespace)

    wait_for("JobCreated", lambda: reason(control_plane, namespace, "JobCreated"))
    assert job_names(control_plane, namespace) == ["swahili-1-measure-1", "swahili-1-train-1"]
    status = control_plane.get("lft", "swahili", namespace=namespace)["status"]
    assert status["corpus"][0]["examples"] == 11_400
    values = {one["name"]: one["value"] for one in status["parameters"]}
    assert values["r"] == "16"  # 12,000 examples are a medium corpus
    assert writes(control_plane, namespace)[len(written) :][:3] == [
        "create configmaps/",
        "create jobs/",
        "patch languagefinetunes/status",
    ]


@pytest.mark.parametrize("number", range(1, 7))
async def test_an_operator_that_dies_after_any_write_measures_once_and_trains_once(
    number: int,
    control_plane: Lab,
    namespace: str,
    start_operator: StartOperator,
    tmp_path: Path,
) -> None:
    operators: list[OperatorProcess] = []
    written: list[str] = []

    def kill(_: int, path: str) -> None:
        if "/events" in path:
            return
        written.append(path)
        if len(written) == number:
            operators[0].kill()

    async with FaultProxy(
        kubeconfig=control_plane.kubeconfig, folder=tmp_path, after_write=kill
    ) as proxy:
        operators.append(await asyncio.to_thread(start_operator, kubeconfig=proxy.kubeconfig))
        await asyncio.to_thread(control_plane.apply, build_resource(namespace))
        if number > 3:
            await asyncio.to_thread(end_measuring, control_plane, namespace)
        process = operators[0].process
        assert process is not None
        await asyncio.wait_for(asyncio.to_thread(process.wait), timeout=60)
    assert len(written) == number
    await asyncio.to_thread(start_operator, name="replica-2")
    if number <= 3:
        await asyncio.to_thread(end_measuring, control_plane, namespace)
    await asyncio.to_thread(
        wait_for, "JobCreated", lambda: reason(control_plane, namespace, "JobCreated")
    )
    names = await asyncio.to_thread(job_names, control_plane, namespace)
    assert names == ["swahili-1-measure-1", "swahili-1-train-1"]
    status = control_plane.get("lft", "swahili", namespace=namespace)["status"]
    assert status["measurement"]["profile"]


def test_in_mode_plan_every_field_may_change_and_only_another_text_is_measured(
    control_plane: Lab, namespace: str, start_operator: StartOperator
) -> None:
    start_operator()
    control_plane.apply(build_resource(namespace, mode="Plan"))
    end_measuring(control_plane, namespace)
    wait_for("PlanReady", lambda: reason(control_plane, namespace, "Complete") == "PlanReady")
    before = control_plane.get("lft", "swahili", namespace=namespace)["status"]["plan"]["hash"]

    control_plane.apply(build_resource(namespace, mode="Plan", parameters={"maxSeqLength": 1024}))

    def is_anew() -> bool:
        status = control_plane.get("lft", "swahili", namespace=namespace)["status"]
        return status["observedGeneration"] == 2 and status["plan"]["hash"] != before

    wait_for("another plan", is_anew)
    assert reason(control_plane, namespace, "Complete") == "PlanReady"
    assert job_names(control_plane, namespace) == ["swahili-1-measure-1"]
    other = [{"tag": "sw", "dataset": {"uri": "s3://corpora/other/"}}]
    control_plane.apply(build_resource(namespace, mode="Plan", languages=other))
    end_measuring(control_plane, namespace)
    wait_for("PlanReady", lambda: reason(control_plane, namespace, "Complete") == "PlanReady")
    assert job_names(control_plane, namespace) == ["swahili-1-measure-1", "swahili-1-measure-2"]

    control_plane.apply(build_resource(namespace, mode="Run", languages=other))

    wait_for("JobCreated", lambda: reason(control_plane, namespace, "JobCreated"))
    assert "swahili-1-train-1" in job_names(control_plane, namespace)
    assert len(job_names(control_plane, namespace)) == 3
