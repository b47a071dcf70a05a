"""One process of topologies.py: a worker, and a client that awaits one task after the other."""

from __future__ import annotations

import asyncio
import sys
import time

import anyio
from both import configure, make_task
from coredis.exceptions import RedisError

from vibetuner.errors import VibetunerError

configure(sys.argv[1], prefix=sys.argv[2])
PAUSE_SECONDS = 0.01
PATIENCE_SECONDS = 2  # a task may be lost with the primary
PASSING = (VibetunerError, RedisError, OSError, TimeoutError)


async def noop() -> None:
    """Do nothing."""


async def main() -> None:
    """Print for each task the time of its enqueue and the time of its result."""
    task = make_task("robust", noop)
    async with anyio.create_task_group() as group:
        await group.start(task.worker.run_async)
        while True:
            began = time.monotonic()
            try:
                await (await task.enqueue()).result(timeout=PATIENCE_SECONDS)
                print(began, time.monotonic(), flush=True)
            except PASSING:
                pass
            await asyncio.sleep(PAUSE_SECONDS)


asyncio.run(main())
