"""Fixtures of the shell's unit tests."""

from collections.abc import AsyncIterator

import pytest

from tests.unit_operator.fake_api import FakeApi


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    """A small API server."""
    server = FakeApi()
    await server.start()
    yield server
    await server.stop()
