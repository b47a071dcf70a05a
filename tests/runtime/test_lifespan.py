"""open_context opens what is configured in order, and closes it in reverse."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest
from beanie import Document
from coredis import Redis
from sqlalchemy import event

from tests.waiting import eventually
from vibetuner import VibetunerApp
from vibetuner.config import Settings, using_settings
from vibetuner.context import Context, ctx, current_context
from vibetuner.embedded import Lease, status
from vibetuner.errors import NotConfigured, ServiceUnavailable
from vibetuner.lifespan import open_context
from vibetuner.models import UserModel
from vibetuner.project import using_data_dir
from vibetuner.redis import redis_client
from vibetuner.resources.slots import mongo_database, sql_engine
from vibetuner.resources.sql import open_session
from vibetuner.tasks.outbox.sql import Outbox

SLOTS = (redis_client, mongo_database, sql_engine, current_context)


def open_here(settings: Settings) -> AbstractAsyncContextManager[Context]:
    return open_context(settings, VibetunerApp())


def nothing_is_open() -> bool:
    return [slot.peek() for slot in SLOTS] == [None] * len(SLOTS)


async def connections(servers: Lease) -> int:
    """Return the number of connections to the Valkey of the tests."""
    async with Redis.from_url(servers.urls["redis"], decode_responses=True) as client:
        return len(await client.client_list())


async def until_connections(servers: Lease, wanted: int) -> None:
    """Wait until the server lists no more than ``wanted`` connections."""

    async def are_closed() -> bool:
        return await connections(servers) <= wanted

    await eventually(are_closed)


async def test_what_is_configured_is_open_inside_and_closed_outside(
    settings: Settings, servers: Lease
):
    """Each configured resource can be used inside the context, and is closed after it."""
    before = await connections(servers)

    async with open_here(settings) as context:
        assert await redis_client.get().ping()
        assert await UserModel.count() == 0
        async with open_session() as session:
            assert (await session.connection()).closed is False
        assert (context.environment, context.debug) == ("test", False)
        assert context.project_slug == settings.queue_name
        assert ctx.http_client is context.http_client

    assert nothing_is_open()
    assert context.http_client.is_closed
    await until_connections(servers, before)
    with pytest.raises(NotConfigured, match="There is no context here"):
        ctx.environment  # noqa: B018


async def test_what_is_not_configured_stays_closed(fresh: None):
    """Without configuration, the context has only its HTTP client."""
    async with open_here(Settings(environment="test")) as context:
        assert [slot.peek() for slot in SLOTS] == [None, None, None, context]
        assert not context.http_client.is_closed


async def test_a_client_that_nobody_asked_for_is_never_made(fresh: None):
    """An HTTP client that nobody uses is never made, as its library costs memory and time."""
    async with open_here(Settings(environment="test")) as context:
        pass
    with pytest.raises(NotConfigured, match="HTTP client"):
        _ = context.http_client


async def test_documents_and_tasks_without_their_servers_are_warned_about(
    settings: Settings, caplog: pytest.LogCaptureFixture
):
    """Documents without MONGODB_URL and tasks without REDIS_URL cause a warning with the cure.

    Beanie's own error, at the first use, names neither the reason nor the cure. A test is not
    warned: it has the servers whose fixtures it requests.
    """
    alone = settings.model_copy(
        update={"mongodb_url": None, "redis_url": None, "environment": "development"}
    )
    listed = VibetunerApp(models=[UserModel], tasks=[print])
    async with open_context(alone.model_copy(update={"environment": "test"}), listed):
        pass
    for project in (VibetunerApp(), listed):
        async with open_context(alone, project):
            pass
    assert caplog.messages == [
        "tasks of tune.py can't be used: Background tasks: Redis not configured. Add to .env:  "
        "REDIS_URL=redis://localhost:6379",
        "models of tune.py can't be used: MongoDB not configured. Add to .env:  "
        "MONGODB_URL=mongodb://localhost:27017",
    ]


async def test_production_is_warned_about_tables_that_differ(
    stand_in: Any, settings: Settings, caplog: pytest.LogCaptureFixture
):
    """In production, each process logs at its start that a migration has not run."""
    stand_in()
    project = VibetunerApp(sql_models=[Outbox])
    async with open_context(settings.model_copy(update={"environment": "production"}), project):
        pass
    assert caplog.messages == [
        "SQL tables differ from the models: table task_outbox is missing. "
        "Run:  vibetuner db upgrade"
    ]


async def test_a_project_gives_the_context_its_name_and_version(stand_in):
    """The context has the project's name, slug and version from pyproject.toml."""
    stand_in()

    async with open_here(Settings(environment="test")) as context:
        assert (context.project_name, context.project_slug) == ("Corner Shop", "corner-shop")
        assert context.version == "1.2.3"


