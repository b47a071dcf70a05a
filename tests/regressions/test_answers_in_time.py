"""A request that waits for an outside system is answered with 503 within five seconds."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    closing,
)
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.listeners import open_listener
from tests.mongo import running_mongo
from tests.postgres import running_postgres
from tests.processes import frozen
from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.frontend.app import create_app
from vibetuner.resources.sql import CLOSE_SECONDS, open_session, open_sql
from vibetuner.state import REQUEST_SECONDS, for_requests

SOON = 0.5
ROUTES = """
    from fastapi import APIRouter
    from sqlalchemy import text

    from vibetuner.resources.slots import mongo_database
    from vibetuner.resources.sql import open_session
    from vibetuner.services.email import send_email

    router = APIRouter()


    @router.get("/sql")
    async def sql() -> None:
        async with open_session() as session:
            await session.exec(text("CREATE TABLE IF NOT EXISTS visits (n INTEGER)"))
            await session.exec(text("INSERT INTO visits VALUES (1)"))
            await session.commit()


    @router.get("/mongo")
    async def mongo() -> None:
        await mongo_database.get()["visits"].insert_one({})


    @router.get("/mail")
    async def mail() -> None:
        await send_email(to_email="ann@example.com", subject="Hello", html_content="<p>Hello</p>")
"""
TUNE = """
    from shop.routes import router
    from vibetuner import VibetunerApp

    app = VibetunerApp(routes=[router])
"""
Site = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
def site(stand_in: Callable[..., Path]) -> Site:
    """Return a function that opens a client of the project's web app with the given settings."""
    stand_in({"routes.py": ROUTES}, tune=TUNE)

    @asynccontextmanager
    async def open_site(**settings: object) -> AsyncIterator[httpx2.AsyncClient]:
        with using_settings(Settings(**settings)):
            app = create_app()
            async with app.router.lifespan_context(app):
                transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
                async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as one:
                    yield one

    return open_site


async def assert_busy(client: httpx2.AsyncClient, path: str, seconds: float, text: str) -> None:
    """Assert that the page answers in time with 503, Retry-After and the given text."""
    began = time.monotonic()
    answer = await client.get(path, timeout=60)
    assert time.monotonic() - began < seconds + 1
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True), answer.text
    assert text in answer.text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of an SQLite file."""
    return tmp_path / "app.db"


@pytest.fixture
def url(file: Path) -> str:
    """Return the URL of the SQLite file."""
    return f"sqlite+aiosqlite:///{file}"


async def test_a_file_of_sqlite_that_another_process_has_locked(site: Site, file: Path, url: str):
    """A request gets 503 in time while another process locks the SQLite file.

    In a worker, the wait for the lock would take five seconds.
    """
    async with site(database_url=url, database_answer_timeout=SOON) as client:
        assert (await client.get("/sql")).status_code == 200
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            await assert_busy(client, "/sql", SOON, "database is locked")
        assert (await client.get("/sql")).status_code == 200


async def test_a_file_of_sqlite_that_another_request_has_locked(site: Site, url: str):
    """A request that waits for another one's write gets 503 after one timeout, not after two."""
    async with site(database_url=url, database_answer_timeout=SOON) as client:
        assert (await client.get("/sql")).status_code == 200
        written = asyncio.Event()

        async def write() -> None:
            async with open_session() as session:
                await session.exec(text("INSERT INTO visits VALUES (2)"))
                written.set()
                await asyncio.Event().wait()

        writer = asyncio.create_task(write())
        await written.wait()
        await assert_busy(client, "/sql", SOON, "database is locked")
        writer.cancel()
        await asyncio.wait({writer})
        assert (await client.get("/sql")).status_code == 200


async def test_an_exhausted_pool(site: Site, url: str):
    """A request gets 503 in time while all connections of the pool are in use.

    DATABASE_ANSWER_TIMEOUT limits the wait, not the longer DATABASE_POOL_TIMEOUT.
    """
    async with site(database_url=url, database_pool_size=1, database_answer_timeout=SOON) as client:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                session = await stack.enter_async_context(open_session())
                await session.exec(text("SELECT 1"))
            await assert_busy(client, "/sql", SOON, "connections of this process stayed in use")


@pytest.fixture
def own_postgres() -> Iterator[tuple[str, int]]:
    """Yield the URL and the pid of a PostgreSQL server that only this test uses."""
    with running_postgres() as server:
        yield server


