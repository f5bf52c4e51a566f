"""Measures the operator on a real API server: create → Job, restart, memory, writes. Prints JSON.

    python -m tests.bench.operator_latency --kubeconfig FILE --counts 1 100 1000 [--qps 50 --burst 100]
    python -m tests.bench.operator_latency --fake --counts 10000 --qps 5000 --burst 10000

The lab's control plane is enough, for no Job need run: `python3 -m tests.cluster up --control-plane`, with the
definition from crds/ applied. `--fake` takes a cluster in memory (`fake_cluster`) instead, which costs nearly
nothing: what is left is the operator's own time. Each count gets a namespace of its own with a fresh operator in it. A watch of Jobs gives the time at
which each Job is seen; the time of creation is taken when the create was answered. Both are this
process' clock. Nothing fails by being slow.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import yaml

from finetune_api import wire
from tests.integration.operator_process import OperatorProcess, wait_for

CREATORS = 32
"""Creates at once."""
LIMIT_S = 600.0
CHANGES_TOLD = 5
"""Statuses that changed after a restart, of which before and after are shown."""
WRITES = ("POST", "PATCH", "DELETE")
"""Requests that a restart need not make; PUT is the lease."""


class Cluster:
    """A few requests to the API server as an administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        self.server: str = config["clusters"][0]["cluster"]["server"]
        token = config["users"][0]["user"]["token"]
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=False, limit=0),
            headers={"Authorization": f"Bearer {token}"},
        )

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request and return the JSON of its answer."""
        async with self.session.request(method, self.server + path, json=body) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def watch_jobs(self, namespace: str, seen: dict[str, float], count: int) -> None:
        """Note when each Job is seen, until there are `count`; a watch that is cut off is opened again."""
        while len(seen) < count:
            await self._watch_once(namespace, seen, count)

    async def _watch_once(self, namespace: str, seen: dict[str, float], count: int) -> None:
        path = f"{self.server}/apis/batch/v1/namespaces/{namespace}/jobs?watch=1"
        rest = b""
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        async with self.session.get(path, timeout=timeout) as answer:
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    labels = event["object"]["metadata"].get("annotations", {})
                    seen.setdefault(labels.get(wire.ANNOTATION_FINETUNE, ""), time.monotonic())
                if len(seen) >= count:
                    return


def build_resource(name: str) -> dict[str, Any]:
    """Return a small resource."""
    return {
        "apiVersion": wire.API_VERSION,
        "kind": wire.KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "s3://models/tiny"},
            "languages": [
                {
                    "tag": "sw",
                    "traits": {"corpus": "Small"},
                    "dataset": {"uri": "s3://corpora/swahili/"},
                }
            ],
            "resources": {"gpus": 0},
            "output": {"uri": "s3://adapters/"},
        },
    }


async def create_all(cluster: Cluster, namespace: str, names: list[str]) -> dict[str, float]:
    """Create resources, 32 at once; return when each create was answered."""
    created: dict[str, float] = {}
    turn = asyncio.Semaphore(CREATORS)
    path = f"/apis/{wire.API_VERSION}/namespaces/{namespace}/{wire.PLURAL}"

    async def create(name: str) -> None:
        async with turn:
            await cluster.request("POST", path, build_resource(name))
            created[name] = time.monotonic()

    await asyncio.gather(*(create(name) for name in names))
    return created


async def measure(
    cluster: Cluster, *, count: int, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Measure one burst and the restart after it."""
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    await cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    operator = OperatorProcess(
        kubeconfig=options.kubeconfig,
        namespace=namespace,
        log=folder / f"{count}.log",
        settings={"API_QPS": str(options.qps), "API_BURST": str(options.burst)},
    )
    try:
        operator.start()
        await asyncio.to_thread(operator.wait_until_ready)
        await asyncio.to_thread(wait_for, "a leader", operator.is_leading)
        await asyncio.sleep(2)
        burst = await measure_burst(cluster, namespace, count=count)
        settled_s = await settle(cluster, namespace, count)
        usage = read_usage(operator)
        operator.stop()
        restart = await measure_restart(cluster, operator, namespace, count)
    finally:
        operator.kill()
        await cluster.request("DELETE", f"/api/v1/namespaces/{namespace}")
    return {"resources": count, **burst, "all_settled_s": settled_s, **usage, **restart}


async def measure_burst(cluster: Cluster, namespace: str, *, count: int) -> dict[str, Any]:
    """Create `count` resources at once and tell how long each waited for its Job."""
    names = [f"r-{number:05d}" for number in range(count)]
    seen: dict[str, float] = {}
    watch = asyncio.create_task(cluster.watch_jobs(namespace, seen, count))
    await asyncio.sleep(0.5)
    began = time.monotonic()
    created = await create_all(cluster, namespace, names)
    creation_s = time.monotonic() - began
    await watch
    waits = sorted(1000 * (seen[name] - created[name]) for name in names)
    return {
        "creation_s": round(creation_s, 3),
        "p50_ms": round(statistics.median(waits), 1),
        "p99_ms": round(waits[max(0, round(len(waits) * 0.99) - 1)], 1),
        "last_job_s": round(max(seen.values()) - began, 3),
        "missed": count - len(set(seen) & set(names)),
    }


