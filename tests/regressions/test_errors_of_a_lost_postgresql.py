"""A refused or lost connection to PostgreSQL raises ServiceUnavailable, which is a 503 on pages.

Errors of asyncpg, such as an OSError, don't reach the caller.
"""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from tests.processes import free_port
from vibetuner.config import Settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.resources.sql import open_session, open_sql
from vibetuner.resources.sql_engine import make_engine


async def assert_refused(url: str, reason: str, cure: str) -> None:
    """Assert that connecting raises ServiceUnavailable with the reason and the cure."""
    engine = make_engine(Settings(database_url=url))
    try:
        with pytest.raises(ServiceUnavailable, match=reason) as raised:
            async with engine.connect():
                pass
    finally:
        await engine.dispose()
    assert str(raised.value).endswith(f". {cure}")


async def test_a_server_that_does_not_run():
    """A connection to a port where no server listens raises ServiceUnavailable."""
    await assert_refused(
        f"postgresql+asyncpg://app:x@127.0.0.1:{free_port()}/app",
        "Connect call failed",
        "Start it, or correct DATABASE_URL",
    )


async def test_a_database_and_a_user_that_do_not_exist(postgres: str):
    """A connection to an unknown database, or as an unknown user, raises ServiceUnavailable."""
    url = make_url(postgres)
    for wrong, reason, cure in (
        (
            url.set(database="nowhere"),
            'database "nowhere" does not exist',
            "Create it, or correct DATABASE_URL",
        ),
        (
            url.set(username="nobody"),
            'role "nobody" does not exist',
            "Correct the user and the password in DATABASE_URL",
        ),
    ):
        await assert_refused(wrong.render_as_string(hide_password=False), reason, cure)


async def test_a_connection_that_is_lost_in_a_statement(postgres: str):
    """A connection that is lost during a statement raises ServiceUnavailable.

    Wrong SQL and a timeout keep their own errors.
    """
    async with open_sql(Settings(database_url=postgres)):
        async with open_session() as session:
            with pytest.raises(DBAPIError, match="syntax error"):
                await session.exec(text("SELEC 1"))
        with pytest.raises(ServiceUnavailable, match="connection was closed in the middle"):
            async with open_session() as session, open_session() as other:
                pid = (await session.exec(text("SELECT pg_backend_pid()"))).one()[0]
                asking = asyncio.ensure_future(session.exec(text("SELECT pg_sleep(60)")))
                active = text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    f"WHERE pid = {pid} AND query LIKE '%pg_sleep%' AND state = 'active'"
                )
                while not (await other.exec(active)).all():
                    await other.rollback()
                await asking
        async with open_session() as session:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await session.exec(text("SELECT pg_sleep(60)"))
