"""One process of ceiling.py: tasks that sleep, until the queue is empty."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop
from both import configure, make_task

variant, url = sys.argv[1:3]
concurrency, count, milliseconds = map(int, sys.argv[3:6])
SECONDS = milliseconds / 1000
configure(url, concurrency=concurrency)
begun: list[float] = []
ended: list[float] = []


async def wait() -> None:
    """Stand for a request to somebody else."""
    begun.append(time.perf_counter())
    await asyncio.sleep(SECONDS)
    ended.append(time.perf_counter())


async def main() -> None:
    """Print how much of what is possible was reached, in percent, and the cores it took."""
    task = make_task(variant, wait)
    async with task.worker:
        await task.worker.enqueue_many([task.enqueue() for _ in range(count)])
    task.worker.burst = True
    used, before = time.process_time(), time.perf_counter()
    await task.worker.run_async()
    cores = (time.process_time() - used) / (time.perf_counter() - before)
    rate = count / (ended[-1] - begun[0])
    share = 100 * rate * SECONDS / concurrency
    # What sleep itself takes too long is the machine's, and no queue could do anything about it.
    slept = sum(ended) - sum(begun)
    print(json.dumps({"rate": rate, "share": share, "cores": cores, "slept": 1000 * slept / count}))


uvloop.run(main())
