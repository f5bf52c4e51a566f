"""The installed product on the lab: chart, buckets, a tiny model, and short ways to use them."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3

from tests.cluster.fixtures import S3, Lab
from tests.cluster.images import full_name, image_id

RELEASE = "language-finetune"
SYSTEM_NAMESPACE = "language-finetune-system"
OPERATOR_USER = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{RELEASE}"
CHART = "charts/language-finetune"
IMAGES = ("localhost/language-finetune/operator", "localhost/language-finetune/trainer")
PULL_TIMEOUT_S = 30
"""A user waits ten minutes; a test need not."""
MEMORY_CEILING = "4Gi"
ENDED = frozenset({"Complete", "Failed", "Stalled"})

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Product:
    """A cluster with the operator installed, and S3 with a model in it."""

    lab: Lab
    s3: S3
    client: Any
    """boto3's S3 client."""

    def put_rows(self, key: str, rows: list[JsonObject] | str) -> str:
        """Upload a JSONL file (or text as it is) to the corpora bucket; return its uri."""
        text = rows if isinstance(rows, str) else "".join(f"{json.dumps(row)}\n" for row in rows)
        self.client.put_object(Bucket="e2e-corpora", Key=key, Body=text.encode())
        return f"s3://e2e-corpora/{key}"

    def create_secret(self, namespace: str, name: str = "s3-credentials", **changes: str) -> None:
        """Create the Secret that resources of a namespace refer to."""
        data = {
            "AWS_ACCESS_KEY_ID": self.s3.admin.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.admin.secret_key,
            "AWS_REGION": self.s3.region,
            "AWS_ENDPOINT_URL_S3": self.s3.pod_endpoint,
        }
        self.lab.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": namespace},
                "stringData": data | changes,
            }
        )

    def get(self, namespace: str, name: str) -> JsonObject:
        """Return a LanguageFinetune."""
        return self.lab.get("languagefinetune", name, namespace=namespace)

    def jobs(self, namespace: str) -> list[JsonObject]:
        """Return the Jobs of a namespace."""
        found = json.loads(self.lab.kubectl("get", "jobs", "-n", namespace, "-o", "json"))
        return list(found["items"])

    def pods(self, namespace: str) -> list[JsonObject]:
        """Return the pods of a namespace."""
        found = json.loads(self.lab.kubectl("get", "pods", "-n", namespace, "-o", "json"))
        return list(found["items"])

    def wait_end(self, namespace: str, name: str, *, timeout_s: float = 240) -> JsonObject:
        """Wait until a resource is Complete, Failed or Stalled; return it."""
        return self.wait(namespace, name, lambda found: bool(truths(found) & ENDED), timeout_s)

    def wait(
        self,
        namespace: str,
        name: str,
        is_so: Callable[[JsonObject], bool],
        timeout_s: float = 120,
    ) -> JsonObject:
        """Wait until a resource is as wanted; return it.

        Raises:
            AssertionError: it was not in time; the message is the resource's status.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = self.get(namespace, name)
            if is_so(found):
                return found
            time.sleep(0.5)
        raise AssertionError(json.dumps(found.get("status"), indent=1)[:6000])

    def object_keys(self, uri: str) -> list[str]:
        """Return the keys below an s3:// uri."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read_json(self, uri: str) -> JsonObject:
        """Return the JSON object at an s3:// uri."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        content = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return dict(json.loads(content))

    def writes_since(self, stamp: str, *, namespace: str) -> list[str]:
        """Return what the operator wrote in a namespace after a time, by the API server's audit log."""
        return [
            f"{event['verb']} {event['objectRef']['resource']}/{event['objectRef'].get('name', '')}"
            f" {event.get('objectRef', {}).get('subresource', '')}"
            for event in _audit_events(self.lab.audit_log)
            # A request that gave no credentials has no name.
            if event["user"].get("username") == OPERATOR_USER
            and event["verb"] in {"create", "update", "patch", "delete"}
            and event.get("objectRef", {}).get("namespace") == namespace
            and event["stageTimestamp"] > stamp
        ]


