"""A queue that streaq's worker and ours share, each with the other's tasks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from streaq import StreaqRetry, Worker

from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.tasks.robust import Unique, robust_task
from vibetuner.tasks.worker import using_worker

from .conftest import MAKERS, at_work, drain, make_ours, make_stock, soon


@pytest.fixture
def pair(stand_in, settings: Settings) -> dict[str, Worker[Any]]:
    """Return a worker of each kind, on the same queue."""
    stand_in()
    return {name: maker(settings) for name, maker in MAKERS.items()}


@pytest.mark.parametrize(("client", "runner"), [("streaq", "vibetuner"), ("vibetuner", "streaq")])
async def test_one_enqueues_and_the_other_runs(
    pair: dict[str, Worker[Any]], client: str, runner: str
):
    """Values, exceptions, retries, chains, fallbacks and aborts pass between the two workers."""
    add, fail, later, endless, fallback = register(pair[client])
    register(pair[runner])
    async with at_work(pair[runner]), pair[client]:
        value = await (await add.enqueue(1, 2)).result(timeout=30)
        failed = await (await fail.enqueue(-1)).result(timeout=30)
        again = await (await later.enqueue()).result(timeout=30)
        chained = await (await (add.enqueue(1, 2) | fail)).result(timeout=30)
        fallen = await (await (fail.enqueue(-4) ^ fallback)).result(timeout=30)
        many = [add.enqueue(n, n) for n in range(50)]
        await pair[client].enqueue_many(many)
        doubled = [(await task.result(timeout=30)).result for task in many]
        stuck = await endless.enqueue()
        await eventually(lambda: pair[runner].running() == 1)
        aborted = await stuck.abort(timeout=30)

    assert value.result == 3
    assert value.worker_id == pair[runner].id
    assert isinstance(failed.exception, ValueError)
    assert again.result == again.tries == 2
    assert chained.result == 3
    assert fallen.result == 4
    assert doubled == [2 * n for n in range(50)]
    assert aborted is True


async def test_both_work_on_one_backlog(stand_in, settings: Settings):
    """Each task of a shared backlog is run once, and each worker runs some of them."""
    stand_in()
    workers = [make_stock(settings, concurrency=2), make_ours(settings, concurrency=2)]
    ran: list[tuple[str, int]] = []
    both = asyncio.Event()
    for worker in workers:

        @worker.task(name="part")
        async def part(number: int, *, who: str = worker.id) -> None:
            ran.append((who, number))
            if {one for one, _ in ran} == {worker.id for worker in workers}:
                both.set()
            await both.wait()

    async with workers[1]:
        await workers[1].enqueue_many([part.enqueue(n) for n in range(100)])
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(drain(worker))

    assert sorted(number for _, number in ran) == list(range(100))
    assert {who for who, _ in ran} == {worker.id for worker in workers}


@pytest.mark.parametrize(("lost", "heir"), [("streaq", "vibetuner"), ("vibetuner", "streaq")])
async def test_one_worker_takes_over_the_others_tasks(
    stand_in, settings: Settings, lost: str, heir: str
):
    """A task whose worker died without a notice is run by the other worker, as try 2."""
    stand_in()
    first, second = (MAKERS[name](settings, idle_timeout=1) for name in (lost, heir))
    begun: list[int] = []

    @second.task(name="long")
    async def long() -> int:
        begun.append(long.context.tries)
        return long.context.tries

    async with first:
        task = await first.enqueue_unsafe("long")
        stream = first.stream_key + first.priorities[-1]
        await first.redis.xgroup_create(stream, "workers", "0", mkstream=True)
        await first.redis.xreadgroup("workers", "gone", {stream: ">"}, count=1)
        await first.redis.incr(first._retry_key + task.id)
    await asyncio.sleep(1.1)
    async with at_work(second):
        assert (await task_of(second, task.id).result(timeout=30)).result == 2

    assert begun == [2]


async def test_streaq_does_not_run_what_follows_a_task_that_we_aborted(
    pair: dict[str, Worker[Any]],
):
    """A follower of a task that our queue has aborted does not run in streaq's worker."""
    ran: list[str] = []
    for one in pair.values():

        @one.task(name="note")
        async def note(text: str) -> None:
            ran.append(text)

        if one is pair["vibetuner"]:
            async with one:
                first = await note.enqueue("first").start(delay=3600)
                behind = await note.enqueue("behind").start(after=first.id)
                await first.abort(timeout=0)
    async with at_work(pair["streaq"]):
        result = await task_of(pair["streaq"], behind.id).result(timeout=30)
    assert result.success is False
    assert ran == []


