"""A process of waiting.py: a worker and a client that waits for it, in one event loop."""

from __future__ import annotations

import asyncio
import cProfile
import json
import os
import pstats
import sys
import time
from datetime import timedelta
from typing import Any

import anyio
from both import configure, make_task

variant, url = sys.argv[1], sys.argv[2]
# streaq's results take a tenth of a second each.
RESULTS = 50 if variant == "streaq" else 300
DELAYED, APART_MS, DRAINED = 40, 37, 1000
configure(url, prefix="".join(sys.argv[3:]))


async def started() -> float:
    """Return the time."""
    return time.time()


async def main() -> None:
    """Wait for results one by one, for delayed starts, then drain under a profiler."""
    task = make_task(variant, started)
    async with anyio.create_task_group() as group:
        await group.start(task.worker.run_async)
        results = [await one_result(task) for _ in range(RESULTS)]
        late = await asyncio.gather(*(one_delay(task, place) for place in range(DELAYED)))
        calls = await calls_of_one(task)
        report(sorted(results), sorted(late), calls)


async def one_result(task: Any) -> float:
    """Return the milliseconds from just before the enqueue to the result."""
    began = time.perf_counter()
    await (await task.enqueue()).result(timeout=30)
    return (time.perf_counter() - began) * 1000


async def one_delay(task: Any, place: int) -> float:
    """Return the milliseconds from the time that a task was delayed to, until its start."""
    delay = timedelta(milliseconds=300 + APART_MS * place)
    result = await (await task.enqueue().start(delay=delay)).result(timeout=30)
    return float(result.result * 1000 - result.enqueue_time)


async def calls_of_one(task: Any) -> float:
    """Return the Python calls a task, from enqueueing many together to the end of the last."""
    counters = task.worker.counters
    until = counters["completed"] + DRAINED
    profile = cProfile.Profile()
    profile.enable()
    await task.worker.enqueue_many([task.enqueue() for _ in range(DRAINED)])
    while counters["completed"] < until:  # noqa: ASYNC110 - theirs
        await asyncio.sleep(0.05)
    profile.disable()
    return pstats.Stats(profile).total_calls / DRAINED  # type: ignore[attr-defined]


def report(results: list[float], late: list[float], calls: float) -> None:
    """Print the figures and exit at once: stopping the worker is not measured."""
    figures = {
        "result p50": results[len(results) // 2],
        "result p99": results[int(len(results) * 0.99)],
        "late p50": late[len(late) // 2],
        "late p95": late[int(len(late) * 0.95)],
        "earliest": late[0],
        "calls": calls,
    }
    print(json.dumps(figures), flush=True)
    os._exit(0)


asyncio.run(main())
