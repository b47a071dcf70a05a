"""One process of waiting.py: a worker and who waits for it, in one event loop."""

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
from uuid import uuid4

import anyio

variant, url = sys.argv[1], sys.argv[2]
RESULTS, DELAYED, DRAINED = 200, 20, 500
os.environ |= {
    "REDIS_URL": url,
    "REDIS_KEY_PREFIX": f"waiting-{uuid4().hex[:8]}",
    "SECRET_KEY": "benchmark" * 8,
    "WORKER_CONCURRENCY": "32",
    "ENVIRONMENT": "test",
}


def make_task() -> Any:
    """A task that returns when it was started; logged as each command line does."""
    if variant == "streaq":
        import logging.config
        from datetime import UTC

        from streaq import Worker
        from streaq.utils import default_log_config

        logging.config.dictConfig(default_log_config(UTC, verbose=False))
        worker: Any = Worker(url, queue_name=os.environ["REDIS_KEY_PREFIX"], concurrency=32)
        return worker.task()(started)
    from vibetuner.logs import configure_logging
    from vibetuner.tasks.robust import robust_task

    configure_logging(debug=False, as_json=True)
    return robust_task()(started)


async def started() -> float:
    """The moment."""
    return time.time()


async def main() -> None:
    """Wait for results one by one, for delayed starts, then drain under a profiler."""
    task = make_task()
    worker = task.worker
    results, late = [], []
    async with anyio.create_task_group() as group:
        await group.start(worker.run_async)
        for _ in range(RESULTS):
            began = time.perf_counter()
            await (await task.enqueue()).result(timeout=30)
            results.append((time.perf_counter() - began) * 1000)
        for _ in range(DELAYED):
            waiting = await task.enqueue().start(delay=timedelta(milliseconds=300))
            result = await waiting.result(timeout=30)
            late.append(result.result * 1000 - result.enqueue_time)
        profile = cProfile.Profile()
        profile.enable()
        waiting = [task.enqueue() for _ in range(DRAINED)]
        await worker.enqueue_many(waiting)
        while worker.counters["completed"] < RESULTS + DELAYED + DRAINED:  # noqa: ASYNC110 - theirs
            await asyncio.sleep(0.05)
        profile.disable()
        calls = pstats.Stats(profile).total_calls / DRAINED  # type: ignore[attr-defined]
        report(results, late, calls)


def report(results: list[float], late: list[float], calls: float) -> None:
    """Print the figures, and end: how the worker stops is no part of the question."""
    results.sort()
    late.sort()
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
