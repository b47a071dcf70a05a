"""A task that is cut off inside any SQL statement leaves nothing behind.

Otherwise the default SQLite file stays locked for every process until garbage is collected.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import asyncpg
import pytest
from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from streaq.types import StreaqCancelled

from vibetuner.config import Settings, using_settings
from vibetuner.embedded import Lease
from vibetuner.resources.sql import create_schema, open_session, open_sql
from vibetuner.tasks.worker import TaskWorker

CUTS = 60
WORKER_CUTS = 30
BATCH = 40

Work = Callable[[AsyncEngine, int], Coroutine[Any, Any, None]]
Cut = Callable[[Coroutine[Any, Any, None], float], Awaitable[None]]
Watch = Callable[[], Awaitable[int]]
CutAll = Callable[[TaskWorker, AsyncEngine, list[float]], Awaitable[None]]


class CutRow(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    batch: int
    content: str = "x" * 50


async def flush(engine: AsyncEngine, batch: int) -> None:
    """Add rows and flush in a loop, as the reported task does."""
    async with open_session() as session:
        for _ in range(4):
            session.add_all(CutRow(batch=batch) for _ in range(BATCH // 4))
            await session.flush()
        await session.commit()


async def insert(engine: AsyncEngine, batch: int) -> None:
    """Insert row by row, in a session that is made from the engine."""
    async with AsyncSession(engine) as session:
        for _ in range(BATCH):
            await session.exec(
                text("INSERT INTO cutrow (batch, content) VALUES (:batch, 'x')"),
                params={"batch": batch},
            )
        await session.commit()


async def commit(engine: AsyncEngine, batch: int) -> None:
    """Insert a batch in one statement, so that most of the time is the commit."""
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO cutrow (batch, content) VALUES (:batch, 'x')"),
            [{"batch": batch}] * BATCH,
        )


async def rollback(engine: AsyncEngine, batch: int) -> None:
    """Insert a row and roll back, so that most of the time is the rollback."""
    async with open_session() as session:
        session.add(CutRow(batch=batch))
        await session.flush()
        await session.rollback()


async def read(engine: AsyncEngine, batch: int) -> None:
    """Read rows at once and as a stream, while a row waits to be committed."""
    async with AsyncSession(engine) as session:
        session.add(CutRow(batch=batch))
        await session.flush()
        (await session.exec(select(CutRow).limit(300))).all()
        rows = await session.stream(select(CutRow).limit(300).execution_options(yield_per=20))
        async for _ in rows:
            pass


async def compute(engine: AsyncEngine, batch: int) -> None:
    """Run a statement that takes minutes, after one that locks."""
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) SELECT max(x) FROM n"
    async with open_session() as session:
        session.add(CutRow(batch=batch))
        await session.flush()
        is_sqlite = engine.dialect.name == "sqlite"
        await session.exec(text(numbers if is_sqlite else "SELECT pg_sleep(300)"))


WORKS: tuple[Work, ...] = (flush, insert, commit, rollback, read, compute)


async def once(work: Coroutine[Any, Any, None], delay: float) -> None:
    """Cancel the work once and wait, as a worker does."""
    task = asyncio.create_task(work)
    await asyncio.sleep(delay)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def often(work: Coroutine[Any, Any, None], delay: float) -> None:
    """Cancel the work repeatedly until it has ended."""
    task = asyncio.create_task(work)
    await asyncio.sleep(delay)
    while not task.done():
        task.cancel()
        await asyncio.sleep(random.choice([0, 0.0005]))
    assert task.cancelled()


async def scope(work: Coroutine[Any, Any, None], delay: float) -> None:
    """Cancel the work by anyio's scope, which cancels at every further await."""
    with anyio.move_on_after(delay) as cut:
        await work
    assert cut.cancelled_caught


