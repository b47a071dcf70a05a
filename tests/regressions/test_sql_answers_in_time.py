"""A request that waits for SQL is a 503 within five seconds, whatever it waits for."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.middleware import Middleware
from sqlalchemy import text

from tests.postgres import running_postgres
from tests.processes import children_of
from vibetuner.config import Settings, using_settings
from vibetuner.frontend.guards import Guards
from vibetuner.frontend.health import outage_handlers, router
from vibetuner.frontend.lifespan import base_lifespan
from vibetuner.resources.sql import open_session, open_sql

pytestmark = pytest.mark.slow

LIMIT_SECONDS = 5.0


@asynccontextmanager
async def site(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an app whose one page writes and reads."""
    app = FastAPI(
        middleware=[Middleware(Guards)], exception_handlers=dict(outage_handlers(settings))
    )
    app.include_router(router)

    @app.get("/page")
    async def page() -> str:
        async with open_session() as session:
            await session.execute(text("CREATE TABLE IF NOT EXISTS visits (n INTEGER)"))
            await session.execute(text("INSERT INTO visits VALUES (1)"))
            await session.commit()
        return "done"

    with using_settings(settings):
        async with base_lifespan():
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as client:
                assert (await client.get("/page", timeout=60)).status_code == 200
                yield client


async def assert_busy(client: httpx2.AsyncClient, path: str = "/page") -> None:
    """The page answers in time that it can't be had now."""
    began = time.monotonic()
    answer = await client.get(path, timeout=60)
    assert time.monotonic() - began < LIMIT_SECONDS
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True), answer.text


async def test_a_locked_sqlite_file_is_a_503(stand_in: Callable[..., Path], tmp_path: Path):
    """A worker waits five seconds for the lock; a request one less, and says when to try again."""
    stand_in()
    file = tmp_path / "app.db"
    async with site(Settings(database_url=f"sqlite+aiosqlite:///{file}")) as client:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            await assert_busy(client)


async def test_an_exhausted_pool_is_a_503(stand_in: Callable[..., Path], tmp_path: Path):
    """However long DATABASE_POOL_TIMEOUT is."""
    stand_in()
    url = f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"
    async with site(Settings(database_url=url, database_pool_size=1)) as client:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                session = await stack.enter_async_context(open_session())
                await session.execute(text("SELECT 1"))
            await assert_busy(client)


@pytest.fixture
def postgres() -> Iterator[tuple[str, Callable[[], object]]]:
    """The URL of a server of this test's own, and what freezes it for the length of a block."""
    before = children_of(os.getpid())
    with running_postgres() as url:

        @contextmanager
        def frozen() -> Iterator[None]:
            processes = children_of(os.getpid()) - before
            for process in processes:
                os.kill(process, signal.SIGSTOP)
            try:
                yield
            finally:
                for process in processes:
                    os.kill(process, signal.SIGCONT)

        yield url, frozen


async def test_a_frozen_postgresql_is_a_503(
    stand_in: Callable[..., Path], postgres: tuple[str, Callable[[], object]]
):
    """On a connection that was open before, on a new one, and for those who ask for readiness."""
    stand_in()
    url, frozen = postgres
    async with site(Settings(database_url=url)) as client:
        with frozen():  # type: ignore[attr-defined]
            await assert_busy(client)
            await assert_busy(client)
            await assert_busy(client, "/health/ready")
        assert (await client.get("/page", timeout=60)).status_code == 200


async def test_a_worker_waits_for_sql_as_long_as_its_task_may(
    postgres: tuple[str, Callable[[], object]],
):
    """Outside a web process nothing is cut."""
    url, frozen = postgres
    async with open_sql(Settings(database_url=url, database_answer_timeout=0.2)) as engine:
        async with engine.connect() as connection:
            with frozen():  # type: ignore[attr-defined]
                asking = asyncio.ensure_future(connection.execute(text("SELECT 1")))
                done, _ = await asyncio.wait({asking}, timeout=1)
                assert not done
            assert (await asking).scalar() == 1
