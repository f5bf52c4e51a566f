"""Fixtures of the trainer's tests: a real S3, a bucket of one's own, clocks that do not wait."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from finetune_trainer.storage.backoff import Backoff
from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.s3 import S3Store, connect
from finetune_trainer.storage.s3_location import S3Location
from tests.unit_trainer.s3_proxy import S3Proxy
from tests.unit_trainer.seaweed import ACCESS_KEY, SECRET_KEY, SeaweedFS

_numbers = itertools.count(1)


def quick_backoff(total_s: float = 100.0) -> Backoff:
    """Return waits that are planned and never slept."""
    return Backoff(total_s=total_s, sleep=lambda _: None, chance=lambda: 0.5)


def build_credentials(endpoint: str) -> Credentials:
    return Credentials(
        use="OUTPUT",
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        endpoint_url=endpoint,
    )


@dataclass(frozen=True)
class Bucket:
    """An empty bucket and the store it is in."""

    name: str
    endpoint: str
    store: S3Store

    def at(self, key: str) -> S3Location:
        return S3Location(self.name, key)

    def put(self, key: str, data: bytes | str) -> S3Location:
        self.store.put(self.at(key), data.encode() if isinstance(data, str) else data)
        return self.at(key)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    server = SeaweedFS(tmp_path_factory.mktemp("seaweed"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bucket(seaweed: SeaweedFS) -> Bucket:
    return make_bucket(seaweed.endpoint)


@pytest.fixture
def proxy(seaweed: SeaweedFS) -> Iterator[S3Proxy]:
    running = S3Proxy(seaweed.endpoint)
    yield running
    running.stop()


@pytest.fixture
def proxied(bucket: Bucket, proxy: S3Proxy) -> Bucket:
    """Return the bucket as it is seen through the proxy."""
    store = connect(
        build_credentials(proxy.endpoint), subject="the output", backoff=quick_backoff()
    )
    return Bucket(name=bucket.name, endpoint=proxy.endpoint, store=store)


def make_bucket(endpoint: str) -> Bucket:
    name = f"bucket-{next(_numbers)}"
    store = connect(build_credentials(endpoint), subject="the output", backoff=quick_backoff())
    store._client.create_bucket(Bucket=name)
    return Bucket(name=name, endpoint=endpoint, store=store)


@pytest.fixture
def seaweed_of_ones_own(tmp_path: Path) -> Iterator[SeaweedFS]:
    """Return a server that a test may kill and start again."""
    folder = tmp_path / "weed"
    folder.mkdir()
    server = SeaweedFS(folder)
    server.start()
    yield server
    server.kill()