@pytest.mark.parametrize("clash", ["skip", "wait", "replace"])
async def test_a_unique_task_of_ours_runs_with_streaq(stand_in, settings: Settings, clash: Any):
    """A unique task that streaq's worker runs loses no call, as our worker watches the line.

    streaq's worker itself knows no lines.
    """
    stand_in()
    stock, ours = make_stock(settings), make_ours(settings)
    ran: list[int] = []
    go = asyncio.Event()

    @stock.task(name="charge")
    async def charge_there(number: int) -> int:
        ran.append(number)
        await go.wait()
        return number

    with using_worker(ours):

        @robust_task(name="charge", unique=Unique(clash=clash))
        async def charge(number: int) -> int:
            ran.append(number)
            return number

    async with ours, at_work(stock):
        first = await charge.enqueue(1)
        await eventually(lambda: bool(ran))
        second = await charge.enqueue(2)
        assert (second.id == first.id) is (clash == "skip")
        go.set()
        await first.result(timeout=30)
        async with at_work(ours):  # whose sweep notices that the first one has ended
            expected = 1 if clash == "skip" else 2
            assert (await second.result(timeout=30)).result == expected
    assert ran == [1] if clash == "skip" else [1, 2]


async def test_both_leave_the_same_behind(stand_in, settings: Settings):
    """Both workers leave the same keys, of the same types and sizes, after the same tasks."""
    stand_in()
    left = []
    for name, maker in MAKERS.items():
        worker = maker(settings.model_copy(update={"redis_key_prefix": f"{name}-leaves:"}))
        left.append(await leave(worker))

    # Five differences are deliberate: ours keeps the server's answers for a while, in case one is
    # lost; a result that becomes arguments for so long that it outlives a backlog; the times at
    # which streams were created; and a marker beside the result of each task that failed. It
    # deletes a result that a fallback has taken over.
    answered = [keys for name in list(left[1]) if "answered" in name for keys in left[1].pop(name)]
    assert answered
    assert all(kind == "string" and ttl in {0, 100} for kind, _, ttl in answered)  # in hundreds
    handed_on = [keys.pop(":task:previous") for keys in left]
    assert [len(keys) for keys in handed_on] == [2, 2]
    assert left[0].pop(":task:fallback") == [("string", None, -1)]
    assert left[1].pop(":made") == [("hash", 1, -1)]
    markers = left[1].pop(":task:failed")
    assert len(markers) == 5
    assert all(marker in left[1][":task:results"] for marker in markers)
    assert left[0] == left[1]


async def leave(worker: Worker[Any]) -> dict[str, Any]:
    """Run one task of each kind, and return the type, size and lifetime of each key."""
    add, fail, later, _, fallback = register(worker)
    async with at_work(worker):
        ends = [
            await add.enqueue(1, 2),
            await fail.enqueue(-1),
            await later.enqueue(),
            await (add.enqueue(1, 2) | fail | fail),
            await (fail.enqueue(-4) ^ fallback),
            await (fail.enqueue(4) ^ fallback),
            await (fail.enqueue(-4) | fail),
            await worker.enqueue_unsafe("nobody"),
        ]
        for task in ends:
            await task.result(timeout=30)
        await add.enqueue(3, 4).start(delay=3600)
        redis, shape = worker.redis, {}
        async for key in redis.scan_iter(f"{worker.prefix}:*", count=10_000):
            name = key.removeprefix(worker.prefix)
            kind = await redis.type(key)
            if ":health:" in name:
                continue
            parts = [part for part in name.split(":") if len(part) != 32]
            size = {
                "zset": redis.zcard, "set": redis.scard, "stream": redis.xlen, "hash": redis.hlen,
            }.get(kind)  # fmt: skip
            ttl = await redis.ttl(key)
            entry = (kind, await size(key) if size else None, round(ttl, -2) if ttl > 0 else ttl)
            shape.setdefault(":".join(parts), []).append(entry)
        return {name: sorted(entries, key=str) for name, entries in shape.items()}


def register(worker: Worker[Any]) -> tuple[Any, ...]:
    """Register the same tasks with any worker."""

    @worker.task(name="add")
    async def add(left: int, right: int) -> int:
        return left + right

    @worker.task(name="fail")
    async def fail(number: int) -> int:
        if number < 0:
            raise ValueError("below zero")
        return number

    @worker.task(name="later")
    async def later() -> int:
        if later.context.tries == 1:
            raise StreaqRetry(delay=soon(0.05))
        return later.context.tries

    @worker.task(name="endless")
    async def endless() -> None:
        await asyncio.sleep(60)

    @worker.task(name="fallback")
    async def fallback(number: int) -> int:
        return -number

    return add, fail, later, endless, fallback


def task_of(worker: Worker[Any], task_id: str) -> Any:
    """Return a handle of a task that another worker has enqueued."""
    task = worker.enqueue_unsafe("long")
    task.id = task_id
    return task
