"""A connection used in another event loop or process raises an error before anything is sent."""

from __future__ import annotations

import asyncio
import os
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
from vibetuner.tasks.worker import TaskWorker, enqueue_sync
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


def error_in_a_fork(function: Callable[[], object]) -> str:
    """Return the error that a function raises in a fork of this process."""
    reading, writing = os.pipe()
    if not os.fork():
        try:
            function()
        except WrongEventLoop as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        os.wait()
        return answer.read()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of a process with threads
@pytest.mark.usefixtures("opened")
async def test_a_fork_gets_an_error_with_the_cure(worker: TaskWorker):
    """A fork that uses a connection of the first process gets WrongEventLoop at once."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        uses: dict[str, Callable[[], object]] = {
            "The queue": lambda: enqueue_sync(noop.enqueue()),
            "Redis": redis_client.get,
        }
        for name, use in uses.items():
            error = await asyncio.to_thread(error_in_a_fork, use)
            assert error.startswith(f"{name} is open in the process that this one was forked from")
            assert error.endswith('multiprocessing.get_context("spawn")')
