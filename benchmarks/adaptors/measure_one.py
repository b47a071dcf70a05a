"""Measures one engine once: ``python measure_one.py ADAPTOR URL COUNT``, in its interpreter.

An adaptor is a module with ``WORKER``, the command of one worker process, and ``client()``, which
yields two functions: enqueue a task, and enqueue one and wait for its result. Prints JSON: tasks a
second enqueued one by one, tasks a second drained, and the milliseconds of results on the worker
that is idle afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from yardstick import MARKS

RESULTS, RESULT_SECONDS = 100, 0.6
SETTLE_SECONDS = 0.2
PATIENCE_SECONDS = 60


async def main(name: str, count: int) -> None:
    """Enqueue without a worker, start one to drain, then wait for results one by one."""
    adaptor = import_module(name)
    async with adaptor.client() as (enqueue, result):
        began = time.monotonic()
        for _ in range(count):
            await enqueue()
        enqueued = count / (time.monotonic() - began)
        with running(adaptor.WORKER):
            marks = await all_marks(count)
            await asyncio.sleep(SETTLE_SECONDS)
            waited = await wait_for_results(result)
    drained = (count - 1) / (max(marks) - min(marks))
    print(json.dumps({"enqueued": enqueued, "drained": drained, "results": waited}))
    sys.stdout.flush()
    os._exit(0)  # closing the client is not measured


async def wait_for_results(result: Callable[[], Awaitable[object]]) -> list[float]:
    """Return the milliseconds of up to a hundred results: as many as half a second allows."""
    waited: list[float] = []
    until = time.monotonic() + RESULT_SECONDS
    while len(waited) < RESULTS and (time.monotonic() < until or len(waited) < 3):
        began = time.perf_counter()
        await result()
        waited.append((time.perf_counter() - began) * 1000)
    return waited


async def all_marks(count: int) -> array[float]:
    """Return the time of each task's run, once all have run."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (size := MARKS.stat().st_size if MARKS.exists() else 0) < 8 * count:
        if time.monotonic() > until:
            raise SystemExit(f"{size // 8} of {count} tasks ran in {PATIENCE_SECONDS} s")
        await asyncio.sleep(0.02)
    return array("d", MARKS.read_bytes())


@contextmanager
def running(command: list[str | Path]) -> Iterator[None]:
    """Run the worker; kill it and its processes when the block ends."""
    log = MARKS.with_suffix(".log")
    with log.open("wb") as out:
        worker = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no worker is left behind
    asyncio.run(main(sys.argv[1], int(sys.argv[3])))
