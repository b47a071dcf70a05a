"""A worker's prefetch, and the reading of stored numbers."""

from __future__ import annotations

import pytest

from vibetuner.tasks.run.dispatcher import MOST_TRIES, Lookahead, _number
from vibetuner.tasks.worker import TaskWorker


def test_short_tasks_are_prefetched_for_some_round_trips():
    """100 tasks a second and 8 round trips of 10 ms make eight tasks."""
    ahead = Lookahead(slots=100, now=0.0)
    assert ahead.count(0.0) == 0
    ahead.finished += 100
    ahead.answered(asked=0.99, now=1.0)
    assert (ahead.count(1.0), ahead.finished) == (8, 0)


def test_a_round_trip_that_is_slow_once_counts_for_a_quarter():
    """2 ms and then 6 ms give 3 ms; 8 of these at 500 tasks a second make twelve tasks."""
    ahead = Lookahead(slots=1000, now=0.0)
    for asked, now in ((0.998, 1.0), (1.994, 2.0)):
        ahead.finished += 500
        ahead.answered(asked=asked, now=now)
    assert ahead.count(2.0) == 12


def test_only_tasks_that_begin_before_they_are_stale_are_claimed():
    """With a slow server, the limit is half of the time after which a claim is stale."""
    ahead = Lookahead(slots=1000, now=0.0)
    ahead.finished += 4
    ahead.answered(asked=0.0, now=0.02)
    assert ahead.count(0.02) == 20


def test_a_short_span_does_not_change_the_rate():
    """Its tasks count for the next span."""
    ahead = Lookahead(slots=1000, now=0.0)
    ahead.finished += 100
    ahead.answered(asked=0.99, now=1.0)
    ahead.finished += 1
    assert (ahead.count(1.01), ahead.finished) == (8, 1)
    assert (ahead.count(2.0), ahead.finished) == (0, 0)


def test_at_most_two_tasks_are_prefetched_for_each_slot():
    """A worker with few slots leaves the others to other workers."""
    ahead = Lookahead(slots=3, now=0.0)
    ahead.finished += 10_000
    ahead.answered(asked=0.9, now=1.0)
    assert ahead.count(1.0) == 6


@pytest.mark.parametrize(
    ("stored", "number"),
    [(b"0", 0), (b"999999", 999_999), (b"1000000", 0), (b"-1", 0), (b"1e3", 0), (b"", 0)],
)
def test_a_stored_number_out_of_range_is_none(stored: bytes, number: int):
    """Anybody who can write to Redis may have written it."""
    assert _number(stored, MOST_TRIES) == number


async def test_a_lost_message_is_found_behind_many_that_run(worker: TaskWorker):
    """By a worker with one free slot: XAUTOCLAIM alone looks at the first ten."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        calls = [noop.enqueue() for _ in range(150)]
        await worker.enqueue_many(calls)
        functions, keys = worker.client.functions, worker.client.keys
        await functions.call("make_groups", (keys.queue,), ["workers", "normal"])

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
