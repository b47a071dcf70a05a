"""A child process of test_moved_name.py: it runs tasks, and prints the server that had them."""

from __future__ import annotations

import asyncio
import sys

import anyio
from coredis.exceptions import RedisError

from vibetuner.config import Settings, using_settings
from vibetuner.errors import VibetunerError
from vibetuner.redis.client import open_redis
from vibetuner.tasks.worker import TaskWorker

PASSING = (VibetunerError, RedisError, OSError, TimeoutError)


async def main(url: str) -> None:
    """Print the server's name and a task's result, repeatedly."""
    settings = Settings(
        environment="test", redis_url=url, redis_key_prefix="own", secret_key="k" * 40
    )
    with using_settings(settings):
        worker = TaskWorker(settings)

        @worker.task(name="add")
        async def add(a: int, b: int) -> int:
            return a + b

        async with anyio.create_task_group() as group, open_redis(settings) as client:
            await group.start(worker.run_async)
            while True:
                try:
                    result = await (await add.enqueue(1, 2)).result(timeout=3)
                    name = await client.get("own:name")
                    print(name, result.result, flush=True)
                except PASSING:
                    pass
                await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
