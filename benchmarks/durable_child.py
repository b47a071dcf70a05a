"""A process of durable.py: enqueues one by one, then fifty at a time."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from statistics import median

from both import configure, make_task

variant, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
configure(url, prefix="".join(sys.argv[4:]))

AT_ONCE, ROUNDS = 50, 100


async def noop() -> None:
    """Do nothing."""


async def main() -> None:
    """Print the median milliseconds of a call, and the calls a second of fifty callers."""
    task, durable = make_task("robust", noop), variant == "durable"

    async def enqueue(times: int) -> None:
        for _ in range(times):
            await task.enqueue().start(durable=durable)

    async with task.worker:
        await enqueue(1)
        alone = []
        for _ in range(count):
            began = time.perf_counter()
            await enqueue(1)
            alone.append(time.perf_counter() - began)
        rounds = min(ROUNDS, count)
        began = time.perf_counter()
        await asyncio.gather(*(enqueue(rounds) for _ in range(AT_ONCE)))
        took = time.perf_counter() - began
    print(json.dumps({"alone": 1000 * median(alone), "together": AT_ONCE * rounds / took}))


asyncio.run(main())
