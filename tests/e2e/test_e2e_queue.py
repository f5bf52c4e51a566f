"""Runs in a queue of the real Kueue: queued, admitted, evicted by one of higher priority, resumed.

While Kueue is there, no Job is created without its webhook: it comes and goes with this file.
"""

import json
from collections.abc import Iterator

import pytest

from tests.cluster import kueue
from tests.cluster.fixtures import Lab
from tests.cluster.layout import Layout
from tests.e2e.lifecycle import (
    LONG,
    attempts,
    has_checkpoint,
    resumed_from,
    running_pods,
    set_spec,
    step_of,
)
from tests.e2e.product import Finetune, JsonObject, Product, chats, condition, stamp, truths

pytestmark = pytest.mark.e2e
KUEUE_API = "kueue.x-k8s.io/v1beta2"
QUEUE = "one-run-at-a-time"


@pytest.fixture(scope="module")
def queueing(lab: Lab) -> Iterator[None]:
    """Kueue with a cluster queue that has room for one run, and two priorities of pods."""
    layout = Layout.from_environment()
    kueue.install(layout)
    objects = cluster_objects()
    try:
        lab.apply(*objects)
        yield
        # While Kueue is still there: it alone takes its finalizers off.
        for one in reversed(objects):
            lab.kubectl("delete", one["kind"], one["metadata"]["name"], "--timeout=60s")
    finally:
        # Whatever happened: its webhooks see every Job of the lab.
        kueue.uninstall(layout)


def cluster_objects() -> list[JsonObject]:
    flavor = {
        "apiVersion": KUEUE_API,
        "kind": "ResourceFlavor",
        "metadata": {"name": "any"},
    }
    group = {
        "coveredResources": ["cpu", "memory"],
        "flavors": [
            {
                "name": "any",
                "resources": [
                    {"name": "cpu", "nominalQuota": "100m"},
                    {"name": "memory", "nominalQuota": "4Gi"},
                ],
            }
        ],
    }
    cluster_queue = {
        "apiVersion": KUEUE_API,
        "kind": "ClusterQueue",
        "metadata": {"name": QUEUE},
        "spec": {
            "namespaceSelector": {},
            "resourceGroups": [group],
            "preemption": {"withinClusterQueue": "LowerPriority"},
        },
    }
    priorities = [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": f"e2e-{name}"},
            "value": value,
        }
        for name, value in (("patient", 10), ("urgent", 1000))
    ]
    return [*priorities, flavor, cluster_queue]


@pytest.fixture
def queue(product: Product, queueing: None, namespace: str) -> str:
    """A namespace with a way into the queue; returns its name."""
    product.create_secret(namespace)
    product.lab.apply(
        {
            "apiVersion": KUEUE_API,
            "kind": "LocalQueue",
            "metadata": {"name": "runs", "namespace": namespace},
            "spec": {"clusterQueue": QUEUE},
        }
    )
    return namespace


def run(product: Product, namespace: str, name: str, *, priority: str, **spec: object) -> None:
    data = product.put_rows(f"queue/{namespace}/{name}.jsonl", chats(48))
    scheduling = {"queueName": "runs", "priorityClassName": f"e2e-{priority}"}
    wanted = Finetune(name=name, dataset=data, spec={"scheduling": scheduling} | spec)
    product.lab.apply(wanted.build(namespace))


def reason(found: JsonObject) -> str:
    return str(condition(found, "Running").get("reason", ""))


def test_a_run_is_admitted_evicted_and_resumed_and_the_operator_never_fights_the_queue(
    product: Product, queue: str
) -> None:
    since = stamp()
    run(product, queue, "patient", priority="patient", **LONG)
    saved = product.wait(queue, "patient", has_checkpoint, 180)
    run(product, queue, "second", priority="patient")
    waiting = product.wait(queue, "second", lambda found: reason(found) == "Queued")
    assert waiting["status"]["phase"] == "Suspended"
    assert waiting["status"]["message"] == (
        "Job second-1-train-1 waits in queue runs until it is admitted."
    )

    run(product, queue, "urgent", priority="urgent")
    evicted = product.wait(queue, "patient", lambda found: reason(found) == "EvictedByQueue", 120)
    step = step_of(evicted)
    assert step >= step_of(saved)
    urgent = product.wait_end(queue, "urgent")
    assert "Complete" in truths(urgent), urgent["status"]["message"]
    assert len(running_pods(product, queue)) <= 1

    done = product.wait_end(queue, "patient", timeout_s=300)

    assert "Complete" in truths(done), done["status"]["message"]
    assert attempts(done) == [*attempts(evicted), "Done"]
    assert resumed_from(product, queue, "patient") == step
    assert "Complete" in truths(product.wait_end(queue, "second", timeout_s=300))
    assert suspenders(product, queue, "patient-1-train-1") == {"kueue"}
    # Annotations, and nothing else; a create names no object in the log.
    assert job_writes(product, queue, "patient-1-train-1", since=since) == {"patch"}


def test_a_run_that_is_suspended_in_a_queue_gives_its_place_back_and_queues_again(
    product: Product, queue: str
) -> None:
    run(product, queue, "held", priority="patient", **LONG)
    first = product.wait(queue, "held", has_checkpoint, 180)
    run(product, queue, "behind", priority="patient")
    product.wait(queue, "behind", lambda found: reason(found) == "Queued")

    # Suspended while it waits: its Job leaves the queue, or it would be admitted.
    set_spec(product, queue, "behind", suspend=True)
    product.wait(queue, "behind", lambda found: reason(found) == "SuspendedBySpec")
    product.wait(queue, "behind", lambda _: job_names(product, queue) == ["held-1-train-1"])
    # Suspended while it is admitted: it saves, and then its place is free.
    set_spec(product, queue, "held", suspend=True)
    held = product.wait(queue, "held", lambda found: reason(found) == "SuspendedBySpec", 120)
    assert running_pods(product, queue) == []
    product.wait(queue, "held", lambda _: job_names(product, queue) == [])
    assert f"at step {step_of(held)}" in held["status"]["message"]

    set_spec(product, queue, "behind", suspend=False)
    behind = product.wait_end(queue, "behind")
    assert "Complete" in truths(behind), behind["status"]["message"]
    set_spec(product, queue, "held", suspend=False)
    done = product.wait_end(queue, "held", timeout_s=300)

    assert "Complete" in truths(done), done["status"]["message"]
    assert resumed_from(product, queue, "held") == step_of(held) >= step_of(first)
    assert done["status"]["plan"]["hash"] == first["status"]["plan"]["hash"]
    assert suspenders(product, queue, "held-1-train-1") == {"kueue"}


def job_names(product: Product, namespace: str) -> list[str]:
    return [job["metadata"]["name"] for job in product.jobs(namespace)]


def job_writes(product: Product, namespace: str, job: str, *, since: str) -> set[str]:
    """Return how the operator wrote a Job, by the API server's audit log."""
    writes = product.writes_since(since, namespace=namespace)
    return {one.split()[0] for one in writes if one.split()[1] == f"jobs/{job}"}


def suspenders(product: Product, namespace: str, job: str) -> set[str]:
    """Return who wrote the suspend of a Job, by the field managers that the API server keeps."""
    found = json.loads(
        product.lab.kubectl(
            "get", "job", job, "-n", namespace, "--output=json", "--show-managed-fields"
        )
    )
    return {
        one["manager"].partition("-")[0]
        for one in found["metadata"]["managedFields"]
        if "f:suspend" in one["fieldsV1"].get("f:spec", {})
    }
