"""The pytest plugin: loaded in every run, idle until a fixture is requested.

It imports very little; each fixture imports what it needs.
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
    from vibetuner.testing.fixtures import SettingsOverride
    from vibetuner.testing.mocks import MockTasks
    from vibetuner.testing.worker import ManualWorker

# Resources that libraries leave open if they are cancelled while connecting, as when a worker
# stops.
LEFT_OPEN = (
    "Unclosed <MemoryObject",  # coredis 6.9
    # PyMongo 4.18 goes on connecting to a server that refuses; the socket is not connected.
    r"unclosed <socket\.socket fd=\d+, family=\d+, type=1, proto=6, laddr=\([^)]*\)>",
)


def pytest_configure(config: pytest.Config) -> None:
    """Ignore the half-open connections of libraries in runs in which warnings are errors.

    The test that runs when the garbage collector finds them is not their cause.
    """
    for message in LEFT_OPEN:
        config.addinivalue_line("filterwarnings", f"ignore:{message}:ResourceWarning")
        # Pytest has already set its filters for the end of the session.
        warnings.filterwarnings("ignore", message, ResourceWarning)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Run our async fixtures with the plugin that runs the test, in the test's event loop.

    pytest-asyncio in strict mode looks for the first mark, and must not find it in anyio's tests.
    The second mark is the loop: a test may use that of its module or session.
    """
    function: Any = fixturedef.func
    if getattr(function, "__module__", None) == __name__ and isasyncgenfunction(function):
        function._force_asyncio_fixture = "anyio_backend" not in request.fixturenames  # noqa: SLF001
        function._loop_scope = _loop_scope(request)  # noqa: SLF001
    return (yield)


def _loop_scope(request: pytest.FixtureRequest) -> str | None:
    """Return the scope of the event loop in which pytest-asyncio runs the test, or None."""
    marker = request.node.get_closest_marker("asyncio")
    if marker is None:
        return None
    scope = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")
    return str(scope or request.config.getini("asyncio_default_test_loop_scope"))


@pytest.fixture
def mock_tasks() -> MockTasks:
    """Return fake tasks of any name, to patch in where a route enqueues."""
    from vibetuner.testing.mocks import MockTasks

    return MockTasks()


@pytest.fixture
def vibetuner_settings(tmp_path: Path) -> Iterator[SettingsOverride]:
    """Settings without outside systems, with ENVIRONMENT=test and a temporary data folder.

    Call it to change some for the rest of the test: ``vibetuner_settings(debug=True)``.
    """
    from vibetuner.project import using_data_dir
    from vibetuner.testing.fixtures import overriding

    alone = {"redis_url": None, "mongodb_url": None, "database_url": None, "smtp_url": None}
    with using_data_dir(tmp_path / ".vibetuner"), overriding() as settings:
        settings(**alone, environment="test")
        yield settings


@pytest.fixture
def vibetuner_mails(vibetuner_settings: SettingsOverride) -> Callable[[], list[EmailMessage]]:
    """Return a function that returns the mails that the test has sent, the oldest first."""
    from vibetuner.config import data_dir
    from vibetuner.services.email import read_outbox

    return lambda: read_outbox(data_dir() / "outbox")


@pytest.fixture(scope="session")
def vibetuner_services(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the servers that this test run starts."""
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="session")
def vibetuner_mongodb_url(vibetuner_services: Path) -> Iterator[str]:
    """MONGODB_URL if the environment names a server, else the URL of one for this session."""
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
    """The URL of a Valkey of this session's own, whatever REDIS_URL says."""
    from vibetuner.embedded import join

    with join(vibetuner_services, ["redis"], command="pytest") as lease:
        yield lease.urls["redis"]


@pytest.fixture
async def vibetuner_db(
    vibetuner_settings: SettingsOverride, vibetuner_mongodb_url: str
) -> AsyncIterator[Database]:
    """A temporary MongoDB database with the project's documents."""
    from vibetuner.testing.databases import throwaway_mongo
    from vibetuner.testing.fixtures import held_open

    manager = throwaway_mongo(vibetuner_settings, vibetuner_mongodb_url)
    async with held_open(manager) as database:
        yield database


@pytest.fixture
async def vibetuner_sql(
    vibetuner_settings: SettingsOverride, tmp_path: Path
) -> AsyncIterator[AsyncEngine]:
    """A temporary SQL database with the project's tables; ``open_session()`` uses it.

    It is SQLite, or PostgreSQL on the server that TEST_DATABASE_URL names.
    """
    from vibetuner.testing.databases import throwaway_sql

    async with throwaway_sql(vibetuner_settings, tmp_path / "test.db") as engine:
        yield engine


@pytest.fixture
def vibetuner_databases(request: pytest.FixtureRequest) -> None:
    """Open the databases that the test requests before the fixtures that use them."""
    for name in ("vibetuner_db", "vibetuner_sql"):
        if name in request.fixturenames:
            request.getfixturevalue(name)


@pytest.fixture
async def vibetuner_worker(
    vibetuner_settings: SettingsOverride, vibetuner_databases: None, vibetuner_redis_url: str
) -> AsyncIterator[ManualWorker]:
    """The project's worker on a real queue; it runs when the test runs it."""
    from vibetuner.testing.fixtures import held_open
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
    """An HTTP client for the project's app, with its lifespan and without a network."""
    from httpx2 import AsyncClient

    from vibetuner.testing.fixtures import held_open
    from vibetuner.testing.transport import StreamingTransport

    transport = StreamingTransport(vibetuner_app)
    async with (
        held_open(vibetuner_app.router.lifespan_context(vibetuner_app)),
        AsyncClient(transport=transport, base_url="http://testserver") as client,
    ):
        yield client
