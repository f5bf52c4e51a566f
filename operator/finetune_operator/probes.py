"""What the kubelet and Prometheus ask: /livez, /readyz, /metrics.

Plain HTTP on a port of its own, on every replica. An unhealthy answer says why in one sentence. A
check only looks; it never asks the API server, for a restart cures no outage of that.
"""

from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

SILENCE_LIMIT_S = 180.0
"""Seconds without even a bookmark after which a watch counts as stale, or without as much as a failed
try as stuck: bookmarks come every minute, and a broken watch is opened again after 75 s."""
WORKER_LIMIT_S = 300.0
"""Seconds at one resource after which a worker counts as stuck: it gives up by itself after 180."""

Check = Callable[[], str]
"""Returns what is wrong, or an empty text."""


def build_application(
    *, live: Sequence[Check], ready: Sequence[Check], registry: CollectorRegistry
) -> web.Application:
    """Return the application of the probe port."""

    async def livez(_: web.Request) -> web.Response:
        return _answer(live)

    async def readyz(_: web.Request) -> web.Response:
        return _answer([*live, *ready])

    async def metrics(_: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=generate_latest(registry), headers=headers)

    application = web.Application()
    application.router.add_get("/livez", livez)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/metrics", metrics)
    return application


def event_check(what: str, seconds_since_event: Callable[[], float]) -> Check:
    """Return a check that fails where something has been silent for too long."""

    def check() -> str:
        seconds = seconds_since_event()
        if seconds <= SILENCE_LIMIT_S:
            return ""
        return f"{what} has been silent for {seconds:.0f} s."

    return check


def worker_check(longest_s: Callable[[], float]) -> Check:
    """Return a check that fails where a worker does not come back."""

    def check() -> str:
        seconds = longest_s()
        return "" if seconds <= WORKER_LIMIT_S else f"A worker has been busy for {seconds:.0f} s."

    return check


def flag_check(is_set: Callable[[], bool], wrong: str) -> Check:
    """Return a check that says `wrong` until something has happened."""

    def check() -> str:
        return "" if is_set() else wrong

    return check


def _answer(checks: Sequence[Check]) -> web.Response:
    faults = [fault for check in checks if (fault := check())]
    if faults:
        return web.Response(status=503, text="\n".join(faults) + "\n")
    return web.Response(text="ok\n")