async def test_what_was_opened_last_is_closed_first(settings: Settings):
    """Resources are closed in reverse: the client, the SQL engine, and then the others."""
    seen: list[tuple[Any, ...]] = []

    async with open_here(settings) as context:
        client = context.http_client

        @event.listens_for(sql_engine.get().sync_engine, "engine_disposed")
        def look(_engine: object) -> None:
            seen.append((client.is_closed, mongo_database.peek(), redis_client.peek()))

        mongo, redis = mongo_database.get(), redis_client.get()

    assert seen == [(True, mongo, redis)]


async def test_a_resource_that_does_not_open_closes_those_before_it(
    settings: Settings, servers: Lease, tmp_path: Path, refused_by_sqlite: None
):
    """If a resource doesn't open, those before it are closed, and its own error is raised."""
    before = await connections(servers)
    broken = settings.model_copy(update={"database_url": f"sqlite+aiosqlite:///{tmp_path}"})

    with pytest.raises(ServiceUnavailable, match="SQL database at .* can't be used") as caught:
        async with open_here(broken):
            pytest.fail("it opened")

    assert "\n" not in str(caught.value)
    assert nothing_is_open()
    await until_connections(servers, before)


async def test_an_exception_inside_comes_out_as_it_is(settings: Settings, servers: Lease):
    """An exception inside the context is raised as it is, and not in a group."""
    before = await connections(servers)

    with pytest.raises(KeyError, match="mine"):
        async with open_here(settings):
            raise KeyError("mine")

    assert nothing_is_open()
    await until_connections(servers, before)


async def test_a_cancellation_inside_closes_everything(settings: Settings, servers: Lease):
    """A cancelled task closes every resource of its context."""
    before = await connections(servers)
    inside = asyncio.Event()
    contexts: list[Context] = []

    async def use() -> None:
        async with open_here(settings) as context:
            assert not context.http_client.is_closed
            contexts.append(context)
            inside.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(use())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert nothing_is_open()
    assert contexts[0].http_client.is_closed
    await until_connections(servers, before)


async def test_a_cancelled_scope_closes_everything_too(settings: Settings, servers: Lease):
    """A cancelled scope of anyio, which cancels at every await, closes every resource."""
    before = await connections(servers)

    with anyio.CancelScope() as scope:
        async with open_here(settings) as context:
            assert not context.http_client.is_closed
            scope.cancel()
            await anyio.sleep(3600)

    assert scope.cancelled_caught
    assert nothing_is_open()
    assert context.http_client.is_closed
    await until_connections(servers, before)


@pytest.mark.process
async def test_embedded_services_end_with_a_start_that_fails(
    tmp_path: Path, refused_by_sqlite: None
):
    """Embedded services end if a resource that is opened after them fails."""
    settings = Settings(
        environment="test",
        redis_url="embedded",
        redis_key_prefix="lifespan",
        database_url=f"sqlite+aiosqlite:///{tmp_path}",
    )
    with using_data_dir(tmp_path / ".vibetuner"), using_settings(settings):
        with pytest.raises(ServiceUnavailable, match="SQL database"):
            async with open_here(settings):
                pytest.fail("it opened")

        await eventually(lambda: status(tmp_path).keeper is None)


async def test_documents_of_the_project_are_ready_inside(settings: Settings):
    """The documents that tune.py lists in models=[...] can be used inside the context."""

    class Receipt(Document):
        total: int

    async with open_context(settings, VibetunerApp(models=[Receipt])):
        receipt = await Receipt(total=7).insert()
        assert (await Receipt.get(receipt.id)).total == 7
