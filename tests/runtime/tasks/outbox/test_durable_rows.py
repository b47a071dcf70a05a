"""Durable calls in the outbox, which keeps them until the server can't lose the task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from streaq import TaskStatus

from tests.runtime.tasks.outbox.conftest import Database
from tests.runtime.tasks.outbox.test_within import emptied
from tests.runtime.tasks.test_durable import serving, waits
from tests.valkey import Valkey
from tests.waiting import eventually
from vibetuner.config import get_settings, using_settings
from vibetuner.tasks.courier import ROWS_AT_ONCE
from vibetuner.tasks.worker import TaskWorker, using_worker


@pytest.mark.parametrize("database", ["sqlite", "mongodb"], indirect=True)
async def test_a_row_stays_until_its_task_is_durable(database: Database, tmp_path: Path):
    """A durable call's row stays until a frozen replica has the task; others are handed on."""
    async with replicated(tmp_path) as (primary, replica, worker, receipt):
        with replica.frozen():
            async with database.session() as session:
                await receipt.enqueue("T1").within(session).start(durable=True)
            await eventually(lambda: waits(primary))
            async with database.session() as session:
                await receipt.enqueue("T2").within(session)
            await eventually(lambda: has_rows(database, 1))
            assert await worker.queue_size() == 2
            assert await waits(primary)
        await emptied(database.store)
        assert await worker.queue_size() == 2


@pytest.mark.parametrize("database", ["sqlite", "postgres", "mongodb"], indirect=True)
async def test_durable_rows_hold_up_no_others_that_a_crash_has_left(
    database: Database, tmp_path: Path
):
    """A worker hands on a plain row while hundreds of older, durable ones wait for a replica."""
    async with replicated(tmp_path, is_open=False) as (_, replica, worker, receipt):
        async with database.session() as session:
            for number in range(ROWS_AT_ONCE):
                await receipt.enqueue(f"D{number}").within(session).start(durable=True)
        async with database.session() as session:
            last = await receipt.enqueue("last").within(session)
        with replica.frozen():
            async with worker, worker.courier.relaying():
                assert (await last.status()) is not TaskStatus.QUEUED
                await eventually(lambda: has_rows(database, ROWS_AT_ONCE))
                assert await last.status() is TaskStatus.QUEUED


async def has_rows(database: Database, number: int) -> bool:
    """Return whether the outbox has so many rows."""
    return (await database.store.waiting())[0] == number


@asynccontextmanager
async def replicated(
    folder: Path, *, is_open: bool = True
) -> AsyncIterator[tuple[Valkey, Valkey, TaskWorker, Any]]:
    """Run a primary with a replica; yield both, a worker, and a task of it."""
    (folder / "servers").mkdir()
    with serving(folder / "servers", replicas=1) as (primary, replica):
        settings = get_settings().model_copy(update={"redis_url": primary.url})
        with using_settings(settings), using_worker(TaskWorker(settings)) as worker:

            @worker.task(name="receipt")
            async def receipt(number: str) -> str:
                return number

            async with worker if is_open else nullcontext():
                yield primary, replica, worker, receipt
