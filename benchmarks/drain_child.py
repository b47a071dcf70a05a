"""A process of drain.py: enqueues no-op tasks, then runs a worker until the queue is empty."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from both import configure, make_task, rate

variant, url, count, prefix = sys.argv[1], sys.argv[2], int(sys.argv[3]), "".join(sys.argv[4:])
configure(url, prefix=prefix)
moments: list[float] = []


async def noop() -> None:
    """Note the time, and do nothing."""
    moments.append(time.perf_counter())


async def main() -> None:
    """Enqueue half of ``count`` tasks one by one and the others together; then drain them."""
    task = make_task(variant, noop)
    half = count // 2
    async with task.worker:
        began = time.perf_counter()
        for _ in range(half):
            await task.enqueue()
        enqueued = half / (time.perf_counter() - began)
        began = time.perf_counter()
        await task.worker.enqueue_many([task.enqueue() for _ in range(half)])
        together = half / (time.perf_counter() - began)
    task.worker.burst = True
    await task.worker.run_async()
    assert len(moments) == count
    print(json.dumps({"enqueued": enqueued, "together": together, "drained": rate(moments)}))


asyncio.run(main())