async def settle(cluster: Cluster, namespace: str, count: int) -> float:
    """Return the seconds until every resource shows JobCreated; leave once nothing changes any more."""
    began = time.monotonic()
    settled_s = 0.0
    versions: list[str] = []
    while time.monotonic() - began < LIMIT_S:
        await asyncio.sleep(0.5 if not settled_s else 5)
        found = await resources(cluster, namespace)
        if not settled_s and sum("JobCreated" in json.dumps(one) for one in found) == count:
            settled_s = time.monotonic() - began
        newest = [one["metadata"]["resourceVersion"] for one in found]
        if settled_s and newest == versions:
            break
        versions = newest
    return round(settled_s, 3)


async def resources(cluster: Cluster, namespace: str) -> list[Any]:
    """Return all resources."""
    path = f"/apis/{wire.API_VERSION}/namespaces/{namespace}/{wire.PLURAL}"
    found: list[Any] = (await cluster.request("GET", path))["items"]
    return found


async def measure_restart(
    cluster: Cluster, operator: OperatorProcess, namespace: str, count: int
) -> dict[str, Any]:
    """Restart the operator on what is settled; nothing should be written."""
    before = await resources(cluster, namespace)
    began = time.monotonic()
    operator.start()
    await asyncio.to_thread(operator.wait_until_ready)
    ready_s = time.monotonic() - began

    def reconciled() -> bool:
        lines = operator.probe("/metrics")[1].splitlines()
        name = "controller_runtime_reconcile_total{"
        done = sum(float(line.split()[-1]) for line in lines if line.startswith(name))
        return done >= count

    await asyncio.to_thread(wait_for, "a full round", reconciled, timeout_s=LIMIT_S)
    round_s = time.monotonic() - began
    await asyncio.sleep(3)
    after = await resources(cluster, namespace)
    usage = read_usage(operator)
    changed = [
        f"{one['status'].get('message')} -> {other['status'].get('message')}"
        for one, other in zip(before, after, strict=True)
        if one["metadata"]["resourceVersion"] != other["metadata"]["resourceVersion"]
    ]
    return {
        "restart_ready_s": round(ready_s, 3),
        "restart_round_s": round(round_s, 3),
        "restart_changed": len(changed),
        "restart_changes": changed[:CHANGES_TOLD],
        "restart_writes": sum(usage["requests"].get(one, 0) for one in WRITES),
        "restart_rss_mb": usage["rss_mb"],
        "restart_peak_mb": usage["peak_mb"],
        "restart_cpu_s": usage["cpu_s"],
    }


def read_usage(operator: OperatorProcess) -> dict[str, Any]:
    """Return memory, processor time and requests of the operator so far."""
    assert operator.process is not None
    process = Path(f"/proc/{operator.process.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    requests: dict[str, float] = {}
    rounds = 0.0
    for line in operator.probe("/metrics")[1].splitlines():
        if line.startswith("controller_runtime_reconcile_total{"):
            rounds += float(line.split()[-1])
        if line.startswith("rest_client_requests_total{"):
            labels, _, value = line.rpartition(" ")
            method = labels.split('method="')[1].split('"')[0]
            requests[method] = requests.get(method, 0) + float(value)
    return {
        "rss_mb": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "peak_mb": round(int(status["VmHWM"].split()[0]) / 1024, 1),
        "cpu_s": round((int(fields[11]) + int(fields[12])) / 100, 2),
        "rounds": rounds,
        "requests": requests,
    }


@contextmanager
def fake_cluster(folder: Path) -> Iterator[Path]:
    """Run a cluster in memory beside the bench, and yield its kubeconfig."""
    command = [sys.executable, "-m", "tests.bench.fake_cluster", "--folder", str(folder)]
    process = subprocess.Popen(command)
    try:
        wait_for("a cluster in memory", (folder / "kubeconfig").exists)
        yield folder / "kubeconfig"
    finally:
        process.kill()
        process.wait()


async def main(options: argparse.Namespace) -> None:
    """Measure each count and print one JSON document."""
    cluster = Cluster(options.kubeconfig)
    results = []
    with TemporaryDirectory() as folder:
        for count in options.counts:
            result = await measure(cluster, count=count, options=options, folder=Path(folder))
            print(json.dumps(result), file=sys.stderr)
            results.append(result)
    await cluster.session.close()
    print(json.dumps({"qps": options.qps, "burst": options.burst, "results": results}, indent=2))


def run(options: argparse.Namespace) -> None:
    """Measure on the cluster that was asked for."""
    if not options.fake:
        asyncio.run(main(options))
        return
    with TemporaryDirectory() as folder, fake_cluster(Path(folder)) as kubeconfig:
        options.kubeconfig = kubeconfig
        asyncio.run(main(options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--kubeconfig", type=Path)
    where.add_argument("--fake", action="store_true", help="a cluster in memory")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--qps", type=float, default=50)
    parser.add_argument("--burst", type=int, default=100)
    run(parser.parse_args())
