"""Gather, decide, apply: the order of writes, and what becomes of refusals."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_api import wire
from finetune_operator.decide.values.actions import Actions, Delete, Event, Lookups, Patch
from finetune_operator.decide.values.observation import (
    JobEvent,
    Observed,
    ObservedJob,
    ObservedPod,
    Rejection,
)
from finetune_operator.metrics import Metrics
from finetune_operator.reconcile.apply import Applier, build_event, needs_write
from finetune_operator.reconcile.gather import Gatherer
from finetune_operator.reconcile.reconciler import Reconciler
from finetune_operator.watch.resource_cache import ResourceCache
from finetune_operator.watch.store import Key, Store
from finetune_operator.watch.work_queue import DEBOUNCE_S, WorkQueue
from tests.unit_operator.fake_api import FakeApi, build_object, build_status

KEY = Key("ml", "sw")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def job(*, owner: str = "sw", version: int = 5) -> dict[str, Any]:
    raw = build_object("sw-1-train-1", version=version, owner=owner)
    return {"apiVersion": "batch/v1", "kind": "Job", **raw}


class World:
    """A reconciler whose decisions are scripted, and what it was asked to decide on."""

    def __init__(self, api: FakeApi, answers: list[Actions]) -> None:
        self.observed: list[Observed] = []
        self._answers = answers
        client = api.client()
        self.queue: WorkQueue[Key] = WorkQueue()
        self.resources = ResourceCache(client=client, queue=self.queue, namespaces=(None,))
        self.jobs: Store[ObservedJob] = Store(ObservedJob.from_object)
        self.pods: Store[ObservedPod] = Store(ObservedPod.from_object)
        self.reconciler = Reconciler(
            queue=self.queue,
            gatherer=Gatherer(
                client=client, resources=self.resources, jobs=self.jobs, pods=self.pods
            ),
            decide=self._decide,
            applier=Applier(
                client=client,
                remember_job=self.jobs.put,
                remember_resource=self.resources.remember,
                identity="replica-1",
                now=lambda: NOW,
            ),
            metrics=Metrics(),
            now=lambda: NOW,
        )

    def _decide(self, observed: Observed, *, now: datetime) -> Actions:
        assert now == NOW
        self.observed.append(observed)
        return self._answers.pop(0)


MakeWorld = Callable[..., World]


@pytest.fixture
def world(api: FakeApi) -> MakeWorld:
    def make(*answers: Actions, **more: Any) -> World:
        world = World(api, list(answers))
        world.resources.ingest("ADDED", {**build_object("sw", version=1), **more})
        return world

    return make


def methods(api: FakeApi) -> list[str]:
    return [
        f"{method} {path.split('?')[0].rsplit('/ml/', 1)[-1]}" for method, path, _ in api.requests
    ]


async def test_a_resource_that_is_gone_needs_nothing(api: FakeApi, world: MakeWorld) -> None:
    gone = world()
    gone.resources.ingest("DELETED", build_object("sw", version=2))
    assert await gone.reconciler.reconcile(KEY) is None
    assert (gone.observed, api.requests) == ([], [])


async def test_a_resource_that_is_going_is_left_to_the_garbage_collector(
    api: FakeApi, world: MakeWorld
) -> None:
    going = world()
    raw = build_object("sw", version=2)
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    going.resources.ingest("MODIFIED", raw)
    await going.reconciler.reconcile(KEY)
    assert (going.observed, api.requests) == ([], [])


async def test_the_status_of_what_was_created_is_written_in_a_round_of_its_own(
    api: FakeApi, world: MakeWorld
) -> None:
    api.answer(201, job())
    api.answer(200, build_object("sw", version=2))
    new = world(Actions(creates=(job(),), status={"phase": "x"}), Actions(status={"phase": "y"}))
    assert await new.reconciler.reconcile(KEY) == DEBOUNCE_S
    assert methods(api) == ["POST jobs"]
    await new.reconciler.reconcile(KEY)
    assert methods(api) == ["POST jobs", "PATCH languagefinetunes/sw/status"]
    assert [one.name for one in new.observed[1].jobs] == ["sw-1-train-1"]


async def test_creates_that_are_asked_for_twice_do_not_keep_the_status_waiting(
    api: FakeApi, world: MakeWorld
) -> None:
    again = Actions(creates=(job(),), status={"phase": "x"})
    stubborn = world(again, again)
    api.answer(201, job())
    api.answer(409, build_status(409, "AlreadyExists"))
    api.answer(200, job())
    api.answer(200, build_object("sw", version=2))
    await stubborn.reconciler.reconcile(KEY)
    await stubborn.reconciler.reconcile(KEY)
    assert methods(api)[-1] == "PATCH languagefinetunes/sw/status"


async def test_status_comes_before_deletes_and_events_come_last(
    api: FakeApi, world: MakeWorld
) -> None:
    for _ in range(3):
        api.answer(200, build_object("sw", version=2))
    delete = Delete(kind="Job", namespace="ml", name="j", uid="u")
    event = Event(type="Normal", reason="Suspended", message="It is suspended.")
    suspended = world(Actions(status={"phase": "Suspended"}, deletes=(delete,), events=(event,)))
    await suspended.reconciler.reconcile(KEY)
    assert methods(api) == ["PATCH languagefinetunes/sw/status", "DELETE jobs/j", "POST events"]


async def test_a_job_is_patched_by_its_uid_and_seen_as_it_became(
    api: FakeApi, world: MakeWorld
) -> None:
    patch = Patch(
        kind="Job", namespace="ml", name="sw-1-train-1", uid="uid-x", spec={"backoffLimit": 1}
    )
    api.answer(200, job(version=9))
    changing = world(Actions(patches=(patch,)))
    await changing.reconciler.reconcile(KEY)
    method, path, body = api.requests[0]
    assert (method, path) == ("PATCH", "/apis/batch/v1/namespaces/ml/jobs/sw-1-train-1")
    assert body == {"metadata": {"uid": "uid-x"}, "spec": {"backoffLimit": 1}}
    assert [one.version for one in changing.jobs] == [9]


async def test_annotations_are_patched_without_a_spec(api: FakeApi, world: MakeWorld) -> None:
    patch = Patch(kind="Job", namespace="ml", name="j", uid="u", annotations={"a": "1", "b": None})
    api.answer(200, job(version=9))
    await world(Actions(patches=(patch,))).reconciler.reconcile(KEY)
    assert api.requests[0][2] == {"metadata": {"uid": "u", "annotations": {"a": "1", "b": None}}}


async def test_a_job_whose_pods_must_stop_first_is_deleted_in_the_foreground(
    api: FakeApi, world: MakeWorld
) -> None:
    api.answer(200, {})
    delete = Delete(kind="Job", namespace="ml", name="j", uid="u", keeps_until_stopped=True)
    await world(Actions(deletes=(delete,))).reconciler.reconcile(KEY)
    assert api.requests[0][2]["propagationPolicy"] == "Foreground"


async def test_a_job_that_is_gone_or_another_is_not_patched(api: FakeApi, world: MakeWorld) -> None:
    patch = Patch(kind="Job", namespace="ml", name="j", uid="u", spec={})
    api.answer(404, build_status(404, "NotFound"))
    api.answer(409, build_status(409, "Conflict"))
    late = world(Actions(patches=(patch, patch)))
    assert await late.reconciler.reconcile(KEY) is None
    assert methods(api) == ["PATCH jobs/j", "PATCH jobs/j"]


async def test_the_end_is_the_last_write_to_the_resource(api: FakeApi, world: MakeWorld) -> None:
    api.answer(200, build_object("sw", version=2))
    api.answer(200, build_object("sw", version=3))
    ending = world(Actions(progress={"percent": 100}, status={"phase": "Complete"}))
    await ending.reconciler.reconcile(KEY)
    assert [(path.split("?")[1], body["status"]) for _, path, body in api.requests] == [
        (f"fieldManager={wire.PROGRESS_FIELD_MANAGER}&force=true", {"progress": {"percent": 100}}),
        (f"fieldManager={wire.FIELD_MANAGER}&force=true", {"phase": "Complete"}),
    ]


async def test_no_event_is_told_when_the_status_could_not_be_written(
    api: FakeApi, world: MakeWorld
) -> None:
    api.answer(422, build_status(422, "Invalid"))
    event = Event(type="Normal", reason="Done", message="Done.")
    broken = world(Actions(status={"phase": "x"}, events=(event,)))
    with pytest.raises(Exception, match="was answered 422"):
        await broken.reconciler.reconcile(KEY)
    assert methods(api) == ["PATCH languagefinetunes/sw/status"]


async def test_a_status_that_is_shown_already_is_not_written(
    api: FakeApi, world: MakeWorld
) -> None:
    shown = {"phase": "Running", "progress": {"percent": 5}}
    settled = world(Actions(status={"phase": "Running"}), status=shown)
    await settled.reconciler.reconcile(KEY)
    assert api.requests == []


async def test_an_object_of_ours_that_exists_counts_as_created(
    api: FakeApi, world: MakeWorld
) -> None:
    api.answer(409, build_status(409, "AlreadyExists"))
    api.answer(200, job())
    adopting = world(Actions(creates=(job(),)))
    await adopting.reconciler.reconcile(KEY)
    assert [one.name for one in adopting.jobs] == ["sw-1-train-1"]


async def test_a_job_of_ours_gets_back_the_labels_by_which_it_is_watched(
    api: FakeApi, world: MakeWorld
) -> None:
    wanted = job()
    wanted["metadata"]["labels"] = {"managed": "yes"}
    api.answer(409, build_status(409, "AlreadyExists"))
    api.answer(200, job())
    api.answer(200, job(version=6))
    relabelling = world(Actions(creates=(wanted,)))
    await relabelling.reconciler.reconcile(KEY)
    method, _, body = api.requests[-1]
    patch = {"metadata": {"uid": "uid-sw-1-train-1", "labels": {"managed": "yes"}}}
    assert (method, body) == ("PATCH", patch)
    assert [one.version for one in relabelling.jobs] == [6]


async def test_a_name_that_somebody_else_has_is_decided_on_again(
    api: FakeApi, world: MakeWorld
) -> None:
    api.answer(409, build_status(409, "AlreadyExists"))
    api.answer(200, job(owner="another"))
    api.answer(200, build_object("sw", version=2))
    conflict = Actions(status={"phase": "Failed"}, requeue_after_s=60)
    taken = world(Actions(creates=(job(),), status={"phase": "x"}), conflict)
    assert await taken.reconciler.reconcile(KEY) == 60
    assert taken.observed[1].name_conflicts == ("sw-1-train-1",)
    assert api.requests[-1][2]["status"] == {"phase": "Failed"}


async def test_what_a_deleted_resource_of_the_same_name_left_is_waited_for(
    api: FakeApi, world: MakeWorld
) -> None:
    left = job()
    left["metadata"]["ownerReferences"][0]["uid"] = "uid-of-the-deleted"
    api.answer(409, build_status(409, "AlreadyExists"))
    api.answer(200, left)
    waiting = world(Actions(creates=(job(),)), Actions(requeue_after_s=10))
    assert await waiting.reconciler.reconcile(KEY) == 10
    assert waiting.observed[1].predecessors == ("sw-1-train-1",)
    assert waiting.observed[1].name_conflicts == ()


async def test_a_refused_create_is_decided_on_again_with_the_words_of_the_api_server(
    api: FakeApi, world: MakeWorld
) -> None:
    api.answer(403, build_status(403, "Forbidden", "exceeded quota: gpus"))
    refused = world(Actions(creates=(job(), job())), Actions())
    await refused.reconciler.reconcile(KEY)
    rejection = Rejection(kind="Job", name="sw-1-train-1", message="exceeded quota: gpus")
    assert refused.observed[1].rejected == (rejection,)
    assert methods(api) == ["POST jobs"]  # the second create was not tried


async def test_events_are_read_only_when_they_are_asked_for(api: FakeApi, world: MakeWorld) -> None:
    message = {"reason": "FailedCreate", "message": "quota", "type": "Warning"}
    api.items = [{**message, "involvedObject": {"name": "sw-1-train-1"}}]
    waiting = world(Actions(lookups=Lookups(job_events=True)), Actions(requeue_after_s=30))
    waiting.jobs.put(job())
    assert await waiting.reconciler.reconcile(KEY) == 30
    reported = JobEvent(reason="FailedCreate", message="quota", time=None, about="sw-1-train-1")
    assert waiting.observed[1].job_events == (reported,)


@pytest.mark.parametrize(
    ("code", "answer", "plan"),
    [
        (200, {"data": {"plan.json": "{}"}}, "{}"),
        (200, {"data": {"other": "x"}}, ""),
        (404, build_status(404, "NotFound"), ""),
    ],
    ids=["there", "of another kind", "gone"],
)
async def test_the_plan_of_a_begun_run_is_read_only_when_it_is_asked_for(
    api: FakeApi, world: MakeWorld, code: int, answer: dict[str, Any], plan: str
) -> None:
    api.answer(code, answer)
    begun = world(Actions(lookups=Lookups(pinned_plan="sw-1-plan-x")), Actions(requeue_after_s=30))
    assert await begun.reconciler.reconcile(KEY) == 30
    assert methods(api) == ["GET configmaps/sw-1-plan-x"]
    assert [one.pinned_plan for one in begun.observed] == [None, plan]


async def test_a_refused_create_is_decided_on_again_with_the_plan_that_was_read(
    api: FakeApi, world: MakeWorld
) -> None:
    api.answer(200, {"data": {"plan.json": "{}"}})
    api.answer(403, build_status(403, "Forbidden", "exceeded quota: gpus"))
    asked, creating = Actions(lookups=Lookups(pinned_plan="sw-1-plan-x")), Actions(creates=(job(),))
    refused = world(asked, creating, Actions())
    await refused.reconciler.reconcile(KEY)
    assert refused.observed[2].pinned_plan == "{}"


@pytest.mark.parametrize(
    ("attempts", "seen"),
    [
        ([{"uid": "uid-p"}], ["p"]),
        ([{"uid": "uid-p", "end": "2026-01-01T12:00:00Z"}], []),
        ([{"uid": "uid-unknown"}, {"uid": 7}, "odd"], []),
        ("odd", []),
    ],
    ids=["not seen to end", "ended", "unknown or odd", "no list"],
)
async def test_a_pod_that_outlives_its_job_is_found_by_the_attempts_in_status(
    world: MakeWorld, attempts: Any, seen: list[str]
) -> None:
    looking = world(Actions(), status={"attempts": attempts})
    looking.pods.put(build_object("p", version=5, owner="a-job-that-is-gone"))
    await looking.reconciler.reconcile(KEY)
    assert [pod.name for pod in looking.observed[0].pods] == seen


async def test_between_two_decisions_everything_else_gets_its_turn(world: MakeWorld) -> None:
    busy = world(*(Actions() for _ in range(3)))
    turns: list[int] = []

    async def watch() -> None:
        while len(busy.observed) < 3:
            turns.append(len(busy.observed))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        for _ in range(3):
            group.create_task(busy.reconciler.reconcile(KEY))
    assert set(turns) == {0, 1, 2}


async def test_what_arrives_while_a_look_waits_for_its_turn_is_seen(world: MakeWorld) -> None:
    busy = world(Actions(), Actions())
    first, second = (asyncio.create_task(busy.reconciler.reconcile(KEY)) for _ in range(2))
    await asyncio.sleep(0)
    busy.resources.ingest("MODIFIED", {**build_object("sw", version=2), "spec": "newer"})
    await asyncio.gather(first, second)
    assert [one.body.get("spec") for one in busy.observed] == ["newer", "newer"]


async def test_a_bug_in_one_resource_harms_no_other(world: MakeWorld) -> None:
    met = world()  # no answer is scripted: each decision raises
    met.resources.ingest("ADDED", build_object("good", version=9))
    worker = asyncio.create_task(met.reconciler.work())
    async with asyncio.timeout(5):
        while met.queue.keys.retries < 2:  # noqa: ASYNC110 - the queue has no event
            await asyncio.sleep(0)
    assert not worker.done()
    worker.cancel()
    assert {one.body["metadata"]["name"] for one in met.observed} == {"good", "sw"}


def test_the_same_event_has_the_same_name_and_another_generation_another() -> None:
    event = Event(type="Warning", reason="Failed", message="x" * 2000)
    body = build_object("sw", version=1)
    first, again = (build_event(body, event, identity="r", now=NOW) for _ in range(2))
    body["metadata"]["generation"] = 2
    later = build_event(body, event, identity="r", now=NOW)
    assert first == again
    assert first["metadata"]["name"] != later["metadata"]["name"]
    assert len(first["note"]) == 1024
    assert first["eventTime"] == "2026-01-01T12:00:00.000000Z"
    assert first["reportingController"] == f"{wire.GROUP}/{wire.APP_NAME}"


def test_progress_is_no_part_of_our_status() -> None:
    assert not needs_write({"status": {"a": 1, "progress": {}}}, {"a": 1})
    assert needs_write({"status": {"a": 1, "b": 2}}, {"a": 1})
    assert needs_write({}, {"a": 1})
