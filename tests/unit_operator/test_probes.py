"""Probes: what is wrong is said in a sentence."""

from aiohttp.test_utils import TestClient, TestServer

from finetune_operator.metrics import Metrics
from finetune_operator.probes import (
    build_application,
    event_check,
    flag_check,
    worker_check,
)
from finetune_operator.watch.work_queue import WorkQueue


async def ask(
    path: str, *, silence_s: float = 0, busy_s: float = 0, ready: bool = True
) -> tuple[int, str]:
    metrics = Metrics()
    metrics.watch_queue(WorkQueue())
    application = build_application(
        live=[event_check("The watch of Jobs", lambda: silence_s), worker_check(lambda: busy_s)],
        ready=[flag_check(lambda: ready, "Jobs are not listed yet.")],
        registry=metrics.registry,
    )
    async with TestClient(TestServer(application)) as client:
        response = await client.get(path)
        return response.status, await response.text()


async def test_a_healthy_operator_is_live_and_ready() -> None:
    assert await ask("/livez") == (200, "ok\n")
    assert await ask("/readyz") == (200, "ok\n")


async def test_a_silent_watch_is_not_live() -> None:
    answer = (503, "The watch of Jobs has been silent for 181 s.\n")
    assert await ask("/livez", silence_s=181) == answer


async def test_a_stuck_worker_is_not_live() -> None:
    assert await ask("/livez", busy_s=400) == (503, "A worker has been busy for 400 s.\n")


async def test_an_operator_that_still_lists_is_live_but_not_ready() -> None:
    assert await ask("/livez", ready=False) == (200, "ok\n")
    assert await ask("/readyz", ready=False) == (503, "Jobs are not listed yet.\n")


async def test_metrics_bear_the_names_of_controller_runtime() -> None:
    code, text = await ask("/metrics")
    assert code == 200
    for name in (
        "controller_runtime_reconcile_total",
        "controller_runtime_reconcile_time_seconds",
        "workqueue_depth",
        "workqueue_queue_duration_seconds",
        "workqueue_unfinished_work_seconds",
        "workqueue_retries_total",
        "rest_client_requests_total",
    ):
        assert f"# TYPE {name}".removesuffix("_total") in text
