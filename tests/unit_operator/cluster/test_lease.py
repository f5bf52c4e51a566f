"""The lease: one leader, whatever the clocks of the machines say."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from finetune_operator.cluster.lease import LeaderLease
from finetune_operator.errors import LeaseLostError
from tests.unit_operator.fake_api import FakeApi, build_status


def lease(
    holder: str, *, version: int, renewed: str = "2001-01-01T00:00:00.000000Z"
) -> dict[str, Any]:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 10, "renewTime": renewed}
    return {
        "metadata": {"name": "l", "namespace": "ml", "resourceVersion": str(version)},
        "spec": spec,
    }


class Clock:
    """Monotonic time that passes only by sleeping."""

    def __init__(self, on_sleep: Callable[[float], None] = lambda now: None) -> None:
        self.now = 100.0
        self._on_sleep = on_sleep

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._on_sleep(self.now)
        await asyncio.sleep(0)


def replica(api: FakeApi, clock: Clock, identity: str = "me") -> LeaderLease:
    return LeaderLease(
        client=api.client(),
        namespace="ml",
        name="l",
        identity=identity,
        clock=clock,
        sleep=clock.sleep,
    )


async def test_a_lease_that_nobody_made_is_made(api: FakeApi) -> None:
    api.answer(404, build_status(404, "NotFound"))
    api.answer(201, lease("me", version=1))
    await replica(api, Clock()).acquire()
    method, _, body = api.requests[1]
    assert (method, body["spec"]["holderIdentity"]) == ("POST", "me")


@pytest.mark.parametrize("holder", ["", "me"], ids=["given back", "of our dead predecessor"])
async def test_a_free_lease_is_taken_at_once(api: FakeApi, holder: str) -> None:
    api.answer(200, lease(holder, version=1))
    api.answer(200, lease("me", version=2))
    clock = Clock()
    await replica(api, clock).acquire()
    assert clock.now == 100.0


async def test_a_holder_that_renews_keeps_the_lease_however_wrong_its_clock_is(
    api: FakeApi,
) -> None:
    for version in range(40):  # its renewTime says 2001, but it changes every time
        api.answer(200, lease("other", version=version))
    half_a_minute = asyncio.Event()
    clock = Clock(on_sleep=lambda now: half_a_minute.set() if now > 130 else None)
    taking = asyncio.create_task(replica(api, clock).acquire())
    await asyncio.wait_for(half_a_minute.wait(), timeout=5)
    taking.cancel()
    assert {method for method, _, _ in api.requests} == {"GET"}


async def test_a_lease_that_stands_still_is_taken_after_its_duration(api: FakeApi) -> None:
    future = "2999-01-01T00:00:00.000000Z"

    class Standing(list[Any]):
        def pop(self, index: Any = 0) -> Any:
            return super().pop(index) if len(self) > 1 else self[0]

    api.answers = Standing()
    api.answer(200, lease("other", version=1, renewed=future))
    clock = Clock()
    await replica(api, clock).acquire()
    assert 110 < clock.now < 113
    assert api.requests[-1][0] == "PUT"


async def test_whoever_is_slower_does_not_lead(api: FakeApi) -> None:
    api.answer(200, lease("", version=1))
    api.answer(409, build_status(409, "Conflict"))
    api.answer(200, lease("", version=2))
    api.answer(200, lease("me", version=3))
    await replica(api, Clock()).acquire()
    assert [method for method, _, _ in api.requests] == ["GET", "PUT", "GET", "PUT"]


async def test_a_lease_that_somebody_else_took_is_lost_at_once(api: FakeApi) -> None:
    api.answer(200, lease("other", version=5))
    with pytest.raises(LeaseLostError) as caught:
        await replica(api, Clock()).hold()
    assert str(caught.value) == "Lease l is held by other now."


async def test_a_lease_that_cannot_be_renewed_is_lost_before_others_may_take_it(
    api: FakeApi,
) -> None:
    for _ in range(4):
        api.answer(403, build_status(403, "Forbidden"))
    clock = Clock()
    with pytest.raises(LeaseLostError) as caught:
        await replica(api, clock).hold()
    assert str(caught.value) == "Lease l was not renewed for 8 s."
    assert clock.now == 108


async def test_a_lease_that_is_ours_is_given_back(api: FakeApi) -> None:
    api.answer(200, lease("me", version=5))
    api.answer(200, lease("", version=6))
    await replica(api, Clock()).release()
    method, _, body = api.requests[1]
    assert (method, body["spec"]["holderIdentity"]) == ("PUT", "")


async def test_a_lease_of_somebody_else_is_left_alone(api: FakeApi) -> None:
    api.answer(200, lease("other", version=5))
    await replica(api, Clock()).release()
    assert [method for method, _, _ in api.requests] == ["GET"]
