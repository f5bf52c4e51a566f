"""What tests of interrupted runs share: a run that is long enough, and ways to disturb and to question it."""

import json

from tests.e2e.product import Finetune, JsonObject, Product, chats

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


def resumed_from(product: Product, namespace: str, name: str = "") -> int:
    """Return the step from which the last pod (of a resource) went on, by its own outcome."""
    ends = (
        container["state"].get("terminated", {})
        for pod in product.pods(namespace)
        if name in {"", pod["metadata"].get("labels", {}).get("langops.dev/finetune")}
        for container in pod["status"].get("containerStatuses", [])
    )
    (message,) = [end["message"] for end in ends if end.get("exitCode") == 0]
    return int(json.loads(message)["summary"]["resumedFromStep"])
