"""The operator on a real API server: one Job whatever happens, and silence once all is said."""

import asyncio
import json
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from finetune_api import wire
from finetune_api.plan import TrainingPlan
from tests.cluster.fixtures import Lab
from tests.integration.conftest import StartOperator
from tests.integration.operator_process import FaultProxy, OperatorProcess, wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.usefixtures("definition"),
]

QUIET_S = 5.0
"""Seconds in which nothing may be written."""


def build_resource(namespace: str, name: str = "swahili") -> dict[str, Any]:
    # All that decides is declared, so nothing is measured first.
    language = {
        "tag": "sw",
        "traits": {"corpus": "Small"},
        "dataset": {"uri": "s3://corpora/swahili/"},
    }
    return {
        "apiVersion": wire.API_VERSION,
        "kind": wire.KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": "s3://models/tiny"},
            "languages": [language],
            "resources": {"gpus": 0},
            "output": {"uri": "s3://adapters/"},
        },
    }


def objects(lab: Lab, kind: str, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        lab.kubectl("get", kind, "--namespace", namespace, "--output=json")
    )["items"]
    return found


def job_names(lab: Lab, namespace: str) -> list[str]:
    return [job["metadata"]["name"] for job in objects(lab, "jobs", namespace)]


def plans(lab: Lab, namespace: str) -> list[dict[str, Any]]:
    maps = objects(lab, "configmaps", namespace)
    return [one for one in maps if one["metadata"]["name"] != "kube-root-ca.crt"]


def status_of(lab: Lab, namespace: str, name: str = "swahili") -> dict[str, Any]:
    status: dict[str, Any] = lab.get("lft", name, namespace=namespace).get("status", {})
    return status


def has_condition(status: dict[str, Any], kind: str) -> bool:
    conditions = status.get("conditions", [])
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)


def wait_for_job(lab: Lab, namespace: str, name: str = "swahili") -> dict[str, Any]:
    """Wait until the status says that there is a Job and what its pod waits for."""

    def settled() -> bool:
        status = status_of(lab, namespace, name)
        return has_condition(status, "JobCreated")

    wait_for("JobCreated", settled)
    return status_of(lab, namespace, name)


def writes_of_operators(lab: Lab, namespace: str) -> list[str]:
    """Return what operators wrote into the namespace, renewals of the Lease left out."""
    written = []
    for line in lab.audit_log.read_text().splitlines():
        if namespace not in line or "language-finetune-operator" not in line:
            continue
        event = json.loads(line)
        verb, about = event["verb"], event.get("objectRef", {})
        if verb in ("create", "update", "patch", "delete") and about["resource"] != "leases":
            written.append(f"{verb} {about['resource']}/{about.get('subresource', '')}")
    return written


def wait_for_silence(lab: Lab, namespace: str) -> list[str]:
    """Wait until nothing was written for two seconds; return all writes so far."""

    def silent() -> list[str] | None:
        before = writes_of_operators(lab, namespace)
        time.sleep(2)
        after = writes_of_operators(lab, namespace)
        return after if after == before else None

    written: list[str] = wait_for("silence", silent)
    return written


def test_a_resource_gets_a_plan_a_job_and_a_status(
    control_plane: Lab, namespace: str, start_operator: StartOperator
) -> None:
    start_operator()
    control_plane.apply(build_resource(namespace))
    status = wait_for_job(control_plane, namespace)
    assert job_names(control_plane, namespace) == ["swahili-1-train-1"]
    [plan] = plans(control_plane, namespace)
    assert plan["immutable"] is True
    assert plan["data"]["ca.crt"].startswith("-----BEGIN CERTIFICATE-----")
    assert status["observedGeneration"] == 1


def test_nothing_is_written_at_rest_and_nothing_after_a_restart(
    control_plane: Lab, namespace: str, start_operator: StartOperator
) -> None:
    operator = start_operator()
    control_plane.apply(build_resource(namespace))
    wait_for_job(control_plane, namespace)
    written = wait_for_silence(control_plane, namespace)
    version = control_plane.get("lft", "swahili", namespace=namespace)["metadata"][
        "resourceVersion"
    ]
    time.sleep(QUIET_S)
    assert writes_of_operators(control_plane, namespace) == written
    assert operator.stop() == 0
    second = start_operator(name="replica-2")
    wait_for("a leader", second.is_leading)
    time.sleep(QUIET_S)
    assert writes_of_operators(control_plane, namespace) == written
    after = control_plane.get("lft", "swahili", namespace=namespace)["metadata"]["resourceVersion"]
    assert after == version


