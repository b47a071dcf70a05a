"""The engine's pool, and work that a cancellation must not interrupt."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from vibetuner.config import Settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.resources.sql import open_session, open_sql
from vibetuner.resources.sql_engine import make_engine
from vibetuner.resources.steps import finish


def test_the_pool_has_a_connection_for_every_slot_of_the_worker(tmp_path: Path):
    """The pool has a connection for each of the worker's slots, or DATABASE_POOL_SIZE.

    Under load, as many more are opened.
    """
    url = f"sqlite:///{tmp_path}/pool.db"
    slots = make_engine(Settings(database_url=url, worker_concurrency=40)).pool
    own = make_engine(Settings(database_url=url, worker_concurrency=40, database_pool_size=3)).pool
    assert (slots.size(), own.size()) == (40, 3)


async def test_every_task_may_open_a_second_session_in_its_first(tmp_path: Path):
    """Each task in a slot may open a second session inside its first.

    With fewer connections, tasks that all wait for their second would deadlock.
    """
    slots = 8
    settings = Settings(database_url=f"sqlite:///{tmp_path}/pool.db", worker_concurrency=slots)
    gate = asyncio.Barrier(slots)

    async def task() -> None:
        async with open_session() as outer, open_session() as inner:
            await outer.exec(text("SELECT 1"))
            await gate.wait()
            await inner.exec(text("SELECT 1"))
            await gate.wait()

    async with open_sql(settings) as engine, asyncio.timeout(60):
        async with asyncio.TaskGroup() as group:
            for _ in range(slots):
                group.create_task(task())
        assert engine.pool.checkedout() == 0


async def test_an_exhausted_pool_is_an_error_with_the_cure(tmp_path: Path):
    """An exhausted pool is an error with its figures and the cure, and later works again."""
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


async def test_writers_of_sqlite_take_turns(tmp_path: Path):
    """Writers of SQLite take turns, in the order in which they came.

    SQLite itself would let them sleep and try again, for seconds under load.
    """
    settings = Settings(database_url=f"sqlite:///{tmp_path}/turns.db", worker_concurrency=32)
    came: list[int] = []
    wrote: list[int] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("INSERT"):
            came.append(parameters[0])

    async def write(number: int) -> None:
        async with open_session() as session:
            await session.exec(text("INSERT INTO turns VALUES (:n)"), params={"n": number})
            wrote.append(number)
            await asyncio.sleep(0.01)
            if number % 3:
                await session.commit()

    async with open_sql(settings) as engine:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE turns (number INTEGER)"))
        event.listen(engine.sync_engine, "before_cursor_execute", note, insert=True)
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(write(number))
        async with open_session() as session:
            kept = {row[0] for row in await session.exec(text("SELECT number FROM turns"))}
    assert len(came) == 20
    assert wrote == came
    assert kept == {number for number in range(20) if number % 3}


async def test_a_writer_that_is_cancelled_gives_up_its_turn(tmp_path: Path):
    """A writer that is cancelled leaves the queue, or ends its turn."""
    settings = Settings(database_url=f"sqlite:///{tmp_path}/turns.db")
    has_turn = asyncio.Event()

    async def write(*, forever: bool) -> None:
        async with open_session() as session:
            await session.exec(text("INSERT INTO turns VALUES (1)"))
            if forever:
                has_turn.set()
                await asyncio.Event().wait()
            await session.commit()

    async with open_sql(settings) as engine, asyncio.timeout(60):
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE turns (number INTEGER)"))
        first = asyncio.create_task(write(forever=True))
        await has_turn.wait()
        second, third = [asyncio.create_task(write(forever=False)) for _ in range(2)]
        await asyncio.sleep(0)
        second.cancel()
        first.cancel()
        await third
        assert (await asyncio.gather(first, second, return_exceptions=True)).count(None) == 0


async def test_a_task_that_writes_in_two_sessions_gets_the_error_of_sqlite(tmp_path: Path):
    """A task that writes in two sessions gets SQLite's error at once.

    The second session would wait for the first, and does not wait for a turn as well.
    """
    settings = Settings(database_url=f"sqlite:///{tmp_path}/turns.db")
    async with open_sql(settings) as engine:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE turns (number INTEGER)"))
        async with open_session() as outer, open_session() as inner:
            await outer.exec(text("INSERT INTO turns VALUES (1)"))
            await inner.exec(text("PRAGMA busy_timeout=10"))
            async with asyncio.timeout(60):
                with pytest.raises(OperationalError, match="database is locked"):
                    await inner.exec(text("INSERT INTO turns VALUES (2)"))


async def test_work_is_finished_although_its_caller_is_cancelled():
    """`finish` completes its work although its caller is cancelled, and then cancels the caller."""
    ended = []
    go = asyncio.Event()

    async def work() -> str:
        await go.wait()
        ended.append("work")
        return "done"

    async def caller() -> None:
        ended.append(await finish(work()))
        await asyncio.sleep(10)

    task = asyncio.create_task(caller())
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel("why")
    go.set()
    with pytest.raises(asyncio.CancelledError, match="why"):
        await task
    assert ended == ["work", "done"]


async def test_an_error_of_the_work_reaches_its_caller():
    """`finish` raises the error of its work."""

    async def work() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        await finish(work())
