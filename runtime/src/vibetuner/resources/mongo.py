"""MongoDB through PyMongo's async client, with Beanie's documents."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import Any, TypeVar

from pymongo import AsyncMongoClient, lock, pool_shared, timeout
from pymongo.asynchronous import pool
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError, ConnectionFailure, ExecutionTimeout, PyMongoError

from vibetuner.app import VibetunerApp
from vibetuner.config import Settings, url_for_people
from vibetuner.errors import ServiceUnavailable, explain_unusable, first_line
from vibetuner.resources.slots import mongo_database
from vibetuner.resources.steps import finish
from vibetuner.state import request_seconds

__all__ = ["Database", "check", "open_database", "open_mongo", "open_resource", "unreachable"]

CONNECT_MS = 5000
CLOSE_SECONDS = 5.0
# What PyMongo adds to the reason: limits, the other servers, and what it knows of all of them.
REST = re.compile(r" \(configured timeouts|,(?=\S)|, (?:Timeout|full error):")
NAMES_TIMEOUT = re.compile(r"(?i)[?&]timeoutMS=")

OUTAGES = (ConnectionFailure, ExecutionTimeout)

Database = AsyncDatabase[dict[str, Any]]
T = TypeVar("T")


@asynccontextmanager
async def open_mongo(settings: Settings, project: VibetunerApp) -> AsyncIterator[Database]:
    """Open the database with the project's documents registered and their indexes created.

    Raises:
        ServiceUnavailable: no answer within 5 seconds, or a refusal.
    """
    async with open_database(settings) as database:
        try:
            await _init_documents(database, project)
        except PyMongoError as error:
            raise ServiceUnavailable(unreachable(settings, error)) from error
        yield database


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """Open the database without the project's documents, after it has answered a ping.

    Its name is the URL's path, or else the queue's name, by default the project's slug.

    Raises:
        ServiceUnavailable: no answer within 5 seconds, or a refusal.
    """
    async with _connect(settings) as client:
        # A key may contain a dot or a colon, a database's name may not. The braces of a Cluster's
        # hash tag are dropped.
        name = re.sub(r"[.:]", "-", re.sub(r"[{}]", "", settings.queue_name))
        database = client.get_default_database(name)
        with mongo_database.hold(database):
            yield database


open_resource = open_mongo


async def _init_documents(database: Database, project: VibetunerApp) -> None:
    # Imported here: listing dead letters needs only the database.
    core = import_module("vibetuner.models").CORE_MODELS
    with timeout(0):  # creating an index on a large collection may take long
        await import_module("beanie").init_beanie(
            database=database, document_models=[*core, *project.models]
        )


async def check(settings: Settings) -> None:
    """Send one ping, over the open client if there is one.

    Raises:
        NotConfigured: MONGODB_URL is empty.
        ServiceUnavailable: the server refuses, or does not answer within 5 seconds.
    """
    if (opened := mongo_database.peek()) is None:
        async with _connect(settings):
            return
    with timeout(CONNECT_MS / 1000):
        await _ping(opened, settings)


@asynccontextmanager
async def _connect(settings: Settings) -> AsyncIterator[AsyncMongoClient[dict[str, Any]]]:
    client = _make_client(settings)
    try:
        await _ping(client.admin, settings)
        yield client
    finally:
        # PyMongo limits the farewell, which a frozen server does not answer, but not its own waits.
        with timeout(CLOSE_SECONDS), suppress(TimeoutError):
            async with asyncio.timeout(2 * CLOSE_SECONDS):
                await client.close()


async def _ping(database: Database, settings: Settings) -> None:
    try:
        await database.command("ping")
    except PyMongoError as error:
        raise ServiceUnavailable(unreachable(settings, error)) from error


def _make_client(settings: Settings) -> AsyncMongoClient[dict[str, Any]]:
    if sys.version_info < (3, 12):
        lock.wait_for = _wait_for  # type: ignore[attr-defined, assignment]
    pool._configured_protocol_interface = _connect_whole  # type: ignore[attr-defined, assignment]  # noqa: SLF001
    limits: dict[str, Any] = {
        "serverSelectionTimeoutMS": CONNECT_MS,
        "connectTimeoutMS": CONNECT_MS,
    }
    if (seconds := request_seconds.get()) and not NAMES_TIMEOUT.search(settings.mongodb_url or ""):
        limits["timeoutMS"] = 1000 * seconds
    try:
        return AsyncMongoClient(settings.mongodb_url, tz_aware=True, **limits)
    except (ConfigurationError, ValueError) as error:
        raise ServiceUnavailable(unreachable(settings, error)) from error


async def _connect_whole(address: Any, options: Any, *more: Any) -> Any:
    """Make a connection, even if the caller is cancelled meanwhile, whose next step closes it.

    PyMongo would leave its socket to the garbage collector, which warns in any test that runs then.
    Its time limit does not cover the handshake of TLS, for which asyncio waits for a minute.
    """

    async def connect() -> Any:
        async with asyncio.timeout(options.connect_timeout):
            return await pool_shared._configured_protocol_interface(address, options, *more)  # noqa: SLF001

    return await finish(connect())


async def _wait_for(work: Coroutine[Any, Any, T], seconds: float | None) -> T:
    """Await ``work`` in the caller's task, as asyncio's ``wait_for()`` does since Python 3.12.

    Python 3.11 awaits it in another task. If the caller is cancelled as the time is up, that task
    takes the client's lock and never releases it: all further calls, and the close, wait for ever.
    """
    async with asyncio.timeout(seconds):
        return await work


def unreachable(settings: Settings, error: Exception) -> str:
    """Return the message for a MongoDB that can't be used: its address, the reason, the cure."""
    reason = REST.split(first_line(error), maxsplit=1)[0]
    url, environment = url_for_people(settings, "mongodb_url"), settings.environment
    return explain_unusable("MongoDB", "MONGODB_URL", url, reason, environment=environment)
