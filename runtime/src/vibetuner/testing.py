"""The pytest plugin: active once the runtime is installed, and idle until a fixture is asked for.

Its imports are inside the fixtures, so that a test run that uses none of them pays nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from unittest.mock import AsyncMock, MagicMock
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from sqlalchemy.ext.asyncio import AsyncEngine

    from vibetuner.config import Settings
    from vibetuner.resources.mongo import Database

__all__ = ["MockTasks", "held_open", "name_database"]

T = TypeVar("T")


class MockTasks:
    """Stands in for tasks: every attribute is a fake task whose ``enqueue`` is recorded.

    >>> tasks = MockTasks()
    >>> tasks.send_report is tasks.send_report
    True
    >>> tasks.send_report.enqueue.called
    False
    """

    def __getattr__(self, name: str) -> MagicMock:
        if name.startswith("__"):
            raise AttributeError(name)
        task = MagicMock(name=name)
        task.enqueue = AsyncMock(side_effect=lambda *_, **__: MagicMock(id=uuid4().hex))
        setattr(self, name, task)
        return task


@pytest.fixture
def mock_tasks() -> MockTasks:
    """Fake tasks of any name, to patch in where a route enqueues."""
    return MockTasks()


@pytest.fixture
def vibetuner_settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings with no outside system, ENVIRONMENT=test, and a data folder of their own."""
    from vibetuner.config import get_settings, using_settings
    from vibetuner.project import using_data_dir

    alone = {"redis_url": None, "mongodb_url": None, "database_url": None, "smtp_url": None}
    settings = get_settings().model_copy(update={**alone, "environment": "test"})
    with using_data_dir(tmp_path / ".vibetuner"), using_settings(settings):
        yield settings


@pytest.fixture(scope="session")
def vibetuner_mongodb_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MONGODB_URL if the environment names a server, else that of one started for the session."""
    from vibetuner.config import EMBEDDED, get_settings
    from vibetuner.embedded import join

    url = get_settings().mongodb_url
    if url and url != EMBEDDED:
        yield url
        return
    with join(tmp_path_factory.mktemp("mongodb"), ["mongodb"], command="pytest") as lease:
        yield lease.urls["mongodb"]


@pytest.fixture
async def vibetuner_db(
    vibetuner_settings: Settings, vibetuner_mongodb_url: str
) -> AsyncIterator[Database]:
    """A throw-away MongoDB database with the project's documents ready for use."""
    from vibetuner.config import get_settings, using_settings
    from vibetuner.loader import load_project
    from vibetuner.resources.mongo import open_mongo

    name = f"test_{uuid4().hex[:12]}"
    url = name_database(vibetuner_mongodb_url, name)
    settings = get_settings().model_copy(update={"mongodb_url": url})
    with using_settings(settings):
        async with held_open(open_mongo(settings, load_project())) as database:
            yield database
            await database.client.drop_database(name)


@pytest.fixture
async def vibetuner_sql(vibetuner_settings: Settings, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A throw-away SQL database with the project's tables; ``open_session()`` uses it."""
    from vibetuner.config import get_settings, using_settings
    from vibetuner.loader import load_project
    from vibetuner.resources.sql import create_schema, open_sql

    url = f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"
    settings = get_settings().model_copy(update={"database_url": url})
    with using_settings(settings):
        await create_schema(settings, load_project().sql_models)
        async with open_sql(settings) as engine:
            yield engine


@pytest.fixture
async def vibetuner_client(
    vibetuner_db: Database, vibetuner_sql: AsyncEngine
) -> AsyncIterator[AsyncClient]:
    """An HTTP client on the project's app, its lifespan run, no network between."""
    from httpx2 import ASGITransport, AsyncClient

    from vibetuner.frontend.app import create_app

    app = create_app()
    async with (
        held_open(app.router.lifespan_context(app)),
        AsyncClient(transport=ASGITransport(app), base_url="http://testserver") as client,
    ):
        yield client


def name_database(url: str, name: str) -> str:
    """Point a MongoDB URL at the database ``name``, with the same credentials.

    >>> name_database("mongodb://ann:pw@a:1,b:2/shop?tls=true", "test_1")
    'mongodb://ann:pw@a:1,b:2/test_1?tls=true&authSource=shop'
    """
    parts = urlsplit(url)
    query = parts.query
    if "@" in parts.netloc and "authsource=" not in query.lower():
        source = parts.path.strip("/") or "admin"
        query = f"{query}&authSource={source}" if query else f"authSource={source}"
    return urlunsplit(parts._replace(path=f"/{name}", query=query))


@asynccontextmanager
async def held_open(manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave ``manager`` in one task of its own.

    A fixture is set up and torn down in different tasks, which a cancel scope does not allow.
    """
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def hold() -> None:
        try:
            async with manager as value:
                entered.set_result(value)
                await leave.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    task: asyncio.Task[Any] = asyncio.create_task(hold())
    value = await entered
    try:
        yield value
    finally:
        leave.set()
        await task