@pytest.mark.slow
async def test_a_postgresql_that_is_frozen(site: Site, own_postgres: tuple[str, int]):
    """Open connections, new ones and `/health/ready` answer 503 in time if PostgreSQL is frozen."""
    url, pid = own_postgres
    async with site(database_url=url, database_answer_timeout=SOON) as client:
        assert (await client.get("/sql")).status_code == 200
        with frozen(pid):
            for path in ("/sql", "/sql", "/health/ready"):
                await assert_busy(client, path, SOON, "no answer within 0.5 s")
        assert (await client.get("/sql", timeout=60)).status_code == 200


@pytest.mark.slow
async def test_a_statement_ends_soon_after_its_request_has_given_up(postgres: str):
    """PostgreSQL ends a statement whose request was answered, so that it keeps no lock."""
    slow = f"SELECT pg_sleep(300) /* {uuid4()} */"
    running = text("SELECT 1 FROM pg_stat_activity WHERE query = :slow AND state = 'active'")
    settings = Settings(database_url=postgres, database_answer_timeout=SOON)
    with for_requests():
        async with open_sql(settings) as engine:
            with pytest.raises(ServiceUnavailable, match=r"no answer within 0\.5 s"):
                async with engine.connect() as connection:
                    await connection.execute(text(slow))
            async with engine.connect() as connection:
                await eventually(lambda: has_no_row(connection, running, slow))


async def has_no_row(connection: AsyncConnection, query: TextClause, slow: str) -> bool:
    found = await connection.execute(query, {"slow": slow})
    await connection.rollback()  # the view is the same within a transaction
    return not found.all()


@pytest.mark.slow
async def test_outside_of_requests_sql_has_no_limit_of_its_own(own_postgres: tuple[str, int]):
    """A statement outside a request waits for a frozen server without a limit.

    Closing a connection has one, so that a worker can stop.
    """
    url, pid = own_postgres
    with ExitStack() as until_the_end:
        async with open_sql(Settings(database_url=url, database_answer_timeout=0.2)) as engine:
            async with engine.connect() as connection:
                with frozen(pid):
                    asking = asyncio.ensure_future(connection.execute(text("SELECT 1")))
                    done, _ = await asyncio.wait({asking}, timeout=1)
                    assert not done
                assert (await asking).scalar() == 1
            until_the_end.enter_context(frozen(pid))
            began = time.monotonic()
        assert time.monotonic() - began < CLOSE_SECONDS + 2


@pytest.mark.slow
async def test_a_silent_mongodb_and_a_silent_mail_server(site: Site, tmp_path: Path):
    """A request gives up on a frozen MongoDB or a silent mail server after five seconds."""

    def say_nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None: ...

    with running_mongo(tmp_path / "mongo") as (url, server):
        async with (
            open_listener(say_nothing) as port,
            site(mongodb_url=url, smtp_url=f"smtp://127.0.0.1:{port}") as client,
        ):
            assert (await client.get("/mongo", timeout=60)).status_code == 200
            with frozen(server.pid):
                await asyncio.gather(
                    assert_busy(client, "/mongo", REQUEST_SECONDS, ""),
                    assert_busy(client, "/mail", REQUEST_SECONDS, "no answer within 5 s"),
                )
            assert (await client.get("/mongo", timeout=60)).status_code == 200


@pytest.mark.parametrize(
    ("refusal", "status", "wait"),
    [
        ("450 4.2.0 Greylisted, try again in 5 minutes", 503, "300"),
        ("452 4.3.1 no space", 503, "5"),
        ("550 nobody", 500, None),
    ],
)
async def test_a_mail_server_that_refuses(
    site: Site, start_smtp: Any, refusal: str, status: int, wait: str | None
):
    """A temporary refusal is a 503 with the wait that the server named, a permanent one a 500."""
    async with start_smtp(refusals={"RCPT": refusal}) as server:
        async with site(smtp_url=f"smtp://127.0.0.1:{server.port}?starttls=off") as client:
            answer = await client.get("/mail")
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, wait), answer.text


def test_the_limits_of_a_request_are_five_seconds_at_most():
    """The default DATABASE_ANSWER_TIMEOUT is shorter than a request's limit of five seconds."""
    with for_requests():
        assert Settings().database_answer_timeout < REQUEST_SECONDS == 5
