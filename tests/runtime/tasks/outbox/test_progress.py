"""The progress of a task that waits in the outbox."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from typing import Any

import pytest
from sqlalchemy import event

from tests.runtime.tasks.outbox.conftest import Database
from tests.waiting import eventually
from vibetuner.resources.slots import sql_engine
from vibetuner.tasks.progress import ProgressState, watch_progress
from vibetuner.tasks.progress.watch import POLL_SECONDS
from vibetuner.tasks.worker import TaskWorker, using_worker


async def test_a_committed_task_is_known_before_it_is_handed_on(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A watcher sees a committed task at once, and later the number of tasks that it waits for."""
    async with database.session() as session:
        parts = [await receipt.enqueue(number).within(session) for number in ("T1", "T2")]
        end = receipt.enqueue("end").start(after=[part.id for part in parts], regardless=True)
        await end.within(session)
    with using_worker(worker):
        async with worker, aclosing(watch_progress(end.id)) as states:
            assert await anext(states) == ProgressState(task_id=end.id)
            following = asyncio.create_task(anext(states))
            await worker.courier.hand_on_all()
            async with asyncio.timeout(60):
                assert await following == ProgressState(task_id=end.id, total=2)


async def test_a_task_that_is_rolled_back_stays_unknown(
    database: Database, worker: TaskWorker, receipt: Any
):
    """watch_progress() raises LookupError for a task whose transaction was rolled back."""
    with pytest.raises(ZeroDivisionError):
        async with database.session() as session:
            task = await receipt.enqueue("T1").within(session)
            raise ZeroDivisionError
    with using_worker(worker):
        async with worker:
            with pytest.raises(LookupError):
                await anext(watch_progress(task.id))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_look_at_a_task_in_the_outbox_reads_its_row_once(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A watcher that waits reads the task's row with one statement a second."""
    reads: list[float] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "task_outbox" in statement:
            reads.append(time.monotonic())

    async with database.session() as session:
        task = await receipt.enqueue("T1").within(session)
    with using_worker(worker):
        async with worker, aclosing(watch_progress(task.id)) as states:
            await anext(states)
            event.listen(sql_engine.get().sync_engine, "before_cursor_execute", note)
            following = asyncio.create_task(anext(states))
            await eventually(lambda: len(reads) > 1)
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
    assert reads[1] - reads[0] > POLL_SECONDS / 2, "two statements belong to one look"
