"""Durable calls in the outbox, which keeps them until the server can't lose the task."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.tasks.outbox.conftest import Database
from tests.runtime.tasks.outbox.test_within import emptied
from tests.runtime.tasks.test_durable import serving, waits
from tests.waiting import eventually
from vibetuner.config import get_settings, using_settings
from vibetuner.tasks.worker import TaskWorker, using_worker


@pytest.mark.parametrize("database", ["sqlite", "mongodb"], indirect=True)
async def test_a_row_stays_until_its_task_is_durable(database: Database, tmp_path: Path):
    """The row of a durable call stays until a frozen replica has confirmed the task."""
    (tmp_path / "servers").mkdir()
    with serving(tmp_path / "servers", replicas=1) as (primary, replica):
        settings = get_settings().model_copy(update={"redis_url": primary.url})
        with using_settings(settings), using_worker(TaskWorker(settings)) as worker:

            @worker.task(name="receipt")
            async def receipt(number: str) -> str:
                return number

            async with worker:
                with replica.frozen():
                    async with database.session() as session:
                        await receipt.enqueue("T1").within(session).start(durable=True)
                    await eventually(lambda: waits(primary))
                    assert await worker.queue_size() == 1
                    assert (await database.store.waiting())[0] == 1
                await emptied(database.store)
                async with database.session() as session:
                    await receipt.enqueue("T2").within(session)
                await emptied(database.store)
                assert await worker.queue_size() == 2
