"""A project with an outbox in each kind of database, and a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from vibetuner.config import Settings, using_settings
from vibetuner.loader import load_project
from vibetuner.resources.mongo import open_mongo
from vibetuner.resources.slots import mongo_database
from vibetuner.resources.sql import create_schema, open_session, open_sql
from vibetuner.tasks.outbox.row import Store, open_stores
from vibetuner.tasks.worker import TaskWorker, using_worker
from vibetuner.testing import held_open

TUNE = """
    from vibetuner import VibetunerApp
    from vibetuner.tasks.outbox.sql import Outbox

    app = VibetunerApp(sql_models=[Outbox])
"""

ORDERS = "CREATE TABLE orders (number VARCHAR PRIMARY KEY)"


class Database:
    """A database with orders in it.

    ``session()`` is a session in a transaction, committed at the end of its block and rolled back
    after an error.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    async def insert(self, session: Any, number: str) -> None:
        """Insert an order."""
        connection = await session.connection()
        await connection.execute(text("INSERT INTO orders (number) VALUES (:n)"), {"n": number})

    async def orders(self) -> set[str]:
        """Return the committed orders."""
        async with open_session() as session:
            connection = await session.connection()
            return {row[0] for row in await connection.execute(text("SELECT number FROM orders"))}

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        """Open a session in a transaction, which the end of the block commits."""
        async with open_session() as session:
            yield session
            await session.commit()


class Documents(Database):
    """A MongoDB database with orders in it."""

    async def insert(self, session: Any, number: str) -> None:
        await mongo_database.get()["orders"].insert_one({"_id": number}, session=session)

    async def orders(self) -> set[str]:
        return {one["_id"] async for one in mongo_database.get()["orders"].find({})}

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        client = mongo_database.get().client
        async with client.start_session() as session, await session.start_transaction():
            yield session


@pytest.fixture(params=["sqlite", "postgres", "mongodb"])
async def database(
    request: pytest.FixtureRequest, stand_in: Any, settings: Settings
) -> AsyncIterator[Database]:
    """Yield each kind of database, with the outbox in it."""
    stand_in(tune=TUNE)
    if request.param == "mongodb":
        own = settings.model_copy(update={"database_url": None})
        with using_settings(own):
            async with held_open(open_mongo(own, load_project())):
                [store] = open_stores()
                yield Documents(store)
        return
    own = settings.model_copy(update={"mongodb_url": None})
    if request.param == "postgres":
        url = await _create_database(request.getfixturevalue("postgres"))
        own = own.model_copy(update={"database_url": url})
    with using_settings(own):
        await create_schema(own, load_project().sql_models)
        async with held_open(open_sql(own)) as engine:
            async with engine.begin() as connection:
                await connection.execute(text(ORDERS))
            [store] = open_stores()
            yield Database(store)


@pytest.fixture
def worker(database: Database, settings: Settings) -> TaskWorker:
    """Return a worker of the project, which is not open yet."""
    return TaskWorker(settings)


@pytest.fixture
def receipt(worker: TaskWorker) -> Any:
    """Return a task that is enqueued with an order."""
    with using_worker(worker):

        @worker.task(name="receipt")
        async def receipt(number: str) -> str:
            return number

    return receipt


async def _create_database(server: str) -> str:
    name = f"outbox_{uuid4().hex[:12]}"
    engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)
