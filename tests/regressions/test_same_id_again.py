"""An id that is used again is refused while the earlier task or its result is kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.runtime.conftest import Running
from vibetuner.errors import TaskExists
from vibetuner.tasks.robust import Unique, robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker


@pytest.mark.parametrize("unique", [False, Unique(by="all")])
async def test_an_id_that_is_taken_is_refused_and_nothing_is_stored(
    worker: TaskWorker, running: Running, unique: Any
):
    """An id raises TaskExists while its task waits or its result is kept, and is free afterwards.

    The other calls of an enqueue_many() are still enqueued.
    """
    ran: list[int] = []
    with using_worker(worker):

        @robust_task(name="charge", unique=unique)
        async def charge(number: int) -> int:
            ran.append(number)
            return number

    def call(number: int) -> Any:
        enqueued = charge.enqueue(number)
        enqueued.id = "order-7"
        return enqueued

    async with worker:
        first = await call(1)
        with pytest.raises(TaskExists, match=r"^charge order-7 waits or runs already, so nothing"):
            await call(2)
        async with running(worker):
            assert (await first.result(timeout=30)).result == 1
            with pytest.raises(TaskExists, match="order-7 has ended, and its result is kept"):
                await call(3)
            other = charge.enqueue(4)
            with pytest.raises(TaskExists, match="order-7"):
                await worker.enqueue_many([call(3), other])
            assert (await other.result(timeout=30)).result == 4  # all others were enqueued
            await worker.redis.delete([worker.results_key + "order-7"])
            again = await call(5)
            assert (await again.result(timeout=30)).result == 5
    assert ran == [1, 4, 5]