async def limit(work: Coroutine[Any, Any, None], delay: float) -> None:
    """Cancel the work by asyncio's timeout, which must recognise its own cancellation."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(delay):
            await work


async def go_on(work: Work, engine: AsyncEngine, batches: Iterator[int]) -> None:
    """Repeat ``work``, so that every cut falls into some of it."""
    while True:
        await work(engine, next(batches))


@pytest.fixture(params=["sqlite", "postgres"])
async def database(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Settings, Watch]]:
    """Yield settings for a database, and a function that counts the locks held in it."""
    if request.param == "sqlite":
        file = tmp_path / "cuts.db"
        yield Settings(database_url=f"sqlite:///{file}"), lambda: _locks_of_sqlite(file)
    else:
        url = request.getfixturevalue("postgres")
        async with _locks_of_postgres(url) as watch:
            yield Settings(database_url=url), watch


async def _locks_of_sqlite(file: Path) -> int:
    """Return 1 if another connection finds the file locked or in use, otherwise 0."""
    other = sqlite3.connect(file, timeout=0, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("ROLLBACK")
        # No reader may be left either, as it would keep the log from being written back.
        return int(other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
    except sqlite3.OperationalError:
        return 1
    finally:
        other.close()


@asynccontextmanager
async def _locks_of_postgres(url: str) -> AsyncIterator[Watch]:
    """Yield a function that counts the connections of others that are not idle."""
    other = await asyncpg.connect(url.replace("+asyncpg", ""))
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' "
        "AND pid <> pg_backend_pid() AND state <> 'idle'"
    )
    try:
        yield lambda: other.fetchval(query)
    finally:
        await other.execute("SET lock_timeout = 5000; DROP TABLE IF EXISTS cutrow")
        await other.close()


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Disable the garbage collector, which would release by chance what a cut leaves behind."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("cut", [once, often, scope, limit])
async def test_a_cut_leaves_no_lock_no_connection_and_no_half_transaction(
    database: tuple[Settings, Watch], cut: Cut, no_gc: None, caplog: pytest.LogCaptureFixture
):
    """A cut at any moment leaves no lock, no connection in use and no half batch."""
    settings, locks = database
    batches, chance = count(), random.Random(cut.__name__)
    await create_schema(settings, [CutRow])
    async with open_sql(settings) as engine:
        for number in range(CUTS):
            work = WORKS[number % len(WORKS)]
            began, delay = time.monotonic(), chance.uniform(0.001, 0.03)
            await cut(go_on(work, engine, batches), delay)

            assert await locks() == 0, work.__name__
            assert engine.pool.checkedout() == 0
            assert time.monotonic() - began < 30

        async with open_session() as session:
            counted = select(CutRow.batch, func.count()).group_by(col(CutRow.batch))
            assert {rows for _, rows in await session.exec(counted)} <= {BATCH}
        if engine.dialect.name == "sqlite":
            assert len(_sqlite_threads()) == engine.pool.checkedin() == 1
        threads = _sqlite_threads()
    for thread in threads:
        thread.join(60)
    assert not _sqlite_threads()
    assert not caplog.records


@asynccontextmanager
async def serving(worker: TaskWorker) -> AsyncIterator[None]:
    """Run a worker beside the block, and stop it at the end without a grace period."""
    async with anyio.create_task_group() as group:
        await group.start(lambda **options: worker.run_async(lifespan=nullcontext(), **options))
        yield
        worker.stop()


async def by_time_limit(worker: TaskWorker, engine: AsyncEngine, delays: list[float]) -> None:
    """Cut off each task by its own timeout."""
    batches = count()
    async with serving(worker):
        for number, delay in enumerate(delays):

            @worker.task(name=f"work-{number}", timeout=timedelta(seconds=delay))
            async def work(number: int) -> None:
                await go_on(WORKS[number % len(WORKS)], engine, batches)

            ended = await (await work.enqueue(number)).result(timeout=30)
            assert isinstance(ended.exception, TimeoutError)


async def by_abort(worker: TaskWorker, engine: AsyncEngine, delays: list[float]) -> None:
    """Abort each task some time after its start."""
    batches, begun = count(), asyncio.Event()

    @worker.task(name="work")
    async def work(number: int) -> None:
        begun.set()
        await go_on(WORKS[number % len(WORKS)], engine, batches)

    async with serving(worker):
        for number, delay in enumerate(delays):
            begun.clear()
            task = await work.enqueue(number)
            await begun.wait()
            await asyncio.sleep(delay)
            worker.abort_tasks({task.id})  # as it does when it finds the abort mark
            assert isinstance((await task.result(timeout=30)).exception, StreaqCancelled)


async def by_stop(worker: TaskWorker, engine: AsyncEngine, delays: list[float]) -> None:
    """Stop the worker during one task again and again; each start runs the task anew."""
    batches, begun, numbers = count(), asyncio.Event(), count()

    @worker.task(name="work")
    async def work() -> None:
        begun.set()
        await go_on(WORKS[next(numbers) % len(WORKS)], engine, batches)

    async with worker:
        await work.enqueue()
        for delay in delays:
            begun.clear()
            async with serving(worker):
                await begun.wait()
                await asyncio.sleep(delay)
    assert next(numbers) == len(delays)


@pytest.mark.slow
@pytest.mark.parametrize("cut_all", [by_time_limit, by_abort, by_stop])
async def test_a_worker_that_cuts_off_a_task_leaves_nothing_behind(
    database: tuple[Settings, Watch], servers: Lease, no_gc: None, cut_all: CutAll
):
    """A task that a timeout, an abort or a stop cuts off leaves no lock and no half batch."""
    settings, locks = database
    given = {
        "redis_url": servers.urls["redis"], "redis_key_prefix": f"cuts-{uuid4().hex[:8]}",
        "secret_key": "a key that the tests share, and nobody else", "worker_grace_period": 0,
    }  # fmt: skip
    settings = Settings(**settings.model_dump(include={"database_url"}) | given)
    chance = random.Random(cut_all.__name__)
    await create_schema(settings, [CutRow])
    with using_settings(settings):
        async with open_sql(settings) as engine:
            worker = TaskWorker(settings)
            worker.handle_signals = False
            delays = [chance.uniform(0.001, 0.03) for _ in range(WORKER_CUTS)]
            await cut_all(worker, engine, delays)

            assert await locks() == 0
            assert engine.pool.checkedout() == 0
            async with open_session() as session:
                counted = select(CutRow.batch, func.count()).group_by(col(CutRow.batch))
                assert {rows for _, rows in await session.exec(counted)} <= {BATCH}


@pytest.mark.slow
async def test_a_statement_is_ended_at_whichever_turn_of_the_loop_it_is_cut(
    database: tuple[Settings, Watch], no_gc: None
):
    """A cancelled statement ends soon, even if SQLite's thread has not started it yet."""
    settings, locks = database
    await create_schema(settings, [CutRow])
    async with open_sql(settings) as engine:
        for turns in range(60):
            began, task = time.monotonic(), asyncio.create_task(compute(engine, 0))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})

            assert task.cancelled()
            assert await locks() == 0, turns
            assert time.monotonic() - began < 30