@dataclass(frozen=True)
class Finetune:
    """A LanguageFinetune as a test writes it: the tiny model, one language, S3 in and out."""

    name: str
    dataset: str
    tag: str = "sw"
    model: str = "s3://e2e-models/tiny/"
    output: str = "s3://e2e-adapters/"
    spec: JsonObject = field(default_factory=dict)
    dataset_fields: JsonObject = field(default_factory=dict)
    secret: str = "s3-credentials"

    def build(self, namespace: str) -> JsonObject:
        """Return the object to apply."""
        reference = {"secretRef": {"name": self.secret}}
        spec: JsonObject = {
            "model": {"uri": self.model, **reference},
            "languages": [
                {
                    "tag": self.tag,
                    "traits": {"corpus": "Small"},
                    "dataset": {"uri": self.dataset, **reference, **self.dataset_fields},
                }
            ],
            "output": {"uri": self.output, **reference},
            "parameters": {
                "maxSeqLength": 128,
                "batchSize": 4,
                "numTrainEpochs": 2,
                "learningRate": 0.001,
            },
            "resources": {
                "gpus": 0,
                "requests": {"cpu": "100m", "memory": "1Gi"},
                "limits": {"memory": "4Gi"},
            },
        }
        return {
            "apiVersion": "langops.dev/v1alpha1",
            "kind": "LanguageFinetune",
            "metadata": {"name": self.name, "namespace": namespace},
            "spec": spec | self.spec,
        }


def build_client(s3: S3) -> Any:
    """Return a boto3 client with the administrator's keys."""
    return boto3.client(
        "s3",
        endpoint_url=s3.host_endpoint,
        aws_access_key_id=s3.admin.access_key,
        aws_secret_access_key=s3.admin.secret_key,
        region_name=s3.region,
    )


def install(lab: Lab, *, trainer_env: dict[str, str]) -> None:
    """Install the chart with the images that were built from this checkout."""
    operator_image, trainer_image = IMAGES
    settings = [
        f"--set-string=image.repository={operator_image}",
        "--set-string=image.tag=dev",
        # An image of the same tag may be new.
        f"--set-string=podAnnotations.image-id={image_id(full_name(operator_image))}",
        f"--set-string=trainer.image.repository={trainer_image}",
        "--set-string=trainer.image.tag=dev",
        f"--set-json=trainer.env={json.dumps(trainer_env)}",
        "--set=trainer.allowImageOverride=true",
        f"--set=trainer.imagePullTimeoutSeconds={PULL_TIMEOUT_S}",
        f"--set-string=trainer.memoryCeiling={MEMORY_CEILING}",
    ]
    where = ["--namespace", SYSTEM_NAMESPACE, "--create-namespace"]
    run_helm(
        lab, "upgrade", "--install", RELEASE, CHART, *where, *settings, "--wait", "--timeout=120s"
    )


def run_helm(lab: Lab, *arguments: str) -> None:
    """Run helm against the lab.

    Raises:
        AssertionError: helm failed; the message is its own.
    """
    import subprocess

    command = [str(lab.helm_program), "--kubeconfig", str(lab.kubeconfig), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def truths(resource: JsonObject) -> set[str]:
    """Return the types of the conditions that are True."""
    conditions = resource.get("status", {}).get("conditions", [])
    return {item["type"] for item in conditions if item["status"] == "True"}


def condition(resource: JsonObject, kind: str) -> JsonObject:
    """Return the condition of a type, or an empty one."""
    conditions = resource.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == kind), {})


def chats(count: int, *, words: str = "habari ya asubuhi rafiki") -> list[JsonObject]:
    """Return different short chats."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Sema namba {number}"},
                {"role": "assistant", "content": f"{words} {number}"},
            ]
        }
        for number in range(count)
    ]


def stamp() -> str:
    """Return the time from which `Product.writes_since` counts."""
    # The audit log's clock is this machine's; a second covers what was in flight.
    return (datetime.now(UTC) + timedelta(seconds=1)).isoformat().replace("+00:00", "Z")


def restart_operator(product: Product) -> None:
    """Kill the operator at once, as SIGKILL does, and wait for the next one."""
    where = ("-n", SYSTEM_NAMESPACE)
    pods = ("pods", "-l", f"app.kubernetes.io/name={RELEASE}", "--grace-period=0", "--force")
    product.lab.kubectl("delete", *pods, *where)
    product.lab.kubectl("rollout", "status", f"deployment/{RELEASE}", *where, "--timeout=90s")


def kill_trainer(pod_uid: str) -> bool:
    """Kill the trainer of a pod as a kernel does: the node is this very host. Return whether it ran."""
    mark, was_there = f"FINETUNE_POD_UID={pod_uid}".encode(), False
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes().split(b"\0"):
                os.kill(int(environ.parent.name), signal.SIGKILL)
                was_there = True
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended while it was looked at, or is this machine's own
    return was_there


def _audit_events(file: Path) -> Iterator[JsonObject]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if RELEASE in line and line.endswith("\n"):
                yield json.loads(line)
