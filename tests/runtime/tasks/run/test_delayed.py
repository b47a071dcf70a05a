"""The queue of delayed tasks: how long a worker sleeps until the next one is due."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from vibetuner.tasks.run.delayed import DelayedQueue
from vibetuner.tasks.run.outage import Outage
from vibetuner.tasks.worker import TaskWorker

ASKED = 30


async def test_the_time_until_the_next_task_is_exact(worker: TaskWorker):
    """The server names the time until the next task is due to the microsecond.

    In whole milliseconds of its clock it would be up to a millisecond too long, and so would a
    worker's sleep.
    """
    note = worker.task(name="note")(asyncio.sleep)
    async with worker:
        client = worker.client
        task = await note.enqueue(0).start(delay=timedelta(minutes=1))
        due = await worker.redis.zscore(client.keys.delayed(task.priority or ""), task.id)
        queue, call = (
            DelayedQueue(client, worker.priorities, Outage()),
            client.functions.connection.call,
        )
        assert due is not None
        for _ in range(ASKED):
            before, left, after = await call("TIME"), await queue.queue_due(), await call("TIME")
            assert left is not None
            assert due - _ms(after) <= left + 0.001
            assert left - 0.001 <= due - _ms(before)


def _ms(time: list[bytes]) -> float:
    seconds, micros = map(int, time)
    return seconds * 1000 + micros / 1000
