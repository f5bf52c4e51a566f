"""Nothing is half-published: the store dies in the middle of a run, on the real kubelet.

What each request of the store may answer is tested where it is asked (`unit_trainer`); `tests.bench.soak`
kills it again and again.
"""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.cluster.lab import up_s3
from tests.cluster.layout import Layout
from tests.cluster.record import load_record
from tests.e2e.lifecycle import attempts, start, step_of
from tests.e2e.product import JsonObject, Product, truths

pytestmark = pytest.mark.e2e

FURTHER = 60
"""Steps: three checkpoints that could not be taken."""


@pytest.fixture
def layout() -> Iterator[Layout]:
    """The lab, whose S3 is back after the test whatever happens."""
    found = Layout.from_environment()
    yield found
    up_s3(found)


def test_a_run_goes_on_without_its_store_and_publishes_the_whole_adapter_once_it_is_back(
    product: Product, namespace: str, layout: Layout
) -> None:
    saved = start(product, namespace, "storeless")
    process = load_record(layout.record).process("s3")
    assert process is not None

    os.kill(process.pid, signal.SIGKILL)
    wanted = step_of(saved) + FURTHER
    away = product.wait(namespace, "storeless", lambda found: progress_of(found) >= wanted)
    assert not truths(away) & {"AdapterUploaded", "Complete", "Failed"}
    up_s3(layout)
    done = product.wait_end(namespace, "storeless")

    assert "Complete" in truths(done), done["status"]["message"]
    assert attempts(done) == ["Done"]
    (job,) = product.jobs(namespace)
    assert job["status"].get("failed", 0) == 0
    where = done["status"]["output"]["uri"].rstrip("/")
    manifest = product.read_json(f"{where}/manifest.json")
    published = {key.rpartition("/")[2] for key in product.object_keys(f"{where}/")}
    assert published == {file["path"] for file in manifest["files"]} | {"manifest.json"}


def progress_of(found: JsonObject) -> int:
    return int(found.get("status", {}).get("progress", {}).get("step", 0))
