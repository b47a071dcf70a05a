"""A queue of the test's own, with tasks that succeed, fail or wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import pytest

from vibetuner.config import Settings
from vibetuner.redis.keys import JournalKeys
from vibetuner.tasks.inspect.queue import Queue
from vibetuner.tasks.worker import TaskWorker
from vibetuner.testing import held_open


@pytest.fixture
def worker(stand_in, settings: Settings) -> TaskWorker:
    """Return a worker with tasks that succeed, fail, wait and are unique."""
    stand_in()
    worker = TaskWorker(settings)

    @worker.task(name="double")
    async def double(number: int, token: str = "", day: date | None = None) -> dict[str, Any]:
        return {"twice": 2 * number, "password": "hunter2"}

    @worker.task(name="fails")
    async def fails() -> None:
        raise ValueError("the till is empty")

    @worker.task(name="waits")
    async def waits() -> None:
        await asyncio.sleep(3600)

    @worker.task(name="alone", unique=True, timeout=60)
    async def alone() -> None:
        await asyncio.sleep(3600)

    return worker


@pytest.fixture
async def queue(worker: TaskWorker, settings: Settings) -> AsyncIterator[Queue]:
    """Yield the open queue, without a worker that runs."""
    async with held_open(worker):
        yield Queue(worker, JournalKeys(settings.redis_key_prefix))


@pytest.fixture
def queue_of(worker: TaskWorker, settings: Settings) -> Queue:
    """Return the queue for a test that runs the worker itself."""
    return Queue(worker, JournalKeys(settings.redis_key_prefix))
