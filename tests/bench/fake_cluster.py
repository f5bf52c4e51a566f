"""A cluster in memory for the operator's bench: an API server without its cost, and Jobs that never run.

    python -m tests.bench.operator_latency --fake --counts 1000      # starts it

A process of its own, found by the kubeconfig that it writes. It stores, lists in pages and watches, gives
each Job a pod at once, and brings each resource into one of three states by its number: waiting for a
node, running, finished. It knows no schema, admission or conflicts: what an API server makes of a request
is shown on a real one. It tells what the operator itself takes where nothing else uses the processor.
"""

import argparse
import asyncio
import itertools
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from finetune_api import wire
from finetune_api.outcome import Outcome

TIME = "2026-01-01T12:00:00Z"
PATHS = (
    "/{root:apis?}/{group:.+}/namespaces/{namespace}/{plural}",
    "/{root:apis?}/{group:.+}/{plural}",
)
WAITING, RUNNING, FINISHED = range(3)
RawObject = dict[str, Any]


@dataclass
class Collection:
    """The objects of one kind, and everything that happened to them as lines of a watch."""

    objects: dict[tuple[str, str], RawObject] = field(default_factory=dict)
    lines: list[tuple[int, str, bytes]] = field(default_factory=list)
    """Version, namespace and line."""
    news: asyncio.Event = field(default_factory=asyncio.Event)


