"""The progress of a task that waits in the outbox."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from tests.runtime.tasks.outbox.conftest import Database
from vibetuner.tasks.progress import ProgressState, watch_progress
from vibetuner.tasks.worker import TaskWorker, using_worker


async def test_a_committed_task_is_known_before_it_is_handed_on(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A page that follows the commit at once hears of the task; and later, of those it awaits."""
    async with database.session() as session:
        parts = [await receipt.enqueue(number).within(session) for number in ("T1", "T2")]
        end = receipt.enqueue("end").start(after=[part.id for part in parts], regardless=True)
        await end.within(session)
    with using_worker(worker):
        async with worker, aclosing(watch_progress(end.id)) as states:
            assert await anext(states) == ProgressState(task_id=end.id)
            following = asyncio.create_task(anext(states))
            await worker.courier.hand_on_all()
            async with asyncio.timeout(10):
                assert await following == ProgressState(task_id=end.id, total=2)


async def test_a_task_that_is_rolled_back_stays_unknown(
    database: Database, worker: TaskWorker, receipt: Any
):
    with pytest.raises(ZeroDivisionError):
        async with database.session() as session:
            task = await receipt.enqueue("T1").within(session)
            raise ZeroDivisionError
    with using_worker(worker):
        async with worker:
            with pytest.raises(LookupError):
                await anext(watch_progress(task.id))
