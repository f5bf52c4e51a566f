"""Nothing is lost: runs are suspended, drained, stopped by deadlines and restored, on the real kubelet."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.cluster.fixtures import Lab
from tests.e2e.lifecycle import (
    LONG,
    attempts,
    resumed_from,
    running_pods,
    set_spec,
    start,
    step_of,
)
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

DEADLINE_S = 90
"""Long enough for two starts of a pod on a busy machine, short enough to wait for."""


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
    assert resumed_from(product, namespace) == step


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
    assert resumed_from(product, namespace) >= step_of(saved)
    assert pod not in _names(product, namespace)


@pytest.fixture
def urgent(lab: Lab) -> Iterator[str]:
    """A priority over that of every run; returns its name."""
    name = "e2e-preempts"
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    lab.apply(kind | {"metadata": {"name": name}, "value": 100_000})
    yield name
    lab.kubectl("delete", "priorityclass", name)


def test_a_pod_of_higher_priority_takes_the_place_and_the_run_resumes_behind_it(
    product: Product, namespace: str, urgent: str
) -> None:
    # More than half of the node each: there is room for one of the two.
    cpu = f"{int(cores(product.lab) * 600)}m"
    resources = {"gpus": 0, "requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"memory": "4Gi"}}
    saved = start(product, namespace, "preempted", backoffLimit=0, resources=resources)

    product.lab.apply(
        build_rival(namespace, priority=urgent, cpu=cpu, image=product.lab.busybox_image)
    )
    waiting = product.wait(namespace, "preempted", lambda found: attempts(found)[0] != "")
    done = product.wait_end(namespace, "preempted")

    assert attempts(waiting) == attempts(done)[:1] == ["Preempted"]
    assert "Complete" in truths(done), done["status"]["message"]
    assert attempts(done) == ["Preempted", "Done"]
    (job,) = product.jobs(namespace)
    assert job["status"].get("failed", 0) == 0
    assert resumed_from(product, namespace, "preempted") >= step_of(saved)
    rival = product.lab.get("pod", "rival", namespace=namespace)
    assert rival["status"]["phase"] == "Succeeded"


def cores(lab: Lab) -> float:
    """Return the CPUs of the node that pods may ask for."""
    reported = str(lab.get("node", lab.node)["status"]["allocatable"]["cpu"])
    return int(reported.removesuffix("m")) / 1000 if reported.endswith("m") else float(reported)


def build_rival(namespace: str, *, priority: str, cpu: str, image: str) -> JsonObject:
    """Return a pod of higher priority that is done after some seconds."""
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "rival",
        "image": image,
        "command": ["sleep", "5"],
        "resources": {"requests": {"cpu": cpu}},
        "securityContext": restricted,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "rival", "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "priorityClassName": priority,
            "containers": [container],
        },
    }


def test_a_deadline_ends_a_run_and_its_ended_job_may_go(product: Product, namespace: str) -> None:
    spec = {"activeDeadlineSeconds": 25, "ttlSecondsAfterFinished": 300}
    product.create_secret(namespace)
    data = product.put_rows(f"lifecycle/{namespace}/late.jsonl", chats(64))
    long = LONG | {"parameters": LONG["parameters"] | {"maxSteps": 100_000}}
    product.lab.apply(Finetune(name="late", dataset=data, spec=long | spec).build(namespace))

    failed = product.wait_end(namespace, "late")

    assert condition(failed, "Failed")["reason"] == "DeadlineExceeded"
    assert failed["status"]["message"] == (
        "The run took longer than its 25 seconds; create it again with a longer "
        "spec.activeDeadlineSeconds."
    )
    (job,) = product.jobs(namespace)
    assert job["spec"]["ttlSecondsAfterFinished"] == 300
    # What the TTL controller does five minutes later.
    product.lab.kubectl("delete", "job", job["metadata"]["name"], "-n", namespace, "--wait")
    time.sleep(3)
    assert product.jobs(namespace) == []
    assert product.get(namespace, "late")["status"]["conditions"] == failed["status"]["conditions"]


def test_a_deadline_counts_over_all_attempts_and_publishes_the_best_where_that_is_asked_for(
    product: Product, namespace: str
) -> None:
    endless = LONG["parameters"] | {"maxSteps": 100_000}
    spec = {"activeDeadlineSeconds": DEADLINE_S, "deadlinePolicy": "PublishBest"}
    start(product, namespace, "best", parameters=endless, **spec)
    set_spec(product, namespace, "best", suspend=True)
    held = product.wait(namespace, "best", lambda found: "Suspended" in truths(found))
    used = held["status"]["activeTime"]["seconds"]
    time.sleep(5)  # what passes while it is suspended does not count
    set_spec(product, namespace, "best", suspend=False)
    resumed = product.wait(namespace, "best", lambda found: "Running" in truths(found))
    (job,) = product.jobs(namespace)
    assert 0 < used < DEADLINE_S
    assert job["spec"]["activeDeadlineSeconds"] == DEADLINE_S - used

    done = product.wait_end(namespace, "best")

    assert condition(done, "Complete")["reason"] == "PublishedAtDeadline", done["status"]["message"]
    step, where = step_of(done), done["status"]["output"]["uri"]
    assert step >= step_of(resumed)
    assert where.endswith(f"-step-{step}/")
    sentence = (
        f"The deadline of {DEADLINE_S} seconds ended the run after step {step:,} of 100,000; its adapter of "
        f"step {step:,} is published at {where}."
    )
    # With what is known of the gain on so few held-out examples.
    assert done["status"]["message"].startswith(sentence)
    assert sentence in [one["message"] for one in done["status"]["warnings"]]
    assert attempts(done)[-1] == "PublishedAtDeadline"
    manifest = product.read_json(f"{where}manifest.json")
    assert manifest["reason"] == "PublishedAtDeadline"
    assert manifest["summary"]["deadlineSeconds"] == DEADLINE_S
    assert manifest["summary"]["steps"] == manifest["summary"]["resumedFromStep"] == step
    names = [job["metadata"]["name"] for job in product.jobs(namespace)]
    assert names == ["best-1-train-1", "best-1-train-3"]


def test_a_killed_pod_is_tried_again_and_counted(product: Product, namespace: str) -> None:
    saved = start(product, namespace, "killed", backoffLimit=1)

    (pod,) = [one for one in product.pods(namespace) if one["status"]["phase"] == "Running"]
    kill_trainer(pod["metadata"]["uid"])
    done = product.wait_end(namespace, "killed")

    assert "Complete" in truths(done), done["status"]["message"]
    assert attempts(done) == ["Killed", "Done"]
    (job,) = product.jobs(namespace)
    assert job["status"]["failed"] == 1
    assert resumed_from(product, namespace) >= step_of(saved)


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


def test_a_run_whose_keys_were_denied_goes_on_with_the_secret_that_it_names_then(
    product: Product, namespace: str
) -> None:
    product.create_secret(namespace)
    product.create_secret(namespace, "wrong", AWS_SECRET_ACCESS_KEY="not-the-key")
    data = product.put_rows(f"lifecycle/{namespace}/denied.jsonl", chats(24))
    wanted = Finetune(name="denied", dataset=data).build(namespace)
    wanted["spec"]["resources"]["gpus"] = 1
    output = wanted["spec"]["output"]
    wanted["spec"]["output"] = output | {"secretRef": {"name": "wrong"}}
    product.lab.apply(wanted)
    failed = product.wait_end(namespace, "denied", timeout_s=90)
    assert "Failed" in truths(failed)
    assert attempts(failed) == [condition(failed, "Failed")["reason"]]

    set_spec(product, namespace, "denied", output=output)
    # No node has a GPU: that it is asked for shows that the keys were good this time.
    product.wait(namespace, "denied", lambda found: "JobCreated" in truths(found), 90)

    assert [job["metadata"]["name"] for job in product.jobs(namespace)] == [
        "denied-1-probe-1",
        "denied-1-probe-2",
        "denied-1-train-1",
    ]


def _names(product: Product, namespace: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in product.pods(namespace)]
