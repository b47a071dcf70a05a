"""A connection that is used from another event loop raises an error before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import anyio.from_thread
import anyio.to_thread
import pytest

from vibetuner import VibetunerApp
from vibetuner.config import Settings
from vibetuner.errors import WrongEventLoop
from vibetuner.redis import redis_client
from vibetuner.redis.client import open_resource
from vibetuner.resources.sql import open_session, open_sql
from vibetuner.sse.broadcast import broadcast
from vibetuner.testing import held_open


@pytest.fixture
async def opened(settings: Settings) -> AsyncIterator[None]:
    """Open Redis and the SQL database, as a worker and a web process do."""
    async with (
        held_open(open_resource(settings, VibetunerApp())),
        held_open(open_sql(settings)),
    ):
        yield


async def use_sql() -> None:
    """Open a session of the SQL database."""
    async with open_session():
        pass


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(
    ("call", "name"),
    [(lambda: broadcast("news", "hello"), "Redis"), (use_sql, "The SQL database")],
    ids=["broadcast", "open_session"],
)
async def test_a_sync_function_with_a_loop_of_its_own_gets_an_error_with_the_cure(
    settings: Settings, call: Callable[[], Coroutine[Any, Any, Any]], name: str
):
    """A sync function that calls asyncio.run() gets WrongEventLoop, and nothing is sent."""

    def plain() -> None:
        asyncio.run(call())

    with pytest.raises(WrongEventLoop, match=rf"^{name} is open .* anyio\.from_thread\.run\("):
        await anyio.to_thread.run_sync(plain)

    own = f"{settings.redis_key_prefix}*:news"  # other tests share the server
    assert await redis_client.get().keys(own) == set()


@pytest.mark.usefixtures("opened")
async def test_the_cure_works():
    """anyio.from_thread.run() sends the event in the loop that owns the connection."""
    sent = await anyio.to_thread.run_sync(
        lambda: anyio.from_thread.run(broadcast, "news", "hello", "world")
    )

    assert sent.partition("-")[0].isdigit()