@pytest.mark.parametrize("number", [1, 2, 3, 4], ids=["ConfigMap", "Job", "status", "next"])
async def test_an_operator_that_dies_after_any_write_leaves_one_job(
    number: int,
    control_plane: Lab,
    namespace: str,
    start_operator: StartOperator,
    tmp_path: Path,
) -> None:
    operators: list[OperatorProcess] = []
    paths: list[str] = []

    def kill(count: int, path: str) -> None:
        paths.append(path)
        if count == number:
            operators[0].kill()

    async with FaultProxy(
        kubeconfig=control_plane.kubeconfig, folder=tmp_path, after_write=kill
    ) as proxy:
        operators.append(await asyncio.to_thread(start_operator, kubeconfig=proxy.kubeconfig))
        await asyncio.to_thread(control_plane.apply, build_resource(namespace))
        process = operators[0].process
        assert process is not None
        await asyncio.wait_for(asyncio.to_thread(process.wait), timeout=30)
    assert len(paths) == number
    await asyncio.to_thread(start_operator, name="replica-2")
    await asyncio.to_thread(wait_for_job, control_plane, namespace)
    await asyncio.to_thread(wait_for_silence, control_plane, namespace)
    assert job_names(control_plane, namespace) == ["swahili-1-train-1"]
    assert len(plans(control_plane, namespace)) == 1


def test_of_two_replicas_one_leads_and_the_other_follows_a_crash(
    control_plane: Lab, namespace: str, start_operator: StartOperator
) -> None:
    first = start_operator(name="replica-1")
    wait_for("a leader", first.is_leading)
    second = start_operator(name="replica-2")
    assert not second.is_leading()
    first.kill()
    wait_for("another leader", second.is_leading)
    control_plane.apply(build_resource(namespace))
    wait_for_job(control_plane, namespace)
    assert job_names(control_plane, namespace) == ["swahili-1-train-1"]


def test_a_leader_that_is_told_to_stop_is_followed_at_once(
    control_plane: Lab, namespace: str, start_operator: StartOperator
) -> None:
    first = start_operator(name="replica-1")
    wait_for("a leader", first.is_leading)
    second = start_operator(name="replica-2")
    assert first.stop() == 0
    wait_for("another leader", second.is_leading, timeout_s=5)


def test_two_operators_that_both_lead_make_one_job_each_resource(
    control_plane: Lab, namespace: str, start_operator: StartOperator
) -> None:
    for number in (1, 2):
        operator = start_operator(
            name=f"replica-{number}", settings={"LEASE_NAME": f"lease-{number}"}
        )
        wait_for("a leader", operator.is_leading)
    names = [f"swahili-{number}" for number in range(20)]
    control_plane.apply(*(build_resource(namespace, name) for name in names))
    for name in names:
        wait_for_job(control_plane, namespace, name)
    wait_for_silence(control_plane, namespace)
    assert sorted(job_names(control_plane, namespace)) == sorted(
        f"{one}-1-train-1" for one in names
    )
    assert len(plans(control_plane, namespace)) == 20


def test_a_job_that_a_person_deletes_and_a_resource_that_goes_are_noticed(
    control_plane: Lab, namespace: str, start_operator: StartOperator
) -> None:
    start_operator()
    control_plane.apply(build_resource(namespace))
    wait_for_job(control_plane, namespace)
    control_plane.kubectl("delete", "lft", "swahili", "--namespace", namespace)
    wait_for("no Job", lambda: not job_names(control_plane, namespace))
    control_plane.apply(build_resource(namespace))
    wait_for_job(control_plane, namespace)
    wait_for("one Job", lambda: job_names(control_plane, namespace) == ["swahili-1-train-1"])


def test_a_run_goes_on_with_the_plan_of_an_operator_of_other_rules(
    control_plane: Lab, namespace: str, start_operator: StartOperator
) -> None:
    first = start_operator()
    control_plane.apply(build_resource(namespace))
    wait_for_job(control_plane, namespace)
    wait_for_silence(control_plane, namespace)
    assert first.stop() == 0
    older = make_older(control_plane, namespace)
    control_plane.kubectl("delete", "job", "swahili-1-train-1", "-n", namespace, "--wait")

    start_operator(name="replica-2")
    wait_for("another Job", lambda: job_names(control_plane, namespace) == ["swahili-1-train-1"])

    (job,) = objects(control_plane, "jobs", namespace)
    assert job["metadata"]["annotations"][wire.ANNOTATION_PLAN_HASH] == older.hash
    wait_for_silence(control_plane, namespace)
    assert status_of(control_plane, namespace)["plan"]["hash"] == older.hash


