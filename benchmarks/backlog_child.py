"""A process of backlog.py: ``fill`` enqueues tasks, ``work`` runs some of those that wait."""

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
WARM = 500  # tasks that aren't measured: a worker first imports and connects
configure(url, prefix=prefix)


class Progress:
    """Counts tasks, and notes the resources used after the first and the last measured one."""

    def __init__(self) -> None:
        self.seen = 0
        self.first = self.last = usage()
        self.done = asyncio.Event()

    def step(self) -> None:
        """Count a task."""
        self.seen += 1
        if self.seen == WARM:
            self.first = usage()
        elif self.seen == WARM + count:
            self.last = usage()
            self.done.set()


async def nothing() -> None:
    """Count this task."""
    progress.step()


async def fill() -> None:
    """Print how many tasks a second were enqueued."""
    task = make_task("robust", nothing)
    async with task.worker:
        began = time.perf_counter()
        for _ in range(0, count, PORTION):
            waiting = [task.enqueue() for _ in range(min(count, PORTION))]
            await task.worker.enqueue_many(waiting)
        print(json.dumps({"rate": count / (time.perf_counter() - began)}))


async def work() -> None:
    """Print rate, processor time a task and memory of ``count`` tasks after the first few."""
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
        task.worker.stop()  # prefetched tasks are requeued


def usage() -> dict[str, float]:
    """Return this process's seconds and resident memory, if the system reports it."""
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text("ascii").split()[1]) if statm.exists() else 0
    mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return {"clock": time.perf_counter(), "cpu": time.process_time(), "mib": mib}


progress = Progress()
asyncio.run({"fill": fill, "work": work}[what]())
