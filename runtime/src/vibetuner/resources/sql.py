"""The SQL database: one async engine for each process, and SQLModel sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from sqlalchemy import Table, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from vibetuner.app import VibetunerApp
from vibetuner.config import Settings
from vibetuner.errors import NotConfigured, ServiceUnavailable
from vibetuner.resources.slots import sql_engine
from vibetuner.resources.sql_engine import make_engine, unreachable
from vibetuner.resources.steps import finish

__all__ = [
    "POSTGRES_LOCK",
    "check",
    "create_schema",
    "get_session",
    "open_resource",
    "open_session",
    "open_sql",
    "table_of",
]


OUTAGES = (OperationalError, PoolTimeoutError)
# A process that changes tables holds this lock; its number is arbitrary.
POSTGRES_LOCK = f"SELECT pg_advisory_xact_lock({0x76696265})"
LOCKS = {"postgresql": POSTGRES_LOCK, "sqlite": "BEGIN IMMEDIATE"}
CLOSE_SECONDS = 5.0


@asynccontextmanager
async def open_session() -> AsyncIterator[AsyncSession]:
    """Open a session on the process's engine; changes that are not committed are rolled back.

    A task that is cancelled in a statement leaves neither a lock nor a connection behind.

    Raises:
        NotConfigured: DATABASE_URL is empty, or no lifespan is running.
        ServiceUnavailable: no connection became free within DATABASE_POOL_TIMEOUT.
    """
    async with AsyncSession(sql_engine.get(), expire_on_commit=False) as session:
        yield session


async def get_session() -> AsyncIterator[AsyncSession]:
    """Yield a session: ``session: Annotated[AsyncSession, Depends(get_session)]``.

    Raises:
        NotConfigured: DATABASE_URL is empty, or no lifespan is running.
    """
    async with open_session() as session:
        yield session


@asynccontextmanager
async def open_sql(
    settings: Settings, _project: VibetunerApp | None = None
) -> AsyncIterator[AsyncEngine]:
    """Open the engine for DATABASE_URL; in the block, :func:`open_session` uses it.

    Raises:
        ServiceUnavailable: the database refuses the connection or does not answer.
    """
    async with _connect(settings) as engine:
        with sql_engine.hold(engine):
            yield engine


open_resource = open_sql


async def check(settings: Settings) -> None:
    """Send one ``SELECT 1``, over the open engine if there is one.

    Raises:
        NotConfigured: DATABASE_URL is empty.
        ServiceUnavailable: the database refuses, or does not answer.
    """
    if opened := sql_engine.peek():
        await _ping(opened, settings)
        return
    async with _connect(settings):
        pass


async def create_schema(settings: Settings, models: Sequence[type[SQLModel]]) -> list[str]:
    """Create the missing tables of ``models``, and return their names.

    If several processes do so at once, one creates them, and the others wait.
    """
    tables = [table_of(model) for model in models]
    async with open_sql(settings) as engine, engine.begin() as connection:
        await connection.exec_driver_sql(LOCKS[engine.dialect.name])
        existing = await connection.run_sync(
            lambda sync: {
                table.name for table in tables if sync.dialect.has_table(sync, table.name)
            }
        )
        await connection.run_sync(SQLModel.metadata.create_all, tables=tables)
    return [table.name for table in tables if table.name not in existing]


def table_of(model: type[SQLModel]) -> Table:
    """Return a model's table; raise NotConfigured if the model has none."""
    table = getattr(model, "__table__", None)
    if not isinstance(table, Table):
        raise NotConfigured(
            f"sql_models= lists {model.__name__}, which is not a table. Declare it as "
            f"`class {model.__name__}(SQLModel, table=True)`"
        )
    return table


@asynccontextmanager
async def _connect(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(settings)
    try:
        await _ping(engine, settings)
        yield engine
    finally:
        with suppress(TimeoutError):  # a frozen server never answers the close
            await finish(asyncio.wait_for(engine.dispose(), CLOSE_SECONDS))
        # Raises a cancellation here, before the block of the caller's timeout ends.
        await asyncio.sleep(0)


async def _ping(engine: AsyncEngine, settings: Settings) -> None:
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:
        raise ServiceUnavailable(unreachable(settings, error)) from error
