"""The engine's pool, and what a cancellation may not interrupt."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import text

from vibetuner.config import Settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.resources.sql import open_session, open_sql
from vibetuner.resources.sql_engine import finish, make_engine


def test_the_pool_has_a_connection_for_every_slot_of_the_worker(tmp_path: Path):
    """As many again are opened under load; DATABASE_POOL_SIZE wins."""
    url = f"sqlite:///{tmp_path}/pool.db"
    slots = make_engine(Settings(database_url=url, worker_concurrency=40)).pool
    own = make_engine(Settings(database_url=url, worker_concurrency=40, database_pool_size=3)).pool
    assert (slots.size(), own.size()) == (40, 3)


async def test_every_task_may_open_a_second_session_in_its_first(tmp_path: Path):
    """With fewer connections, tasks that all wait for their second would stand still."""
    slots = 8
    settings = Settings(database_url=f"sqlite:///{tmp_path}/pool.db", worker_concurrency=slots)
    gate = asyncio.Barrier(slots)

    async def task() -> None:
        async with open_session() as outer, open_session() as inner:
            await outer.exec(text("SELECT 1"))
            await gate.wait()
            await inner.exec(text("SELECT 1"))
            await gate.wait()

    async with open_sql(settings) as engine, asyncio.timeout(20):
        async with asyncio.TaskGroup() as group:
            for _ in range(slots):
                group.create_task(task())
        assert engine.pool.checkedout() == 0


async def test_an_exhausted_pool_says_so_with_the_cure(tmp_path: Path):
    """Soon, with the figures of the settings, and it works again when a session is closed."""
    settings = Settings(
        database_url=f"sqlite:///{tmp_path}/pool.db",
        database_pool_size=2,
        database_pool_timeout=0.05,
    )
    async with open_sql(settings):
        async with AsyncExitStack() as stack:
            for _ in range(4):
                session = await stack.enter_async_context(open_session())
                await session.exec(text("SELECT 1"))
            with pytest.raises(ServiceUnavailable, match="all 4 connections") as caught:
                async with open_session() as session:
                    await session.exec(text("SELECT 1"))
        assert str(caught.value) == (
            "SQL database: all 4 connections of this process stayed in use for 0.05 s. Close "
            "sessions before long work, or set DATABASE_POOL_SIZE (now 2, and as many again "
            "under load)"
        )
        async with open_session() as session:
            assert (await session.exec(text("SELECT 1"))).scalar() == 1


async def test_work_is_finished_although_its_caller_is_cancelled():
    """The caller hears of it afterwards, once for each time."""
    ended = []

    async def work() -> str:
        await asyncio.sleep(0.05)
        ended.append("work")
        return "done"

    async def caller() -> None:
        ended.append(await finish(work()))
        await asyncio.sleep(10)

    task = asyncio.create_task(caller())
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel("why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await task
    assert ended == ["work", "done"]


async def test_an_error_of_the_work_reaches_its_caller():
    """As if it had been awaited."""

    async def work() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        await finish(work())
