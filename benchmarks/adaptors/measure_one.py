"""One run of one engine: ``python measure_one.py ADAPTOR URL COUNT``, with its own interpreter.

An adaptor is a module with ``WORKER``, the command of one worker process, and ``client()``, which
yields two calls: enqueue a task, and enqueue one and wait for its result. Prints JSON: tasks a
second enqueued one by one and drained, and milliseconds of results on the then idle worker.
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
    """Enqueue while no worker runs, let one drain, then ask it for results one by one."""
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
    os._exit(0)  # how a client says goodbye is no part of the question


async def wait_for_results(result: Callable[[], Awaitable[object]]) -> list[float]:
    """Milliseconds of each; a hundred, or what half a second has room for, at least three."""
    waited: list[float] = []
    until = time.monotonic() + RESULT_SECONDS
    while len(waited) < RESULTS and (time.monotonic() < until or len(waited) < 3):
        began = time.perf_counter()
        await result()
        waited.append((time.perf_counter() - began) * 1000)
    return waited


async def all_marks(count: int) -> array[float]:
    """When each task ran, once all have."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (size := MARKS.stat().st_size if MARKS.exists() else 0) < 8 * count:
        if time.monotonic() > until:
            raise SystemExit(f"{size // 8} of {count} tasks ran in {PATIENCE_SECONDS} s")
        await asyncio.sleep(0.02)
    return array("d", MARKS.read_bytes())


@contextmanager
def running(command: list[str | Path]) -> Iterator[None]:
    """The worker, ended at once with all its processes when the block ends."""
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
