"""The time to live of a finished Job, as Kubernetes' own controller counts it.

Five minutes is the least that the schema takes. The run begins with the first test of the session
(`short_lived`), and these files are read in order: what is waited for here is what is left of it.
"""

import time

import pytest

from tests.e2e.product import Product, restart_operator, stamp, truths

pytestmark = pytest.mark.e2e


def test_the_time_to_live_removes_job_and_pods_and_nothing_starts_anew(
    product: Product, short_lived: tuple[str, str]
) -> None:
    namespace, name = short_lived
    done = product.wait_end(namespace, name)
    assert "Complete" in truths(done), done["status"]["message"]

    product.wait(namespace, name, lambda _: _remains(product, namespace) == [], 420)
    since = stamp()
    # The next operator sees a finished resource without a Job, as after any upgrade.
    restart_operator(product)
    time.sleep(3)

    assert product.get(namespace, name)["status"] == done["status"]
    assert _remains(product, namespace) == []
    assert product.writes_since(since, namespace=namespace) == []


def _remains(product: Product, namespace: str) -> list[str]:
    """Return the names of the Jobs and pods of a namespace."""
    return [one["metadata"]["name"] for one in product.jobs(namespace) + product.pods(namespace)]
