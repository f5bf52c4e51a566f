"""Fixtures of the end-to-end tests: the product as a user installs it, on the real kubelet."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.cluster.fixtures import S3, Lab
from tests.cluster.layout import NODE_ADDRESS
from tests.demo.materials import load_corpus
from tests.e2e.product import (
    RELEASE,
    SYSTEM_NAMESPACE,
    Finetune,
    Product,
    build_client,
    chats,
    install,
    run_helm,
)
from tests.e2e.tiny_model import write_tiny_model
from tests.unit_trainer.fake_hub import FakeHub, Repository

BUCKETS = ("e2e-models", "e2e-corpora", "e2e-adapters")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model small enough to train in seconds."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder, texts=[load_corpus().training.read_text(encoding="utf-8")])
    return folder


@pytest.fixture(scope="session")
def hub(tiny_model: Path) -> Iterator[FakeHub]:
    """A Hugging Face Hub where pods reach it, with the tiny model and a corpus."""
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    rows = "".join(f"{json.dumps(row)}\n" for row in chats(24)).encode()
    repositories = {
        "org/tiny": Repository(files),
        "org/gated": Repository(files, is_gated=True),
        "org/chats": Repository({"data/train.jsonl": rows}, kind="dataset"),
    }
    served = FakeHub(repositories, address=NODE_ADDRESS)
    yield served
    served.stop()


@pytest.fixture(scope="session")
def product(lab: Lab, s3: S3, tiny_model: Path, hub: FakeHub) -> Iterator[Product]:
    """The operator installed by helm, and S3 filled."""
    client = build_client(s3)
    for bucket in BUCKETS:
        _make_bucket(client, bucket)
    for file in tiny_model.iterdir():
        client.upload_file(str(file), "e2e-models", f"tiny/{file.name}")
        if not file.name.startswith(("token", "chat_template", "special")):
            client.upload_file(str(file), "e2e-models", f"no-tokenizer/{file.name}")
    install(lab, trainer_env={"HF_ENDPOINT": hub.endpoint})
    yield Product(lab=lab, s3=s3, client=client)
    run_helm(lab, "uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE, "--wait")


SHORT_LIVED_S = 300
"""The least time to live that the schema takes."""


@pytest.fixture(scope="session", autouse=True)
def short_lived(request: pytest.FixtureRequest, product: Product) -> Iterator[tuple[str, str]]:
    """A run whose Job lives for the least time there is: namespace and name.

    It begins with the session, so that `test_e2e_ttl.py`, which is read last, need not wait for all of it.
    """
    namespace, name = f"e2e-short-lived-{uuid.uuid4().hex[:6]}", "short-lived"
    is_asked = any(item.path.name == "test_e2e_ttl.py" for item in request.session.items)
    if not is_asked:
        yield namespace, name
        return
    product.lab.kubectl("create", "namespace", namespace)
    product.create_secret(namespace)
    data = product.put_rows("short-lived/train.jsonl", chats(24))
    spec = {"ttlSecondsAfterFinished": SHORT_LIVED_S}
    product.lab.apply(Finetune(name=name, dataset=data, spec=spec).build(namespace))
    yield namespace, name
    product.lab.kubectl("delete", "namespace", namespace, "--wait=false")


def _make_bucket(client: Any, bucket: str) -> None:
    try:
        client.create_bucket(Bucket=bucket)
    except ClientError as error:
        owned = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}
        if error.response["Error"]["Code"] not in owned:
            raise
