"""Runs in a queue of the real Kueue: queued, admitted, evicted by one of higher priority, resumed."""

import json
from collections.abc import Iterator

import pytest

from tests.cluster import kueue
from tests.cluster.fixtures import Lab
from tests.cluster.layout import Layout
from tests.e2e.product import Finetune, JsonObject, Product, chats, condition, truths
from tests.e2e.test_e2e_lifecycle import LONG, attempts, has_checkpoint, running_pods, step_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
KUEUE_API = "kueue.x-k8s.io/v1beta2"
QUEUE = "one-run-at-a-time"


@pytest.fixture(scope="module")
def queueing(lab: Lab) -> Iterator[None]:
    """Kueue with a cluster queue that has room for one run, and two priorities of pods."""
    layout = Layout.from_environment()
    kueue.install(layout)
    objects = cluster_objects()
    lab.apply(*objects)
    yield
    # While Kueue is still there: it alone takes its finalizers off.
    for one in reversed(objects):
        lab.kubectl("delete", one["kind"], one["metadata"]["name"], "--timeout=60s")
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


def run(product: Product, namespace: str, name: str, *, priority: str, **spec: object) -> None:
    data = product.put_rows(f"queue/{namespace}/{name}.jsonl", chats(48))
    scheduling = {"queueName": "runs", "priorityClassName": f"e2e-{priority}"}
    wanted = Finetune(name=name, dataset=data, spec={"scheduling": scheduling} | spec)
    product.lab.apply(wanted.build(namespace))


def reason(found: JsonObject) -> str:
    return str(condition(found, "Running").get("reason", ""))


@pytest.mark.usefixtures("queueing")
def test_a_run_is_admitted_evicted_and_resumed_and_the_operator_never_fights_the_queue(
    product: Product, namespace: str
) -> None:
    product.create_secret(namespace)
    product.lab.apply(
        {
            "apiVersion": KUEUE_API,
            "kind": "LocalQueue",
            "metadata": {"name": "runs", "namespace": namespace},
            "spec": {"clusterQueue": QUEUE},
        }
    )
    run(product, namespace, "patient", priority="patient", **LONG)
    saved = product.wait(namespace, "patient", has_checkpoint, 180)
    run(product, namespace, "second", priority="patient")
    waiting = product.wait(namespace, "second", lambda found: reason(found) == "Queued")
    assert waiting["status"]["phase"] == "Suspended"
    assert waiting["status"]["message"] == (
        "Job second-1-train-1 waits in queue runs until it is admitted."
    )

    run(product, namespace, "urgent", priority="urgent")
    evicted = product.wait(
        namespace, "patient", lambda found: reason(found) == "EvictedByQueue", 120
    )
    assert step_of(evicted) >= step_of(saved)
    urgent = product.wait_end(namespace, "urgent")
    assert "Complete" in truths(urgent), urgent["status"]["message"]
    assert len(running_pods(product, namespace)) <= 1

    done = product.wait_end(namespace, "patient", timeout_s=300)

    assert "Complete" in truths(done), done["status"]["message"]
    assert attempts(done) == [*attempts(evicted), "Done"]
    assert "Complete" in truths(product.wait_end(namespace, "second", timeout_s=300))
    assert suspenders(product, namespace, "patient-1-train-1") == {"kueue"}


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
