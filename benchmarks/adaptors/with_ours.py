"""Our engine: a robust task, signed, logged and journaled as in production; nothing to tune."""

from __future__ import annotations

from contextlib import asynccontextmanager

from yardstick import BIN, note

from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import get_worker

WORKER = [BIN / "vibetuner", "run", "prod", "worker"]


@robust_task()
async def noop() -> None:
    note()


@asynccontextmanager
async def client():
    async with get_worker():
        yield noop.enqueue, result


async def result() -> None:
    await (await noop.enqueue()).result(timeout=30)