@pytest.mark.slow
async def test_a_statement_ends_if_the_server_begins_it_after_the_cut(postgres: str):
    """PostgreSQL ignores a request to cancel that comes before the statement; it is sent again."""
    delay = text("SELECT pg_sleep(:seconds)")

    async def sleep() -> None:
        async with open_session() as session:
            await session.exec(delay, params={"seconds": 0.0})  # prepares it
            server = (await session.exec(text("SELECT pg_backend_pid()"))).one()[0]
            os.kill(server, signal.SIGSTOP)
            asyncio.get_running_loop().call_later(0.6, os.kill, server, signal.SIGCONT)
            await session.exec(delay, params={"seconds": 300.0})

    async with _locks_of_postgres(postgres) as locks, open_sql(Settings(database_url=postgres)):
        await once(sleep(), 0.3)
        assert await locks() == 0


def _sqlite_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "connection_worker" in thread.name]


async def test_a_cut_keeps_a_database_in_memory():
    """A cut keeps the only connection of an in-memory database open, and with it the tables."""
    async with open_sql(Settings(database_url="sqlite://")) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(SQLModel.metadata.create_all, tables=[CutRow.__table__])
        for cut in (once, often, scope, limit):
            await cut(go_on(flush, engine, count()), 0.01)
        async with open_session() as session:
            assert (await session.exec(select(func.count(col(CutRow.id))))).one() % BATCH == 0
