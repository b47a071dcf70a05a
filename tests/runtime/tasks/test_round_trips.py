"""Requests that enqueue at the same time share calls of the server, on every topology."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import PREFIX, Clustered
from tests.sentinels import Replicated
from tests.valkey import Servers, Valkey, opened
from vibetuner.app import VibetunerApp
from vibetuner.config import Settings
from vibetuner.errors import RedisFull, ServiceUnavailable, TaskError, TaskExists, TaskNotFound
from vibetuner.redis.blocking import ask
from vibetuner.redis.connection import MOST_SHARED
from vibetuner.redis.url import Address, parse_url
from vibetuner.tasks.worker import TaskWorker

AT_ONCE, BURSTS = 50, 5


@pytest.mark.parametrize("kind", ["single", "scripts", "sentinel", "cluster"])
async def test_simultaneous_enqueues_share_a_call_of_the_server(
    request: pytest.FixtureRequest, stand_in: Callable[[], Path], tmp_path: Path, kind: str
):
    """The server reads less than half as often as tasks are enqueued, and runs fewer functions.

    Each call has its task.
    """
    stand_in()
    if kind == "cluster":
        clustered: Clustered = request.getfixturevalue("clustered")
        await count_reads(clustered)
        return
    with Replicated(tmp_path) if kind == "sentinel" else Valkey(tmp_path) as server:
        if kind == "scripts":
            ask(parse_url(server.url), ["ACL", "SETUSER", "default", "-fcall", "-function"])
        await count_reads(server)


async def count_reads(server: Valkey | Servers) -> None:
    """Assert that the server reads and runs functions less often than tasks are enqueued."""
    address = parse_url(server.url, PREFIX)
    async with opened(server, redis_key_prefix=PREFIX, secret_key="k" * 40) as (worker, number):
        await number.enqueue(0)
        before, reads = await worker.queue_size(), await asyncio.to_thread(reads_of, address)
        calls_before = await asyncio.to_thread(calls_of, address)
        ids = set()
        for _ in range(BURSTS):
            # Each call has an asyncio task of its own, as in a web process with as many requests.
            calls = [asyncio.ensure_future(number.enqueue(n).start()) for n in range(AT_ONCE)]
            ids |= {task.id for task in await asyncio.gather(*calls)}
        reads = await asyncio.to_thread(reads_of, address) - reads
        made = await asyncio.to_thread(calls_of, address) - calls_before
        assert len(ids) == await worker.queue_size() - before == AT_ONCE * BURSTS
    # The counts include Sentinels, replicas and the processes that watch them.
    assert reads < AT_ONCE * BURSTS / 2
    assert made <= BURSTS * (1 + ceil((AT_ONCE - 1) / MOST_SHARED))


def calls_of(address: Address) -> int:
    """Return how often the server has run one of our functions or scripts."""
    (info,) = ask(address, ["INFO", "commandstats"])
    found = re.findall(r"cmdstat_(?:fcall|evalsha):calls=(\d+)", str(info))
    return sum(map(int, found))


def reads_of(address: Address) -> int:
    """Return how often the server has read from its connections."""
    (info,) = ask(address, ["INFO", "stats"])
    found = re.search(r"total_reads_processed:(\d+)", str(info))
    assert found is not None
    return int(found[1])


@pytest.fixture
def queue(stand_in: Callable[..., Path], settings: Settings) -> TaskWorker:
    """Return a worker of a project with three queues."""
    stand_in()
    return TaskWorker(settings, lambda: VibetunerApp(queues=["default", "broken", "late"]))


async def test_each_of_the_calls_that_share_one_has_its_own_outcome(queue: TaskWorker):
    """A call that is refused gets its own error, and the others are enqueued, in their order.

    A call that is cancelled before it is sent is sent with the others.
    """
    note = queue.task(name="note")(asyncio.sleep)
    async with queue:
        keys = queue.client.keys
        await queue.redis.set(keys.stream("broken"), "no stream")
        await queue.redis.set(keys.delayed("late"), "no sorted set")
        first = await note.enqueue(0).once("order 1")
        calls: list[Any] = [note.enqueue(n) for n in range(30)]
        calls[3].id = first.id
        calls[5].start(priority="broken")
        calls[7].start(priority="late", delay=60)
        calls[9].start(after="nobody")
        calls[11].start(priority="unknown")
        calls[13] = calls[13].once("order 1")
        calls[15] = calls[15].once("order 2")
        made = [asyncio.ensure_future(_enqueue(one)) for one in calls]
        asyncio.get_running_loop().call_soon(made[20].cancel)
        outcomes = await asyncio.gather(*made, return_exceptions=True)
        stream = await queue.redis.xrange(keys.stream("default"))

    errors = {at: one for at, one in enumerate(outcomes) if isinstance(one, BaseException)}
    kinds: dict[int, Any] = {
        3: TaskExists, 5: ServiceUnavailable, 7: ServiceUnavailable, 9: TaskNotFound,
        11: TaskError, 13: TaskError, 20: asyncio.CancelledError,
    }  # fmt: skip
    assert {at: type(error) for at, error in errors.items()} == kinds
    assert "wrong kind of value" in str(errors[5])
    sent = [first.id, *(one.id for at, one in enumerate(calls) if at not in kinds or at == 20)]
    assert [entry.field_values["task_id"] for entry in stream] == sent


async def _enqueue(call: Any) -> None:
    await call


async def test_calls_that_share_one_are_refused_together_by_a_full_server(
    stand_in: Callable[[], Path], tmp_path: Path
):
    """Each of them raises RedisFull, and none is enqueued."""
    stand_in()
    with Valkey(tmp_path) as server:
        async with opened(server) as (worker, number):
            ask(parse_url(server.url), ["CONFIG", "SET", "maxmemory", "1"])
            calls = (_enqueue(number.enqueue(n)) for n in range(AT_ONCE))
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(error) for error in errors} == {RedisFull}
            assert await worker.queue_size() == 0


async def test_calls_that_share_one_are_sent_again_to_a_server_that_has_forgotten_it(
    stand_in: Callable[[], Path], tmp_path: Path
):
    """The function is loaded again, and each task is enqueued once."""
    stand_in()
    with Valkey(tmp_path) as server:
        async with opened(server) as (worker, number):
            ask(parse_url(server.url), ["FUNCTION", "FLUSH"])
            await asyncio.gather(*(_enqueue(number.enqueue(n)) for n in range(AT_ONCE)))
            assert await worker.queue_size() == AT_ONCE


async def test_durable_calls_share_a_call_too(stand_in: Callable[[], Path], tmp_path: Path):
    """Durable calls that wait for the disk together are enqueued by few calls of the server."""
    stand_in()
    with Valkey(tmp_path) as server:
        async with opened(server) as (worker, number):
            address = parse_url(server.url)
            before = await asyncio.to_thread(calls_of, address)
            calls = (_enqueue(number.enqueue(n).start(durable=True)) for n in range(AT_ONCE))
            await asyncio.gather(*calls)
            assert await asyncio.to_thread(calls_of, address) - before < AT_ONCE / 2
            assert await worker.queue_size() == AT_ONCE
