"""The pytest plugin: loaded in every run, idle until a fixture is asked for.

It imports next to nothing; what a fixture needs is imported inside it.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from inspect import isasyncgenfunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from email.message import EmailMessage

    from fastapi import FastAPI
    from httpx2 import AsyncClient
    from sqlalchemy.ext.asyncio import AsyncEngine

    from vibetuner.resources.mongo import Database
    from vibetuner.testing.mocks import MockTasks
    from vibetuner.testing.overrides import SettingsOverride
    from vibetuner.testing.worker import ManualWorker

__all__ = [
    "mock_tasks",
    "vibetuner_app",
    "vibetuner_client",
    "vibetuner_db",
    "vibetuner_mails",
    "vibetuner_settings",
    "vibetuner_sql",
    "vibetuner_worker",
]


# Libraries leave these open when they are cancelled while they connect, as when a worker stops.
LEFT_OPEN = (
    "Unclosed <MemoryObject",  # coredis 6.9
    # PyMongo 4.18, which goes on connecting to a server that refuses; connected to nobody.
    r"unclosed <socket\.socket fd=\d+, family=\d+, type=1, proto=6, laddr=\([^)]*\)>",
)


def pytest_configure(config: pytest.Config) -> None:
    """Let libraries leave half-made connections open where warnings are errors.

    They are no fault of the test that runs when the garbage collector finds them.
    """
    for message in LEFT_OPEN:
        config.addinivalue_line("filterwarnings", f"ignore:{message}:ResourceWarning")
        # Pytest has set the filters for the end of the session already.
        warnings.filterwarnings("ignore", message, ResourceWarning)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Hand our asynchronous fixtures to the plugin that runs the test, in the test's event loop.

    pytest-asyncio in its strict mode looks for the first mark, and must not find it in anyio's
    tests. The second is the loop: a test may ask for that of its module or session.
    """
    function: Any = fixturedef.func
    if getattr(function, "__module__", None) == __name__ and isasyncgenfunction(function):
        function._force_asyncio_fixture = "anyio_backend" not in request.fixturenames  # noqa: SLF001
        function._loop_scope = _loop_scope(request)  # noqa: SLF001
    return (yield)


def _loop_scope(request: pytest.FixtureRequest) -> str | None:
    """Return whose event loop pytest-asyncio runs the test in; None for its default."""
    marker = request.node.get_closest_marker("asyncio")
    if marker is None:
        return None
    scope = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")
    return str(scope or request.config.getini("asyncio_default_test_loop_scope"))


@pytest.fixture
def mock_tasks() -> MockTasks:
    """Fake tasks of any name, to patch in where a route enqueues."""
    from vibetuner.testing.mocks import MockTasks

    return MockTasks()


@pytest.fixture
def vibetuner_settings(tmp_path: Path) -> Iterator[SettingsOverride]:
    """Settings with no outside system, ENVIRONMENT=test, and a data folder of their own.

    Call it to change some for the rest of the test: ``vibetuner_settings(debug=True)``.
    """
    from vibetuner.project import using_data_dir
    from vibetuner.testing.overrides import overriding

    alone = {"redis_url": None, "mongodb_url": None, "database_url": None, "smtp_url": None}
    with using_data_dir(tmp_path / ".vibetuner"), overriding() as settings:
        settings(**alone, environment="test")
        yield settings


@pytest.fixture
def vibetuner_mails(vibetuner_settings: SettingsOverride) -> Callable[[], list[EmailMessage]]:
    """A function that returns the mails that the test has sent so far, the oldest first."""
    from vibetuner.config import data_dir
    from vibetuner.services.outbox import read_outbox

    return lambda: read_outbox(data_dir() / "outbox")


@pytest.fixture(scope="session")
def vibetuner_services(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the servers that this run starts."""
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="session")
def vibetuner_mongodb_url(vibetuner_services: Path) -> Iterator[str]:
    """MONGODB_URL if the environment names a server, else that of one started for the session."""
    from vibetuner.config import EMBEDDED, get_settings
    from vibetuner.embedded import join

    url = get_settings().mongodb_url
    if url and url != EMBEDDED:
        yield url
        return
    with join(vibetuner_services, ["mongodb"], command="pytest") as lease:
        yield lease.urls["mongodb"]


@pytest.fixture(scope="session")
def vibetuner_redis_url(vibetuner_services: Path) -> Iterator[str]:
    """The URL of a Valkey that this session has for itself, whatever REDIS_URL says."""
    from vibetuner.embedded import join

    with join(vibetuner_services, ["redis"], command="pytest") as lease:
        yield lease.urls["redis"]


@pytest.fixture
async def vibetuner_db(
    vibetuner_settings: SettingsOverride, vibetuner_mongodb_url: str
) -> AsyncIterator[Database]:
    """A throw-away MongoDB database with the project's documents ready for use."""
    from vibetuner.testing.databases import throwaway_mongo
    from vibetuner.testing.holding import held_open

    manager = throwaway_mongo(vibetuner_settings, vibetuner_mongodb_url)
    async with held_open(manager) as database:
        yield database


@pytest.fixture
async def vibetuner_sql(
    vibetuner_settings: SettingsOverride, tmp_path: Path
) -> AsyncIterator[AsyncEngine]:
    """A throw-away SQL database with the project's tables; ``open_session()`` uses it."""
    from vibetuner.testing.databases import throwaway_sql

    async with throwaway_sql(vibetuner_settings, tmp_path / "test.db") as engine:
        yield engine


@pytest.fixture
def vibetuner_databases(request: pytest.FixtureRequest) -> None:
    """Of the databases, those that the test asks for, opened before what uses them."""
    for name in ("vibetuner_db", "vibetuner_sql"):
        if name in request.fixturenames:
            request.getfixturevalue(name)


@pytest.fixture
async def vibetuner_worker(
    vibetuner_settings: SettingsOverride, vibetuner_databases: None, vibetuner_redis_url: str
) -> AsyncIterator[ManualWorker]:
    """The project's worker on a real queue; it runs when the test tells it to."""
    from vibetuner.testing.holding import held_open
    from vibetuner.testing.worker import open_manual_worker

    vibetuner_settings(redis_url=vibetuner_redis_url)
    async with held_open(open_manual_worker()) as worker:
        yield worker


@pytest.fixture
def vibetuner_app(vibetuner_settings: SettingsOverride, request: pytest.FixtureRequest) -> FastAPI:
    """The project's app, as ``vibetuner run`` serves it; its lifespan is not run."""
    from vibetuner.frontend.app import create_app

    if "vibetuner_worker" in request.fixturenames:
        request.getfixturevalue("vibetuner_worker")
    return create_app()


@pytest.fixture
async def vibetuner_client(
    vibetuner_db: Database, vibetuner_sql: AsyncEngine, vibetuner_app: FastAPI
) -> AsyncIterator[AsyncClient]:
    """An HTTP client on the project's app, its lifespan run, no network between."""
    from httpx2 import ASGITransport, AsyncClient

    from vibetuner.testing.holding import held_open

    async with (
        held_open(vibetuner_app.router.lifespan_context(vibetuner_app)),
        AsyncClient(transport=ASGITransport(vibetuner_app), base_url="http://testserver") as client,
    ):
        yield client
