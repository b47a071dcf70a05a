"""A worker's prefetch and listening, and the reading of stored numbers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest

from tests.waiting import eventually
from vibetuner.redis.connection import Connection
from vibetuner.redis.keys import GROUP
from vibetuner.tasks.attempt import Attempt
from vibetuner.tasks.observers import Observers
from vibetuner.tasks.queues import ReadOrder
from vibetuner.tasks.run.dispatcher import FORGET_MS, MOST_TRIES, Dispatcher, Lookahead, _number
from vibetuner.tasks.run.finisher import Finisher
from vibetuner.tasks.run.outage import Outage
from vibetuner.tasks.worker import TaskWorker
from vibetuner.testing import held_open


def test_short_tasks_are_prefetched_for_some_round_trips():
    """A rate of 100 tasks a second and 8 round trips of 10 ms make eight tasks."""
    ahead = Lookahead(slots=100, now=0.0)
    assert ahead.count(0.0) == 0
    ahead.finished += 100
    ahead.answered(asked=0.99, now=1.0)
    assert (ahead.count(1.0), ahead.finished) == (8, 0)


def test_a_round_trip_that_is_slow_once_counts_for_a_quarter():
    """Round trips of 2 ms and then 6 ms count as 3 ms.

    Eight of these at 500 tasks a second make twelve tasks.
    """
    ahead = Lookahead(slots=1000, now=0.0)
    for asked, now in ((0.998, 1.0), (1.994, 2.0)):
        ahead.finished += 500
        ahead.answered(asked=asked, now=now)
    assert ahead.count(2.0) == 12


def test_only_tasks_that_begin_before_they_are_stale_are_claimed():
    """A slow server limits the prefetch to half of the time after which a claim is stale."""
    ahead = Lookahead(slots=1000, now=0.0)
    ahead.finished += 4
    ahead.answered(asked=0.0, now=0.02)
    assert ahead.count(0.02) == 20


def test_a_short_span_does_not_change_the_rate():
    """Tasks that end in a short span count for the next span."""
    ahead = Lookahead(slots=1000, now=0.0)
    ahead.finished += 100
    ahead.answered(asked=0.99, now=1.0)
    ahead.finished += 1
    assert (ahead.count(1.01), ahead.finished) == (8, 1)
    assert (ahead.count(2.0), ahead.finished) == (0, 0)


def test_at_most_four_tasks_are_prefetched_for_each_slot():
    """A worker with three slots prefetches twelve tasks, and leaves the rest to other workers."""
    ahead = Lookahead(slots=3, now=0.0)
    ahead.finished += 10_000
    ahead.answered(asked=0.9, now=1.0)
    assert ahead.count(1.0) == 12


@pytest.mark.parametrize(
    ("stored", "number"),
    [(b"0", 0), (b"999999", 999_999), (b"1000000", 0), (b"-1", 0), (b"1e3", 0), (b"", 0)],
)
def test_a_stored_number_out_of_range_is_none(stored: bytes, number: int):
    """A stored number is read as 0 if it is negative, too large or no number."""
    assert _number(stored, MOST_TRIES) == number


async def test_a_lost_message_is_found_behind_many_that_run(worker: TaskWorker):
    """A worker with one free slot finds a lost message behind 149 that run.

    XAUTOCLAIM alone looks at the first ten.
    """

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        calls = [noop.enqueue() for _ in range(150)]
        await worker.enqueue_many(calls)
        functions, keys = worker.client.functions, worker.client.keys
        await functions.call("make_groups", (keys.queue,), ["workers", 86_400_000, "normal"])

        async def claim(consumer: str, count: int) -> list[bytes]:
            head = ["workers", consumer, 60_000, 900]
            values = [*head, count, 1, "normal", count]
            _, *claimed = await functions.call("claim", (keys.queue,), values)
            return claimed

        await claim("running", 149)
        lost = await claim("lost", 1)
        connection, stream = functions.connection, keys.stream("normal")
        await connection.call("XCLAIM", stream, "workers", "lost", 0, lost[1], "IDLE", 60_001)
        found = [await claim("other", 1) for _ in range(2)]
        assert [one[2].decode() for one in found if one] == [calls[-1].id]
        assert await claim("other", 1) == []


async def test_consumers_of_ended_workers_are_removed(worker: TaskWorker):
    """A start removes consumers that were idle for long, except those that hold messages."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async def start(forget_ms: int) -> list[str]:
        values = ["workers", forget_ms, "normal"]
        await functions.call("make_groups", (keys.queue,), values)
        found = await call("XINFO", "CONSUMERS", stream, "workers")
        return sorted(
            dict(zip(one[::2], one[1::2], strict=True))[b"name"].decode() for one in found
        )

    async with worker:
        functions, keys = worker.client.functions, worker.client.keys
        call, stream = functions.connection.call, keys.stream("normal")
        await noop.enqueue()
        assert await start(FORGET_MS) == []
        await call("XREADGROUP", "GROUP", "workers", "busy", "STREAMS", stream, ">")
        await call("XGROUP", "CREATECONSUMER", stream, "workers", "idle")
        assert await start(FORGET_MS) == ["busy", "idle"]
        assert await start(0) == ["busy"]


