"""streaq alone, the engine whose formats we keep, payloads unsigned. Tuned: prefetches more."""

from __future__ import annotations

from contextlib import asynccontextmanager

from streaq import Worker
from yardstick import BIN, CONCURRENCY, TUNED, URL, note

WORKER = [BIN / "streaq", "run", "with_streaq:worker"]
worker: Worker[None] = Worker(URL, concurrency=CONCURRENCY, prefetch=256 if TUNED else None)


@worker.task()
async def noop() -> None:
    note()


@asynccontextmanager
async def client():
    async with worker:
        yield noop.enqueue, result


async def result() -> None:
    await (await noop.enqueue()).result(timeout=30)
