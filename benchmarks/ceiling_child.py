"""A process of ceiling.py: runs tasks that sleep, until the queue is empty."""

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
    """Stand in for a request to another service."""
    begun.append(time.perf_counter())
    await asyncio.sleep(SECONDS)
    ended.append(time.perf_counter())


async def main() -> None:
    """Print the share of the ceiling in percent, and the cores used."""
    task = make_task(variant, wait)
    async with task.worker:
        await task.worker.enqueue_many([task.enqueue() for _ in range(count)])
    task.worker.burst = True
    used, before = time.process_time(), time.perf_counter()
    await task.worker.run_async()
    cores = (time.process_time() - used) / (time.perf_counter() - before)
    rate = count / (ended[-1] - begun[0])
    share = 100 * rate * SECONDS / concurrency
    # The time that sleep overruns is the machine's, and no queue could avoid it.
    slept = sum(ended) - sum(begun)
    print(json.dumps({"rate": rate, "share": share, "cores": cores, "slept": 1000 * slept / count}))


uvloop.run(main())