def make_older(lab: Lab, namespace: str) -> TrainingPlan:
    """Make it look as if an operator of other rules had begun the run; return its plan."""
    (held,) = plans(lab, namespace)
    plan = TrainingPlan.model_validate_json(held["data"][wire.PLAN_FILE])
    warmup = plan.training.model_copy(update={"warmup_steps": plan.training.warmup_steps + 1})
    older = plan.model_copy(update={"training": warmup}).with_hash()
    metadata = {"name": "swahili-1-plan-older", "namespace": namespace}
    data = held["data"] | {wire.PLAN_FILE: older.to_json()}
    owners = {"ownerReferences": held["metadata"]["ownerReferences"]}
    lab.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata | owners, "data": data}
    )
    reported = {"status": {"plan": {"hash": older.hash, "configMap": metadata["name"]}}}
    patch = ("--subresource=status", "--type=merge", f"--patch={json.dumps(reported)}")
    lab.kubectl("patch", "lft", "swahili", "-n", namespace, *patch)
    return older


def test_a_name_that_somebody_else_took_is_told_and_left_alone(
    control_plane: Lab, namespace: str, start_operator: StartOperator
) -> None:
    taken = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "swahili-1-train-1", "namespace": namespace},
        "spec": {
            "suspend": True,
            "template": {
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
            },
        },
    }
    control_plane.apply(taken)
    start_operator()
    control_plane.apply(build_resource(namespace))
    wait_for(
        "NameConflict",
        lambda: "NameConflict" in json.dumps(status_of(control_plane, namespace)),
    )
    [job] = objects(control_plane, "jobs", namespace)
    assert "ownerReferences" not in job["metadata"]


# --- The status server -----------------------------------------------------------------------------


def make_token(lab: Lab, namespace: str, *, pod: str, audience: str) -> str:
    return lab.kubectl(
        "create",
        "token",
        "default",
        f"--namespace={namespace}",
        f"--audience={audience}",
        "--bound-object-kind=Pod",
        f"--bound-object-name={pod}",
    ).strip()


def post(operator: OperatorProcess, path: str, *, token: str, authority: str, percent: int) -> int:
    """Report as a pod does, trusting the authority of the run's ConfigMap alone."""
    body = {"trainerStatus": {"progressPercentage": percent}}
    request = urllib.request.Request(
        f"https://127.0.0.1:{operator.status_port}{path}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    trust = ssl.create_default_context(cadata=authority)
    try:
        with urllib.request.urlopen(request, context=trust, timeout=10) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_pod_of_the_run_may_report_and_nobody_else(
    control_plane: Lab, namespace: str, start_operator: StartOperator
) -> None:
    operator = start_operator()
    control_plane.apply(build_resource(namespace), build_resource(namespace, "other"))
    wait_for_job(control_plane, namespace)
    wait_for_job(control_plane, namespace, "other")
    wait_for("pods", lambda: len(objects(control_plane, "pods", namespace)) == 2)
    pods = {
        pod["metadata"]["annotations"][wire.ANNOTATION_FINETUNE]: pod["metadata"]["name"]
        for pod in objects(control_plane, "pods", namespace)
    }
    uid = control_plane.get("lft", "swahili", namespace=namespace)["metadata"]["uid"]
    authority = plans(control_plane, namespace)[0]["data"]["ca.crt"]
    path = wire.progress_path(namespace, "swahili", 1)
    audience = wire.token_audience(uid, 1)

    def report(*, pod: str, audience: str = audience, percent: int = 5) -> int:
        token = make_token(control_plane, namespace, pod=pods[pod], audience=audience)
        return post(operator, path, token=token, authority=authority, percent=percent)

    assert report(pod="swahili", percent=42) == 202
    assert report(pod="other") == 401
    assert report(pod="swahili", audience=wire.token_audience(uid, 2)) == 401
    assert report(pod="swahili", audience="https://kubernetes.default.svc") == 401
    assert post(operator, path, token="x.y.z", authority=authority, percent=5) == 401
    shown = wait_for(
        "progress", lambda: status_of(control_plane, namespace).get("progress", {}).get("percent")
    )
    assert shown == 42
    whole = json.loads(
        control_plane.kubectl(
            "get", "lft", "swahili", "-n", namespace, "-o", "json", "--show-managed-fields"
        )
    )
    owners = {
        field["manager"]
        for field in whole["metadata"]["managedFields"]
        if "f:progress" in json.dumps(field)
    }
    assert owners == {wire.PROGRESS_FIELD_MANAGER}
