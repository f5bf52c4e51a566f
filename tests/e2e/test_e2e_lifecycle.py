"""Nothing is lost: runs are suspended, drained, stopped by deadlines and restored, on the real kubelet."""

import json
import time

import pytest

from tests.e2e.product import (
    Finetune,
    JsonObject,
    Product,
    chats,
    condition,
    kill_trainer,
    truths,
)

pytestmark = pytest.mark.e2e

LONG: JsonObject = {
    "parameters": {
        "maxSeqLength": 128,
        "batchSize": 8,
        "maxSteps": 400,
        "learningRate": 0.001,
        "evalStrategy": "Never",
        "saveStrategy": "Never",
        "earlyStoppingPatience": 0,
    },
    "checkpoints": {"everySteps": 20},
}
"""Long enough to be interrupted, and saved every second or so."""


def start(product: Product, namespace: str, name: str, **spec: object) -> JsonObject:
    """Apply a long run; return it once a checkpoint of it stands in S3."""
    product.create_secret(namespace)
    data = product.put_rows(f"lifecycle/{namespace}/{name}.jsonl", chats(64))
    product.lab.apply(Finetune(name=name, dataset=data, spec=LONG | spec).build(namespace))
    return product.wait(namespace, name, has_checkpoint, 180)


def has_checkpoint(found: JsonObject) -> bool:
    return step_of(found) > 0


def step_of(found: JsonObject) -> int:
    return int(found.get("status", {}).get("checkpoint", {}).get("step", 0))


def set_spec(product: Product, namespace: str, name: str, **spec: object) -> None:
    patch = json.dumps({"spec": spec})
    product.lab.kubectl("patch", "lft", name, "-n", namespace, "--type=merge", f"--patch={patch}")


def running_pods(product: Product, namespace: str) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in product.pods(namespace)
        if pod["status"]["phase"] in {"Pending", "Running"}
    ]


def attempts(found: JsonObject) -> list[str]:
    return [one.get("reason", "") for one in found["status"]["attempts"]]


def test_a_suspended_run_frees_its_pod_and_goes_on_from_its_checkpoint(
    product: Product, namespace: str
) -> None:
    start(product, namespace, "suspended")
    (job,) = product.jobs(namespace)

    set_spec(product, namespace, "suspended", suspend=True)
    held = product.wait(namespace, "suspended", lambda found: "Suspended" in truths(found))

    assert running_pods(product, namespace) == []
    step = step_of(held)
    assert condition(held, "Suspended")["reason"] == "SuspendedBySpec"
    assert f"at step {step}" in held["status"]["message"]
    # Its last word is not always seen before the pod is gone.
    assert attempts(held) in (["Interrupted"], ["JobSuspended"])
    (suspended,) = product.jobs(namespace)
    assert suspended["spec"]["suspend"] is True
    said = suspended["metadata"]["annotations"]["langops.dev/safe-to-preempt"]
    assert said == held["status"]["checkpoint"]["time"]

    set_spec(product, namespace, "suspended", suspend=False)
    done = product.wait_end(namespace, "suspended")

    assert "Complete" in truths(done), done["status"]["message"]
    (resumed,) = product.jobs(namespace)
    assert resumed["metadata"]["uid"] == job["metadata"]["uid"]
    assert resumed["status"].get("failed", 0) == 0
    assert attempts(done) == [*attempts(held), "Done"]
    assert _resumed_from(product, namespace) == step


def test_a_resource_that_is_suspended_from_the_start_creates_nothing(
    product: Product, namespace: str
) -> None:
    wanted = Finetune(name="later", dataset="s3://e2e-corpora/later", spec={"suspend": True})
    product.lab.apply(wanted.build(namespace))
    product.wait(namespace, "later", lambda found: "Suspended" in truths(found))
    assert (product.jobs(namespace), product.pods(namespace)) == ([], [])


def test_an_evicted_pod_counts_as_no_attempt_and_another_resumes(
    product: Product, namespace: str
) -> None:
    saved = start(product, namespace, "drained", backoffLimit=0)
    (pod,) = running_pods(product, namespace)

    selected = "--pod-selector=langops.dev/finetune=drained"
    try:
        product.lab.kubectl("drain", product.lab.node, selected, "--delete-emptydir-data")
    finally:
        product.lab.kubectl("uncordon", product.lab.node)
    done = product.wait_end(namespace, "drained")

    assert "Complete" in truths(done), done["status"]["message"]
    assert attempts(done) == ["Disrupted", "Done"]
    (job,) = product.jobs(namespace)
    assert job["status"].get("failed", 0) == 0
    assert _resumed_from(product, namespace) >= step_of(saved)
    assert pod not in _names(product, namespace)


