"""A worker's open queue, and enqueues from threads, routes and scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from streaq import StreaqError

from tests.runtime.conftest import Running
from vibetuner.config import Settings, using_settings
from vibetuner.errors import NotConfigured, ServiceUnavailable, WrongEventLoop
from vibetuner.tasks.client.queue import read_result
from vibetuner.tasks.worker import TaskWorker, enqueue_sync, open_queue
from vibetuner.testing import held_open


async def test_a_block_inside_a_block_uses_its_connection(settings: Settings):
    """An inner block uses the connection of the outermost block, which closes it."""
    worker = TaskWorker(settings)
    async with worker:
        redis = worker.redis
        async with worker as inner:
            assert inner.redis is redis
        assert await redis.ping()
    with pytest.raises(ServiceUnavailable, match="The queue is not open here"):
        _ = worker.redis


async def test_a_worker_that_does_not_run_has_nothing_to_stop(settings: Settings):
    """stop() and abort_tasks() do nothing, and `client` raises ServiceUnavailable."""
    worker = TaskWorker(settings)
    worker.stop()
    worker.abort_tasks({"a"})
    assert worker.running() == 0
    with pytest.raises(ServiceUnavailable, match="The queue is not open here"):
        _ = worker.client


async def test_a_queue_can_be_opened_again(settings: Settings):
    """open_queue() works again after its end, and gives the same queue inside its block."""
    for _ in range(2):
        async with open_queue() as queue, open_queue() as same:
            assert queue is same
            assert await queue.redis.ping()


@pytest.fixture
def worker(stand_in, settings: Settings) -> TaskWorker:
    """Return a worker with a sync task that enqueues another task."""
    stand_in()
    worker = TaskWorker(settings)

    @worker.task(name="double")
    async def double(number: int) -> int:
        return 2 * number

    @worker.task(name="plain")
    def plain(number: int) -> str:
        return enqueue_sync(double.enqueue(number)).id

    return worker


async def test_a_def_task_enqueues_another(worker: TaskWorker, running: Running):
    """A sync task enqueues from its thread, in the loop that has the connection."""
    async with running(worker):
        task = await worker.registry["plain"].enqueue(21)
        other = (await task.result(timeout=30)).result
        assert (await worker.result_by_id(other, timeout=30)).result == 42


async def test_a_def_route_enqueues_a_task(worker: TaskWorker, running: Running):
    """Fifty simultaneous requests to a sync route each enqueue their task."""
    app = FastAPI()

    @app.post("/double/{number}")
    def double(number: int) -> dict[str, str]:
        return {"id": enqueue_sync(worker.registry["double"].enqueue(number)).id}

    async with (
        running(worker),
        AsyncClient(transport=ASGITransport(app), base_url="http://testserver") as visitor,
    ):
        answers = await asyncio.gather(*(visitor.post(f"/double/{n}") for n in range(50)))
        ids = [answer.json()["id"] for answer in answers]
        results = [await worker.result_by_id(one, timeout=30) for one in ids]
    assert [result.result for result in results] == [2 * n for n in range(50)]


def test_a_script_enqueues_without_a_loop(worker: TaskWorker, running: Running):
    """A script enqueues single calls, delayed calls and chains, also from several threads."""
    double = worker.registry["double"]
    with ThreadPoolExecutor(4) as threads:
        calls = list(threads.map(lambda n: enqueue_sync(double.enqueue(n)), range(8)))
    later = enqueue_sync(double.enqueue(4).start(delay=600))
    chain = enqueue_sync(double.enqueue(4) | double)

    async def look() -> None:
        async with running(worker):
            for number, call in enumerate(calls):
                assert (await call.result(timeout=30)).result == 2 * number
            assert (await chain.result(timeout=30)).result == 16
            assert await later.status() == "scheduled"

    asyncio.run(look())


async def test_in_an_event_loop_the_error_names_the_cure(worker: TaskWorker):
    """enqueue_sync() in an event loop raises WrongEventLoop with the cure, and sends nothing."""
    async with worker:
        with pytest.raises(WrongEventLoop, match=r"Write  await double\.enqueue\(\.\.\.\)"):
            enqueue_sync(worker.registry["double"].enqueue(1))
        assert await worker.redis.xlen(worker.stream_key + "normal") == 0


@pytest.fixture
async def opened(worker: TaskWorker) -> AsyncIterator[asyncio.AbstractEventLoop]:
    """Yield the loop of a connection that is open around a test."""
    async with held_open(worker):
        yield asyncio.get_running_loop()


def test_a_sync_test_uses_the_loop_of_its_fixtures(
    worker: TaskWorker, opened: asyncio.AbstractEventLoop
):
    """enqueue_sync() in a sync test uses the stopped loop that has the connection."""
    call = enqueue_sync(worker.registry["double"].enqueue(1))
    assert opened.run_until_complete(call.status()) == "queued"


def test_without_redis_the_error_names_the_setting(worker: TaskWorker, settings: Settings):
    """enqueue_sync() raises NotConfigured with REDIS_URL, as an await does."""
    with using_settings(settings.model_copy(update={"redis_url": None})):
        with pytest.raises(NotConfigured, match="REDIS_URL"):
            enqueue_sync(worker.registry["double"].enqueue(1))


def test_a_result_without_its_fields_is_refused():
    """A stored result without its fields raises StreaqError."""
    with pytest.raises(StreaqError, match="The stored result of a can.t be read"):
        read_result("a", {"f": "double"})
