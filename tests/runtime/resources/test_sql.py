"""The SQL database."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from vibetuner.config import Settings
from vibetuner.errors import NotConfigured, ServiceUnavailable
from vibetuner.resources.slots import sql_engine
from vibetuner.resources.sql import check, create_schema, get_session, open_session, open_sql


class Shelf(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str


class Book(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    shelf_id: int = Field(foreign_key="shelf.id")


MODELS = [Shelf, Book]


@pytest.fixture
async def ready(settings: Settings) -> Settings:
    """Return settings whose database has the tables."""
    assert await create_schema(settings, MODELS) == ["shelf", "book"]
    return settings


async def names() -> list[str]:
    async with open_session() as session:
        return list(await session.exec(select(Shelf.name).order_by(Shelf.name)))


async def test_the_schema_is_made_where_it_is_missing(settings: Settings):
    """`create_schema` creates the missing tables and returns their names."""
    assert await create_schema(settings, [Shelf]) == ["shelf"]
    assert await create_schema(settings, MODELS) == ["book"]
    assert await create_schema(settings, MODELS) == []
    assert sql_engine.peek() is None


async def test_a_model_that_is_no_table_is_named(settings: Settings):
    """A model without ``table=True`` is refused with its declaration."""

    class Plain(SQLModel):
        name: str

    with pytest.raises(NotConfigured, match=r"lists Plain, which is not a table\. Declare it as"):
        await create_schema(settings, [Plain])


async def test_what_is_not_committed_is_rolled_back(ready: Settings):
    """A session rolls back what it has not committed, even if its block raises."""
    async with open_sql(ready):
        async with open_session() as session:
            session.add(Shelf(name="kept"))
            await session.commit()
        async with open_session() as session:
            session.add(Shelf(name="forgotten"))
            await session.flush()
        with pytest.raises(KeyError):
            async with open_session() as session:
                session.add(Shelf(name="broken"))
                await session.flush()
                raise KeyError

        assert await names() == ["kept"]


async def test_an_object_can_be_read_after_its_commit(ready: Settings):
    """An object can be read after its commit, as no attribute is loaded lazily."""
    async with open_sql(ready):
        async with open_session() as session:
            shelf = Shelf(name="novels")
            session.add(shelf)
            await session.commit()
        assert shelf.name == "novels"
        assert shelf.id == 1


async def test_a_route_gets_a_session_as_a_dependency(ready: Settings):
    """A session as a dependency of a route is closed when the request ends."""
    app = FastAPI()

    @app.get("/")
    async def home(session: Annotated[AsyncSession, Depends(get_session)]) -> int:
        return (await session.exec(select(1))).one()

    async with (
        open_sql(ready) as engine,
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        assert (await client.get("/")).json() == 1
        assert engine.pool.checkedout() == 0


async def test_many_may_write_to_one_file(ready: Settings):
    """Twenty concurrent writers to one SQLite file wait for their turns, and none fails."""
    async with open_sql(ready):

        async def write(number: int) -> None:
            async with open_session() as session:
                session.add(Shelf(name=f"{number:02}"))
                await session.commit()

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(write(number))

        assert await names() == [f"{number:02}" for number in range(20)]


async def test_sqlite_enforces_foreign_keys_and_uses_wal(ready: Settings):
    """SQLite enforces foreign keys and uses WAL, neither of which is its default."""
    async with open_sql(ready) as engine:
        async with engine.connect() as connection:
            assert (await connection.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
        with pytest.raises(IntegrityError):
            async with open_session() as session:
                session.add(Book(shelf_id=99))
                await session.commit()


async def test_the_folder_of_the_file_is_made(tmp_path: Path):
    """The folder of a SQLite file is created."""
    file = tmp_path / "deep" / "down" / "app.db"

    await check(Settings(database_url=f"sqlite:///{file}"))

    assert file.exists()


async def test_a_database_in_memory_is_one_for_all_sessions():
    """A database in memory is shared by all sessions of the block."""
    settings = Settings(database_url="sqlite://")
    async with open_sql(settings) as engine:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE note (text)"))
        async with open_session() as session:
            assert (await session.exec(text("SELECT count(*) FROM note"))).scalar() == 0


async def test_without_a_url_or_a_lifespan_the_cure_is_named(fresh: None):
    """Without DATABASE_URL, the check and a session fail with the line to add."""
    with pytest.raises(NotConfigured, match="DATABASE_URL=sqlite"):
        await check(Settings())
    with pytest.raises(NotConfigured, match="DATABASE_URL=sqlite"):
        async with open_session():
            pass


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////dev/null/app.db", "(Not a directory|File exists)"),
        ("sqlite:////proc/app.db", "unable to open database file"),
        ("postgresql://ann:hunter2@127.0.0.1:port/x", "invalid literal for int"),
        ("postgresql://ann:hunter2@127.0.0.1:99999/x", "port must be 0-65535"),
        ("postgresql://ann:hunter2@127.0.0.1:1/x?channel_binding=require", "'channel_binding'"),
        ("postgresql://ann:hunter2@127.0.0.1:1/x?timeout=soon", "unsupported operand type"),
        (f"postgresql://ann:hunter2@{'a' * 64}/x", "label (empty or )?too long"),
    ],
)
async def test_a_database_that_cannot_be_used_is_one_line(
    refused_by_sqlite: None, url: str, words: str
):
    """A database that can't be used is one line with the reason and without the password."""
    for opening in (check(Settings(database_url=url)), open_once(Settings(database_url=url))):
        with pytest.raises(ServiceUnavailable, match=rf"can't be used: .*{words}") as caught:
            await opening
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)
    assert sql_engine.peek() is None


async def open_once(settings: Settings) -> None:
    async with open_sql(settings):
        pass


async def test_a_driver_that_is_not_installed_is_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
):
    """A missing driver, which is an extra, is named with the command that adds it."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(
        NotConfigured, match=r"asyncpg is not installed\. Run:  uv sync --extra postgres$"
    ):
        await check(Settings(database_url="postgresql://localhost/shop"))


async def test_postgresql_is_used_like_sqlite(postgres: str):
    """PostgreSQL is used by the same calls as SQLite, also with libpq's option for TLS."""
    url = f"{postgres.replace('+asyncpg', '')}?sslmode=prefer"
    settings = Settings(database_url=url)
    assert await create_schema(settings, MODELS) == ["shelf", "book"]
    async with open_sql(settings):
        async with open_session() as session:
            session.add(Shelf(name="kept"))
            await session.commit()
        assert await names() == ["kept"]
