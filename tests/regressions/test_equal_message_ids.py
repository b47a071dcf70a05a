"""Messages of two queues may have the same id, as each queue is a stream that numbers its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from tests.waiting import eventually
from vibetuner.app import VibetunerApp
from vibetuner.config import Settings
from vibetuner.redis.keys import GROUP
from vibetuner.tasks.worker import TaskWorker

NAMES = ("critical", "bulk")


async def test_tasks_whose_messages_have_the_same_id_each_run_once(
    stand_in: Callable[..., Path],
    settings: Settings,
    running: Callable[[TaskWorker], AbstractAsyncContextManager[TaskWorker]],
):
    """Two tasks whose messages have the same id run at the same time, and both are acknowledged."""
    stand_in()
    worker = TaskWorker(settings, lambda: VibetunerApp(queues=NAMES))
    begun: list[str] = []
    together = asyncio.Event()

    @worker.task(name="wait")
    async def wait(queue: str) -> None:
        begun.append(queue)
        if len(begun) == len(NAMES):
            together.set()
        await together.wait()

    async with worker:
        client = worker.client
        call = client.functions.connection.call
        for queue in NAMES:
            task = await wait.enqueue(queue).start(priority=queue)
            await call("DEL", client.keys.stream(queue))
            fields = ("task_id", task.id, "enqueue_time", 1)
            await call("XADD", client.keys.stream(queue), "7-1", *fields)
        async with running(worker):
            await asyncio.wait_for(together.wait(), 10)

            async def are_recorded() -> bool:
                streams = map(client.keys.stream, NAMES)
                return not any([(await call("XPENDING", one, GROUP))[0] for one in streams])

            await eventually(are_recorded)
    assert sorted(begun) == sorted(NAMES)
