"""The SQL database of one test: SQLite, or PostgreSQL where TEST_DATABASE_URL names a server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import text

from vibetuner.config import Settings
from vibetuner.resources.sql import open_sql
from vibetuner.testing.databases import throwaway_sql
from vibetuner.testing.fixtures import overriding


async def databases(url: str) -> set[str]:
    """Return the names of a server's databases."""
    async with open_sql(Settings(database_url=url)) as engine, engine.connect() as connection:
        return set(await connection.scalars(text("SELECT datname FROM pg_database")))


async def test_it_is_sqlite_by_default(
    stand_in: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Without TEST_DATABASE_URL, a test's SQL database is SQLite."""
    stand_in()
    monkeypatch.delenv("TEST_DATABASE_URL", raising=False)
    with overriding() as settings:
        async with throwaway_sql(settings, tmp_path / "one.db") as engine:
            assert engine.dialect.name == "sqlite"


async def test_each_test_has_a_database_of_its_own_on_the_server(
    stand_in: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    postgres: str,
    tmp_path: Path,
):
    """With TEST_DATABASE_URL, each test gets a database there, which is dropped afterwards."""
    stand_in()
    monkeypatch.setenv("TEST_DATABASE_URL", postgres)
    before = await databases(postgres)
    async with AsyncExitStack() as left_open:
        with overriding() as settings:
            async with throwaway_sql(settings, tmp_path / "one.db") as engine:
                assert engine.dialect.name == "postgresql"
                assert await databases(postgres) == {*before, str(engine.url.database)}
                assert settings.database_url.endswith(f"/{engine.url.database}")
                same = Settings(database_url=settings.database_url)
                other = await left_open.enter_async_context(open_sql(same))
                connection = await other.connect()
        assert await databases(postgres) == before
        await connection.invalidate()
    assert not (tmp_path / "one.db").exists()
