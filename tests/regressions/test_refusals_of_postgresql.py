"""PostgreSQL that answers and can't serve now: a 503 with the cure in the log, not a 500.

A deadlock, a lock or a statement that takes too long, a server without room, or one that has become
a standby: the next try may succeed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlmodel.ext.asyncio.session import AsyncSession

from vibetuner.config import Settings, using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.frontend.app import create_app
from vibetuner.resources.sql import open_session, open_sql

TUNE = """
    from fastapi import APIRouter
    from sqlalchemy import text
    from vibetuner import VibetunerApp
    from vibetuner.resources.sql import open_session

    router = APIRouter()


    @router.get("/raise/{state}")
    async def refuse(state: str) -> None:
        async with open_session() as session:
            await session.exec(text(
                f"DO $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END $$"
            ))


    app = VibetunerApp(routes=[router])
"""


async def pid_of(session: AsyncSession) -> int:
    """Return the id of the session's process in the server."""
    return int((await session.exec(text("SELECT pg_backend_pid()"))).one()[0])


async def test_what_may_succeed_soon_is_a_503(
    stand_in: Callable[..., Any], postgres: str, caplog: pytest.LogCaptureFixture
):
    """A refusal that passes is a 503 and a line in the log; a mistake in the SQL is still a 500."""
    stand_in(tune=TUNE)
    settings = Settings(environment="test", redis_url=None, mongodb_url=None, database_url=postgres)
    passing = ["40001", "40P01", "55P03", "57014", "53100", "53200", "58030", "25006"]
    mistakes = ["42601", "42P01", "23505", "22012"]
    with using_settings(settings):
        transport = ASGITransport(create_app(), raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://testserver") as client:
            async with open_sql(settings):
                answers = [await client.get(f"/raise/{state}") for state in passing + mistakes]

    assert [answer.status_code for answer in answers] == [503] * len(passing) + [500] * 4
    lines = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert [line.split(": ")[0] for line in lines] == [f"GET /raise/{state}" for state in passing]


async def test_a_deadlock_is_an_error_that_a_caller_can_tell(postgres: str):
    """One of two deadlocked sessions gets an OperationalError with the SQLSTATE."""
    async with open_sql(Settings(database_url=postgres)):
        async with open_session() as one, open_session() as other:
            await one.exec(text("SELECT pg_advisory_xact_lock(1)"))
            await other.exec(text("SELECT pg_advisory_xact_lock(2)"))
            ends = await asyncio.gather(
                one.exec(text("SELECT pg_advisory_xact_lock(2)")),
                other.exec(text("SELECT pg_advisory_xact_lock(1)")),
                return_exceptions=True,
            )
        [error] = [end for end in ends if isinstance(end, BaseException)]
        assert isinstance(error, OperationalError)
        assert getattr(error.orig, "sqlstate", None) == "40P01"


async def test_a_standby_is_left_for_the_primary(postgres: str):
    """After a write that a standby refuses, the next session has a new connection.

    The address may lead to another server by now, and the old connection would stay in the pool.
    """
    async with open_sql(Settings(database_url=postgres)):
        async with open_session() as session:
            former = await pid_of(session)
            await session.exec(text("SET TRANSACTION READ ONLY"))
            with pytest.raises(ServiceUnavailable, match="Point DATABASE_URL at the primary$"):
                await session.exec(text("CREATE TABLE refused (id INTEGER)"))
        async with open_session() as session:
            assert await pid_of(session) != former


async def test_a_lost_session_has_a_cure_that_helps(postgres: str):
    """A session that the server has ended names the server's log, not the URL, which is right."""
    async with open_sql(Settings(database_url=postgres)):
        with pytest.raises(ServiceUnavailable) as raised:
            async with open_session() as session, open_session() as other:
                await other.exec(text(f"SELECT pg_terminate_backend({await pid_of(session)})"))
                await session.commit()
        assert str(raised.value).endswith("Its log has the reason; the next session connects again")


async def test_a_changed_column_is_repeatable(postgres: str):
    """A statement prepared before a migration fails once with an OperationalError."""
    query = text("SELECT id FROM migrated")
    async with open_sql(Settings(database_url=postgres)):
        async with open_session() as session:
            await session.exec(text("CREATE TABLE migrated (id INTEGER)"))
            await session.exec(query)
            await session.exec(text("ALTER TABLE migrated ALTER id TYPE BIGINT"))
            with pytest.raises(OperationalError):
                await session.exec(query)
        async with open_session() as session:
            with pytest.raises(DBAPIError, match="does not exist"):  # rolled back
                await session.exec(query)