@pytest.fixture
async def listening(worker: TaskWorker) -> AsyncIterator[tuple[Dispatcher, list[Attempt]]]:
    """Yield a dispatcher of two queues with two slots, and the attempts that it begins."""
    begun: list[Attempt] = []

    async def prepare() -> None: ...

    async with held_open(worker):
        client = worker.client
        finisher = Finisher(
            client, worker_id="w1", idle_ms=60_000,
            observers=Observers([]), counters=defaultdict(int), outage=Outage(),
        )  # fmt: skip
        async with Connection(client.functions.connection.address) as listener:
            dispatcher = Dispatcher(
                client, listener, order=ReadOrder(["high", "normal"]), slots=2,
                begin=begun.append, prepare=prepare, finisher=finisher, outage=Outage(),
            )  # fmt: skip
            await dispatcher.make_groups()
            yield dispatcher, begun
            finisher.close()


async def send(worker: TaskWorker, queue: str, task_id: str, queued: int) -> str:
    """Add a message to a queue, and return its id."""
    stream, fields = worker.client.keys.stream(queue), ("task_id", task_id, "enqueue_time", queued)
    call = worker.client.functions.connection.call
    return (await call("XADD", stream, "*", *fields)).decode()


async def test_a_listening_worker_begins_what_arrives(
    worker: TaskWorker, listening: tuple[Dispatcher, list[Attempt]]
):
    """A message that arrives begins an attempt with its queue, its id and its time."""
    dispatcher, begun = listening
    waiting = asyncio.create_task(dispatcher._listen(2))
    message = await send(worker, "normal", "t1", 1234)
    # A queue that returned as many messages as were asked for may hold more.
    assert await waiting is False
    await eventually(lambda: begun)
    found = [(one.priority, one.message_id, one.task_id, one.queued, one.tries) for one in begun]
    assert found == [("normal", message, "t1", 1234, 1)]


async def test_a_listening_worker_takes_no_more_than_it_has_room_for(
    worker: TaskWorker, listening: tuple[Dispatcher, list[Attempt]]
):
    """A worker begins as many messages as it has slots, and the next one when a slot is free."""
    dispatcher, begun = listening
    for number in range(3):
        await send(worker, "high", f"t{number}", number)
    assert await dispatcher._listen(2) is False
    assert await dispatcher._listen(6) is True
    assert not dispatcher.is_empty
    await eventually(lambda: len(begun) == 2)
    assert [one.task_id for one in begun] == ["t0", "t1"]
    dispatcher.release(begun[0])
    await eventually(lambda: len(begun) == 3)
    dispatcher.release(begun[0])  # a second release frees no slot
    assert len(dispatcher.running) == 2


async def test_after_a_stop_nothing_begins_and_all_is_requeued(
    worker: TaskWorker, listening: tuple[Dispatcher, list[Attempt]]
):
    """A message that is claimed after a stop is requeued, and a task that runs is kept."""
    dispatcher, begun = listening
    message = await send(worker, "high", "t0", 1)
    assert await dispatcher._claim(2) == 1
    await eventually(lambda: begun)
    dispatcher.stop()
    late = await send(worker, "high", "t1", 1)
    assert await dispatcher._claim(2) == 1
    assert await dispatcher.requeue_unbegun() is True
    await dispatcher._finisher.settled()
    assert list(dispatcher.running) == [("high", message)]
    stream = worker.client.keys.stream("high")
    pending = await worker.client.functions.connection.call(
        "XPENDING", stream, GROUP, "IDLE", 60_000, "-", "+", 9
    )
    assert [entry[0].decode() for entry in pending] == [late]
