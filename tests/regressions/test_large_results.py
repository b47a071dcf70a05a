"""Results that are larger than a server sends to a client that listens."""

from __future__ import annotations

import asyncio

import pytest

from tests.runtime.conftest import Running
from vibetuner.tasks.worker import TaskWorker


@pytest.mark.parametrize("when", ["while it runs", "afterwards"])
async def test_a_result_of_40_mb_is_received(worker: TaskWorker, running: Running, when: str):
    """Valkey's client-output-buffer-limit is 32 MB for those that listen, whatever they ask for."""

    @worker.task(name="report")
    async def report() -> bytes:
        return bytes(40_000_000)

    async with running(worker):
        task = await report.enqueue()
        if when == "afterwards":
            while not await worker.redis.exists([worker.results_key + task.id]):
                await asyncio.sleep(0.05)
        assert len((await task.result(timeout=60)).result) == 40_000_000
