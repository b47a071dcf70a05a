"""Messages of replaced, ended and expired tasks: each task has exactly one recorded end."""

from __future__ import annotations

import pytest
from streaq.types import StreaqCancelled

from tests.runtime.conftest import Running
from vibetuner.tasks.robust import Unique, robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker


@pytest.mark.parametrize("delay", [0, 0.05])
async def test_a_call_after_an_abort_is_not_aborted(
    worker: TaskWorker, running: Running, delay: float
):
    """It follows the task that is to be aborted, and doesn't replace it."""
    with using_worker(worker):

        @robust_task(name="charge", unique=Unique(clash="replace"))
        async def charge(note: str) -> str:
            return note

    async with worker:
        old = await charge.enqueue("old")
        assert await worker.abort_by_id(old.id, timeout=0) is False  # marked
        new = await charge.enqueue("new").start(delay=delay)
        assert new.id != old.id
    async with running(worker):
        assert isinstance((await old.result(timeout=10)).exception, StreaqCancelled)
        assert (await new.result(timeout=10)).result == "new"
