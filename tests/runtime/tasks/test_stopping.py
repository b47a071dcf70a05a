"""The stop of a worker that has much to do."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.tasks.worker import TaskWorker

TASKS = 200


async def test_a_stop_costs_no_try_of_a_task_about_to_begin(stand_in, settings: Settings, running):
    """A stop between the count of a try and its function's start leaves the try uncounted."""
    stand_in()
    worker = TaskWorker(settings.model_copy(update={"worker_idle_timeout": 1}))
    tries: dict[int, int] = {}

    @worker.task(max_tries=3)
    async def note(number: int) -> None:
        tries[number] = note.context.tries

    async with worker:
        await worker.enqueue_many([note.enqueue(number) for number in range(TASKS)])
    async with asyncio.timeout(60):
        for enough in range(20, TASKS + 1, 20):
            async with running(worker):
                await eventually(lambda enough=enough: len(tries) >= enough)

    assert Counter(tries.values()) == {1: TASKS}