def test_a_deadline_ends_a_run_and_its_ended_job_may_go(product: Product, namespace: str) -> None:
    spec = {"activeDeadlineSeconds": 25, "ttlSecondsAfterFinished": 300}
    product.create_secret(namespace)
    data = product.put_rows(f"lifecycle/{namespace}/late.jsonl", chats(64))
    long = LONG | {"parameters": LONG["parameters"] | {"maxSteps": 100_000}}
    product.lab.apply(Finetune(name="late", dataset=data, spec=long | spec).build(namespace))

    failed = product.wait_end(namespace, "late")

    assert condition(failed, "Failed")["reason"] == "DeadlineExceeded"
    assert failed["status"]["message"] == (
        "The run took longer than its 25 seconds; create it anew with a longer "
        "spec.activeDeadlineSeconds."
    )
    (job,) = product.jobs(namespace)
    assert job["spec"]["ttlSecondsAfterFinished"] == 300
    # What the TTL controller does five minutes later.
    product.lab.kubectl("delete", "job", job["metadata"]["name"], "-n", namespace, "--wait")
    time.sleep(3)
    assert product.jobs(namespace) == []
    assert product.get(namespace, "late")["status"]["conditions"] == failed["status"]["conditions"]


def test_a_killed_pod_is_tried_again_and_counted(product: Product, namespace: str) -> None:
    saved = start(product, namespace, "killed", backoffLimit=1)

    (pod,) = [one for one in product.pods(namespace) if one["status"]["phase"] == "Running"]
    kill_trainer(pod["metadata"]["uid"])
    done = product.wait_end(namespace, "killed")

    assert "Complete" in truths(done), done["status"]["message"]
    assert attempts(done) == ["Killed", "Done"]
    (job,) = product.jobs(namespace)
    assert job["status"]["failed"] == 1
    assert _resumed_from(product, namespace) >= step_of(saved)


def test_a_run_that_was_killed_for_memory_is_tried_once_more_with_twice_as_much(
    product: Product, namespace: str
) -> None:
    product.create_secret(namespace)
    data = product.put_rows(f"lifecycle/{namespace}/hungry.jsonl", chats(24))
    resources = {"gpus": 0, "requests": {"cpu": "100m"}, "limits": {"memory": "400Mi"}}
    wanted = Finetune(name="hungry", dataset=data, spec={"resources": resources})
    product.lab.apply(wanted.build(namespace))

    done = product.wait_end(namespace, "hungry")

    assert attempts(done)[0] == "OOMKilled"
    (job,) = product.jobs(namespace)
    assert job["metadata"]["name"] == "hungry-1-train-2"
    given = job["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert (given["requests"]["memory"], given["limits"]["memory"]) == ("800Mi", "800Mi")
    assert "Complete" in truths(done), done["status"]["message"]


def test_a_changed_spec_ends_the_run_and_begins_the_next(product: Product, namespace: str) -> None:
    start(product, namespace, "changed", updatePolicy="Recreate")
    before = product.get(namespace, "changed")["status"]["plan"]["hash"]

    changed = LONG["parameters"] | {"maxSteps": 40, "seed": 7}
    set_spec(product, namespace, "changed", parameters=changed)
    done = product.wait(namespace, "changed", lambda found: ended_as(found, run=2), 240)

    assert "Complete" in truths(done), done["status"]["message"]
    assert done["status"]["plan"]["hash"] != before
    assert [job["metadata"]["name"] for job in product.jobs(namespace)] == ["changed-2-train-1"]
    assert "/runs/2-" in done["status"]["output"]["uri"]


def ended_as(found: JsonObject, *, run: int) -> bool:
    return found["status"]["run"] == run and bool(truths(found) & {"Complete", "Failed"})


def test_a_restored_resource_is_complete_without_a_pod_that_has_a_gpu(
    product: Product, namespace: str
) -> None:
    product.create_secret(namespace)
    data = product.put_rows(f"lifecycle/{namespace}/restored.jsonl", chats(24))
    first = Finetune(name="restored", dataset=data).build(namespace)
    product.lab.apply(first)
    done = product.wait_end(namespace, "restored")
    product.lab.kubectl("delete", "lft", "restored", "-n", namespace, "--wait")

    wanted = json.loads(json.dumps(first))
    wanted["spec"]["resources"]["gpus"] = 1
    product.lab.apply(wanted)
    again = product.wait_end(namespace, "restored", timeout_s=90)

    assert condition(again, "Complete")["reason"] == "AlreadyDone"
    assert again["status"]["output"] == done["status"]["output"]
    assert [job["metadata"]["name"] for job in product.jobs(namespace)] == ["restored-1-probe-1"]
    assert all("nvidia.com/gpu" not in json.dumps(pod["spec"]) for pod in product.pods(namespace))


def _resumed_from(product: Product, namespace: str) -> int:
    """Return the step from which the last pod went on, by its own outcome."""
    ends = (
        container["state"].get("terminated", {})
        for pod in product.pods(namespace)
        for container in pod["status"].get("containerStatuses", [])
    )
    (message,) = [end["message"] for end in ends if end.get("exitCode") == 0]
    return int(json.loads(message)["summary"]["resumedFromStep"])


def _names(product: Product, namespace: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in product.pods(namespace)]