class FakeCluster:
    """Stores, lists and watches.

    Args:
        states: the states into which resources come, in turn.
    """

    def __init__(self, *, states: tuple[int, ...]) -> None:
        self._collections: defaultdict[str, Collection] = defaultdict(Collection)
        self._versions = itertools.count(1)
        self._version = 0
        self._states = states

    def application(self) -> web.Application:
        """Return the server."""
        application = web.Application(client_max_size=2**24)
        routes = application.router
        routes.add_get("/apis", self._groups)
        routes.add_get("/api", self._core)
        routes.add_get("/api/v1", self._discover_core)
        routes.add_get(f"/apis/{wire.API_VERSION}", self._discover)
        routes.add_delete("/api/v1/namespaces/{name}", self._forget)
        for path in PATHS:
            routes.add_get(path, self._read)
            routes.add_post(path, self._create)
            routes.add_get(path + "/{name}", self._get)
            routes.add_put(path + "/{name}", self._replace)
            routes.add_patch(path + "/{name}/status", self._apply_status)
        return application

    # --- What kopf and the operator ask before they begin -------------------------------------------

    async def _groups(self, _: web.Request) -> web.Response:
        version = {"groupVersion": wire.API_VERSION, "version": wire.VERSION}
        group = {"name": wire.GROUP, "versions": [version], "preferredVersion": version}
        return _answer({"groups": [group]})

    async def _core(self, _: web.Request) -> web.Response:
        return _answer({"versions": ["v1"]})

    async def _discover_core(self, _: web.Request) -> web.Response:
        found = {"name": "namespaces", "kind": "Namespace", "namespaced": False, "verbs": ["list"]}
        return _answer({"resources": [found | {"singularName": "", "shortNames": []}]})

    async def _discover(self, _: web.Request) -> web.Response:
        verbs = ["get", "list", "watch", "patch"]
        found = {"name": wire.PLURAL, "kind": wire.KIND, "namespaced": True, "verbs": verbs}
        return _answer({"resources": [found | {"singularName": "", "shortNames": []}]})

    # --- Objects ------------------------------------------------------------------------------------

    async def _read(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self._watch(request)
        namespace = request.match_info.get("namespace")
        collection = self._collections[request.match_info["plural"]]
        found = [one for (at, _), one in collection.objects.items() if namespace in (None, at)]
        start = int(request.query.get("continue") or 0)
        end = start + int(request.query.get("limit") or len(found) or 1)
        metadata = {"resourceVersion": str(self._version)}
        if end < len(found):
            metadata["continue"] = str(end)
        return _answer({"kind": "List", "metadata": metadata, "items": found[start:end]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        namespace = request.match_info.get("namespace")
        collection = self._collections[request.match_info["plural"]]
        since = int(request.query.get("resourceVersion") or 0)
        response = web.StreamResponse()
        await response.prepare(request)
        reported = 0
        while True:
            lines = collection.lines[reported:]
            reported += len(lines)
            news = [line for at, where, line in lines if at > since and namespace in (None, where)]
            try:
                await response.write(b"".join(news))
            except ConnectionError:
                return response  # the watcher has gone
            if reported == len(collection.lines):
                collection.news.clear()
                await collection.news.wait()

    async def _get(self, request: web.Request) -> web.Response:
        found = self._find(request)
        return _missing() if found is None else _answer(found)

    async def _create(self, request: web.Request) -> web.Response:
        raw = orjson.loads(await request.read())
        plural = request.match_info["plural"]
        metadata = raw["metadata"]
        namespace = request.match_info.get("namespace", "")
        if (namespace, metadata["name"]) in self._collections[plural].objects:
            reason = {"kind": "Status", "code": 409, "reason": "AlreadyExists", "message": "taken"}
            return _answer(reason, code=409)
        metadata |= {
            "namespace": namespace,
            "uid": f"{plural}-{next(self._versions)}",
            "creationTimestamp": TIME,
        }
        if plural == wire.PLURAL:
            metadata["generation"] = 1
            raw["status"] = {"observedGeneration": -1}
        answer = _answer(self._put(plural, raw, type_of_event="ADDED"), code=201)
        if plural == "jobs":
            asyncio.get_running_loop().call_later(0.02, self._run, raw)
        return answer

    async def _replace(self, request: web.Request) -> web.Response:
        raw = orjson.loads(await request.read())
        return _answer(self._put(request.match_info["plural"], raw))

    async def _apply_status(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if found is None:
            return _missing()
        applied = orjson.loads(await request.read())["status"]
        is_progress = request.query["fieldManager"] == wire.PROGRESS_FIELD_MANAGER
        before = found.get("status", {})
        kept = {key: one for key, one in before.items() if is_progress or key == "progress"}
        after = {**found, "metadata": dict(found["metadata"]), "status": {**kept, **applied}}
        return _answer(self._put(request.match_info["plural"], after))

    async def _forget(self, request: web.Request) -> web.Response:
        gone = request.match_info["name"]
        for collection in self._collections.values():
            kept = {key: one for key, one in collection.objects.items() if key[0] != gone}
            collection.objects = kept
        return _answer({})

    def _find(self, request: web.Request) -> RawObject | None:
        where = request.match_info
        key = (where.get("namespace", ""), where["name"])
        return self._collections[where["plural"]].objects.get(key)

    def _put(self, plural: str, raw: RawObject, *, type_of_event: str = "MODIFIED") -> RawObject:
        self._version = next(self._versions)
        metadata = raw["metadata"]
        metadata["resourceVersion"] = str(self._version)
        namespace = metadata.get("namespace", "")
        collection = self._collections[plural]
        collection.objects[namespace, metadata["name"]] = raw
        if plural in (wire.PLURAL, "jobs", "pods"):
            line = orjson.dumps({"type": type_of_event, "object": raw}) + b"\n"
            collection.lines.append((self._version, namespace, line))
            collection.news.set()
        return raw

    # --- What controllers, scheduler and kubelet would do -------------------------------------------

    def _run(self, job: RawObject) -> None:
        """Give a Job its pod and bring both into the state that is the Job's turn."""
        metadata = job["metadata"]
        number = int(metadata["uid"].rpartition("-")[2])
        state = self._states[number % len(self._states)]
        pod = {
            "metadata": {
                "name": f"{metadata['name'][:50]}-pod",
                "namespace": metadata["namespace"],
                "uid": f"pods-{number}",
                "creationTimestamp": TIME,
                "labels": {"batch.kubernetes.io/job-name": metadata["name"]},
                "ownerReferences": [
                    {"kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
                    | {"controller": True}
                ],
            },
            "spec": job["spec"]["template"]["spec"] | {"nodeName": "node" if state else ""},
            "status": _pod_status(job, state=state),
        }
        self._put("pods", pod, type_of_event="ADDED")
        done = {"type": "Complete", "status": "True", "lastTransitionTime": TIME}
        status: RawObject = {"startTime": TIME, "active": 1}
        if state == FINISHED:
            status = {"startTime": TIME, "completionTime": TIME, "conditions": [done]}
        self._put("jobs", {**job, "metadata": dict(metadata), "status": status})


def _pod_status(job: RawObject, *, state: int) -> RawObject:
    if state == WAITING:
        unscheduled = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient cpu.",
        }
        return {"phase": "Pending", "conditions": [unscheduled]}
    running = {"running": {"startedAt": TIME}}
    ended = {"startedAt": TIME, "finishedAt": TIME, "exitCode": 0, "message": _outcome(job)}
    container = {
        "name": wire.TRAINER_CONTAINER,
        "state": running if state == RUNNING else {"terminated": ended},
    }
    phase = "Running" if state == RUNNING else "Succeeded"
    return {"phase": phase, "startTime": TIME, "containerStatuses": [container]}


def _outcome(job: RawObject) -> str:
    published = {"uri": "s3://adapters/x", "manifestSha256": "a" * 64, "sizeBytes": 1, "files": 1}
    return Outcome.model_validate(
        {
            "exitCode": 0,
            "reason": "Done",
            "stage": "Publish",
            "message": "The adapter is published.",
            "planHash": job["metadata"]["annotations"][wire.ANNOTATION_PLAN_HASH],
            "published": published,
        }
    ).to_termination_message()


def _answer(body: Any, *, code: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=code, content_type="application/json")


def _missing() -> web.Response:
    return _answer({"kind": "Status", "code": 404, "reason": "NotFound", "message": ""}, code=404)


def write_kubeconfig(folder: Path, *, server: str) -> Path:
    """Write by what the operator and the bench find the server, and return the file."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "clusters": [{"name": "fake", "cluster": {"server": server}}],
        "users": [{"name": "fake", "user": {"token": "none"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


async def main(options: argparse.Namespace) -> None:
    """Serve until the process is ended."""
    cluster = FakeCluster(states=tuple(options.states))
    runner = web.AppRunner(cluster.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host="127.0.0.1", port=0).start()
    host, port = runner.addresses[0][:2]
    write_kubeconfig(options.folder, server=f"http://{host}:{port}")
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--states", type=int, nargs="+", default=[WAITING, RUNNING, FINISHED], choices=range(3)
    )
    asyncio.run(main(parser.parse_args()))
