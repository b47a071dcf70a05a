"""Results that are larger than a server sends to a client that listens."""

from __future__ import annotations

import pytest

from tests.runtime.conftest import Running
from tests.waiting import eventually
from vibetuner.tasks.worker import TaskWorker


@pytest.mark.parametrize("when", ["while it runs", "afterwards"])
async def test_a_result_of_40_mb_is_received(worker: TaskWorker, running: Running, when: str):
    """A result of more bytes than the server sends to a subscriber, 32 MB, is received."""

    @worker.task(name="report")
    async def report() -> bytes:
        return bytes(40_000_000)

    async with running(worker):
        task = await report.enqueue()
        if when == "afterwards":
            await eventually(lambda: worker.redis.exists([worker.results_key + task.id]))
        assert len((await task.result(timeout=60)).result) == 40_000_000
