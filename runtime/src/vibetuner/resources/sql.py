"""The SQL database: one asynchronous engine a process, sessions from SQLModel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Table, event, make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from vibetuner.app import VibetunerApp
from vibetuner.config import Settings, mask_url
from vibetuner.errors import NotConfigured, ServiceUnavailable, first_line
from vibetuner.resources.slots import SQL_MISSING, sql_engine

__all__ = ["check", "create_schema", "get_session", "open_resource", "open_session", "open_sql"]


OUTAGES = (OperationalError, PoolTimeoutError)


@asynccontextmanager
async def open_session() -> AsyncIterator[AsyncSession]:
    """A session on the process's engine; what you don't commit is rolled back.

    Raises:
        NotConfigured: DATABASE_URL is empty, or no lifespan is running.
    """
    async with AsyncSession(sql_engine.get(), expire_on_commit=False) as session:
        yield session


async def get_session() -> AsyncIterator[AsyncSession]:
    """FastAPI dependency: ``session: Annotated[AsyncSession, Depends(get_session)]``."""
    async with open_session() as session:
        yield session


@asynccontextmanager
async def open_sql(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """The engine for DATABASE_URL, behind :func:`open_session` while it is open.

    Raises:
        ServiceUnavailable: the database refuses, or does not answer.
    """
    engine = _make_engine(settings)
    try:
        await _ping(engine, settings)
        with sql_engine.hold(engine):
            yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def open_resource(settings: Settings, _project: VibetunerApp) -> AsyncIterator[AsyncEngine]:
    """As :func:`open_sql`."""
    async with open_sql(settings) as engine:
        yield engine


async def check(settings: Settings) -> None:
    """Send one ``SELECT 1``, over the open engine if there is one.

    Raises:
        ServiceUnavailable: there is no answer.
    """
    if opened := sql_engine.peek():
        await _ping(opened, settings)
        return
    engine = _make_engine(settings)
    try:
        await _ping(engine, settings)
    finally:
        await engine.dispose()


async def create_schema(settings: Settings, models: Sequence[type[SQLModel]]) -> list[str]:
    """Create the tables of ``models`` that are missing; returns the names of those made."""
    tables = [_table(model) for model in models]
    async with open_sql(settings) as engine, engine.begin() as connection:
        existing = await connection.run_sync(
            lambda sync: {
                table.name for table in tables if sync.dialect.has_table(sync, table.name)
            }
        )
        await connection.run_sync(SQLModel.metadata.create_all, tables=tables)
    return [table.name for table in tables if table.name not in existing]


def _table(model: type[SQLModel]) -> Table:
    table = getattr(model, "__table__", None)
    if not isinstance(table, Table):
        raise NotConfigured(
            f"sql_models= lists {model.__name__}, which is no table. Declare it as "
            f"`class {model.__name__}(SQLModel, table=True)`"
        )
    return table


def _make_engine(settings: Settings) -> AsyncEngine:
    if not settings.database_url:
        raise NotConfigured(SQL_MISSING)
    try:
        url = make_url(settings.database_url)
        if url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}:
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_async_engine(url, pool_pre_ping=url.get_backend_name() != "sqlite")
    except ImportError as error:
        raise ServiceUnavailable(
            f"SQL database: {error.name} is not installed. "
            "Run:  uv add 'vibetuner-runtime[postgres]'"
        ) from error
    except (ArgumentError, OSError, ValueError) as error:
        raise ServiceUnavailable(_unreachable(settings, error)) from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Let web and worker write to one file: readers don't block, writers wait their turn."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


async def _ping(engine: AsyncEngine, settings: Settings) -> None:
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:
        raise ServiceUnavailable(_unreachable(settings, error)) from error


def _unreachable(settings: Settings, error: Exception) -> str:
    reason = first_line(error)
    return (
        f"SQL database at {mask_url(settings.database_url or '')} can't be used: {reason}. "
        "Start it, or correct DATABASE_URL"
    )
