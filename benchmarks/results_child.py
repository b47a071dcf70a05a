"""A process of waiting.py: waits for thousands of results, dozens at a time; misses none."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import anyio
from both import configure, make_task

url, count = sys.argv[1], int(sys.argv[2])
AT_A_TIME = 50
PATIENCE_SECONDS = 10
configure(url)
expected = iter(range(count))
wrong: list[int] = []


async def echo(number: int) -> int:
    """Return its argument, which tells results apart."""
    return number


async def wait(task: object) -> None:
    """Enqueue one after the other, and compare each result."""
    for number in expected:
        try:
            waiting = await task.enqueue(number)
            if (await waiting.result(timeout=PATIENCE_SECONDS)).result != number:
                wrong.append(number)
        except TimeoutError:
            wrong.append(number)


async def main() -> None:
    """Print how many results were missing or wrong."""
    task = make_task("robust", echo)
    async with anyio.create_task_group() as group:
        await group.start(task.worker.run_async)
        began = time.perf_counter()
        await asyncio.gather(*(wait(task) for _ in range(AT_A_TIME)))
        rate = count / (time.perf_counter() - began)
        print(json.dumps({"missed": len(wrong), "rate": rate}), flush=True)
        os._exit(0)


asyncio.run(main())
