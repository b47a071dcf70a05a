"""One process of backlog.py: ``fill`` puts tasks into a queue, ``work`` runs some of what waits."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import anyio
from both import configure, make_task

what, url, prefix, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
PORTION = 10_000
WARM = 500  # of the first tasks nothing is kept: a worker begins with imports and connections
configure(url, prefix=prefix)


class Progress:
    """How many tasks have run here, and what had been used at two of them."""

    def __init__(self) -> None:
        self.seen = 0
        self.first = self.last = usage()
        self.done = asyncio.Event()

    def step(self) -> None:
        """One more has run."""
        self.seen += 1
        if self.seen == WARM:
            self.first = usage()
        elif self.seen == WARM + count:
            self.last = usage()
            self.done.set()


async def nothing() -> None:
    """Count itself."""
    progress.step()


async def fill() -> None:
    """Print tasks a second that were enqueued."""
    task = make_task("robust", nothing)
    async with task.worker:
        began = time.perf_counter()
        for _ in range(0, count, PORTION):
            waiting = [task.enqueue() for _ in range(min(count, PORTION))]
            await task.worker.enqueue_many(waiting)
        print(json.dumps({"rate": count / (time.perf_counter() - began)}))


async def work() -> None:
    """Print rate, processor time a task and memory, of ``count`` tasks after the first few."""
    task = make_task("robust", nothing)
    async with anyio.create_task_group() as group:
        await group.start(task.worker.run_async)
        await progress.done.wait()
        first, last = progress.first, progress.last
        found = {
            "rate": count / (last["clock"] - first["clock"]),
            "cpu": 1e6 * (last["cpu"] - first["cpu"]) / count,
            "before": first["mib"],
            "after": last["mib"],
        }
        print(json.dumps(found), flush=True)
        task.worker.stop()  # what was read ahead goes back into the queue


def usage() -> dict[str, float]:
    """Seconds of this process, and its resident memory where the system tells."""
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text("ascii").split()[1]) if statm.exists() else 0
    mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return {"clock": time.perf_counter(), "cpu": time.process_time(), "mib": mib}


progress = Progress()
asyncio.run({"fill": fill, "work": work}[what]())
