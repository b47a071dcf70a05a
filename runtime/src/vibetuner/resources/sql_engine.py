"""The SQL engine: its pool, and connections that a cancellation can't leave locked.

A cancelled task (time limit, abort, stop) can be inside any statement. SQLAlchemy then closes the
connection. We add three things: closing itself can't be cancelled, the running statement is ended,
and one of SQLite that was read in part releases its lock.
"""

from __future__ import annotations

import asyncio
import math
import re
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from uuid import uuid4
from weakref import WeakSet

from sqlalchemy import URL, AdaptedConnection, PoolProxiedConnection, event, make_url
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util import await_, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from vibetuner.config import Settings
from vibetuner.errors import (
    NotConfigured,
    ServiceUnavailable,
    explain_unusable,
    first_line,
    install_command,
)
from vibetuner.resources.slots import SQL_MISSING
from vibetuner.resources.steps import finish
from vibetuner.resources.write_turns import LONGEST_WAIT, take_turns
from vibetuner.state import request_seconds

if TYPE_CHECKING:
    from aiosqlite import Connection

PRAGMAS = {
    # Lets web and worker write to one file: readers don't block, writers wait for their turn.
    "journal_mode": "WAL",
    "synchronous": "NORMAL",
    "foreign_keys": "ON",
}

# PostgreSQL's SQLSTATEs. The server has no room, or no connection, or an error of its system; or it
# does not know a prepared statement, as it is not the one that a pooler used before.
UNABLE = re.compile("53|58|26000|42P05")
# A deadlock or another conflict of transactions; a statement that was cancelled, or not served.
REPEATABLE = re.compile("40|55P03|57")
READ_ONLY = "25006"

CHECK_MS = 1000
# Within the two seconds that SQLAlchemy waits for asyncpg to close a connection.
CANCEL_PAUSES = (0.1, 0.2, 0.4, 0.8)
CANCEL_SECONDS = 2.0


def make_engine(settings: Settings) -> AsyncEngine:
    """Return the engine for DATABASE_URL; it connects on first use.

    In a web process each step has at most DATABASE_ANSWER_TIMEOUT: connecting, waiting for a lock,
    and waiting for an answer.

    Raises:
        NotConfigured: DATABASE_URL is empty, or its driver is not installed.
        ServiceUnavailable: DATABASE_URL is malformed.
    """
    if not settings.database_url:
        raise NotConfigured(SQL_MISSING)
    limit = None if request_seconds.get() is None else settings.database_answer_timeout
    wait = min(LONGEST_WAIT, limit or LONGEST_WAIT)
    try:
        url = make_url(settings.database_url)
        has_limit = limit is not None and not _is_sqlite(url)
        options: dict[str, Any] = {"pool_pre_ping": True}
        if _is_sqlite(url):
            options = _sqlite_options(url, wait)
        else:
            options["connect_args"] = asyncpg_options(url, limit)
        if not _is_in_memory(url):
            options |= _pool_options(settings, limit)
        engine = create_async_engine(url, **options)
    except ImportError as error:
        raise NotConfigured(
            f"SQL database: {error.name} is not installed. Run:  {install_command(str(error.name))}"
        ) from error
    except (ArgumentError, OSError, ValueError) as error:
        raise ServiceUnavailable(unreachable(settings, error)) from error
    _shield(engine)
    if _is_sqlite(url):
        event.listen(engine.sync_engine, "savepoint", _begin_before_savepoint)
    else:
        _name_outages(engine, settings, has_limit=has_limit)
    if _is_in_memory(url):
        event.listen(engine.sync_engine, "handle_error", _keep_connected)
    elif _is_sqlite(url):
        take_turns(engine, wait)
    return engine


def asyncpg_options(url: URL, limit: float | None = None) -> dict[str, Any]:
    """Return options that keep a pooler from running another process's statement by its name.

    asyncpg counts from 1 in each process, and behind PgBouncer in transaction mode, processes share
    connections. Without a cache, a statement needs no name: it runs where it was prepared.
    """
    options: dict[str, Any] = {}
    if url.query.get("prepared_statement_cache_size") == "0":
        options["statement_cache_size"] = 0
        options["prepared_statement_name_func"] = str
    else:
        names = map(f"{uuid4().hex}_{{}}".format, count())
        options["prepared_statement_name_func"] = names.__next__
    if limit is not None:
        options |= {"timeout": limit, "command_timeout": limit}
    return options


def unreachable(settings: Settings, error: Exception) -> str:
    """Return the message for a database that can't be used: its address, the reason, the cure."""
    url, environment = settings.database_url or "", settings.environment
    reason = first_line(error)
    return explain_unusable("SQL database", "DATABASE_URL", url, reason, environment=environment)


class Pool(AsyncAdaptedQueuePool):
    """A pool whose error, when all connections are in use, names the cure."""

    def connect(self) -> PoolProxiedConnection:
        """Return a connection; wait for one for at most DATABASE_POOL_TIMEOUT.

        Raises ServiceUnavailable if no connection became free.
        """
        try:
            return super().connect()
        except PoolTimeout as error:
            raise ServiceUnavailable(
                f"SQL database: all {self.size() + self._max_overflow} connections of this "
                f"process stayed in use for {self.timeout():g} s. Close sessions before long "
                f"work, or set DATABASE_POOL_SIZE (now {self.size()}, and as many again "
                "under load)"
            ) from error


class SQLiteConnection(sqlite3.Connection):
    """A connection that releases its locks when it is closed.

    SQLite keeps a closed connection and its locks while a statement is read in part, and a
    cancelled task leaves such a statement to the garbage collector.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()
        try:
            for name, value in PRAGMAS.items():
                self.execute(f"PRAGMA {name}={value}").close()
        except BaseException:
            self.close()
            raise

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """Return a new cursor, and remember it."""
        cursor = super().cursor(*arguments, **options)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        """Close every cursor, then roll back and close the connection."""
        for cursor in list(self._cursors):
            cursor.close()
        super().close()


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _is_in_memory(url: URL) -> bool:
    return _is_sqlite(url) and url.database in {None, "", ":memory:"}


def _sqlite_options(url: URL, wait: float) -> dict[str, Any]:
    if not _is_in_memory(url):
        path = str(url.database)
        if "uri" in url.query:
            path = unquote(path.removeprefix("file:"))
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {"connect_args": {"factory": SQLiteConnection, "timeout": wait}}


def _begin_before_savepoint(connection: SyncConnection, _name: str) -> None:
    """Begin the transaction that a savepoint belongs to.

    sqlite3 begins one only before a statement that writes. Releasing a savepoint that comes first
    would commit, and a later rollback would undo nothing.
    """
    driver: Any = connection.connection.driver_connection
    if driver.isolation_level is not None and not driver.in_transaction:
        connection.exec_driver_sql("BEGIN")


def _pool_options(settings: Settings, limit: float | None) -> dict[str, Any]:
    """Return the pool's options: two sessions for each running task, as tasks often nest them."""
    size = settings.database_pool_size or settings.worker_concurrency
    return {
        "poolclass": Pool,
        "pool_size": size,
        "max_overflow": size,
        "pool_timeout": min(settings.database_pool_timeout, limit or math.inf),
    }


def _shield(engine: AsyncEngine) -> None:
    """Shield the steps whose cancellation would leave a connection open or locked."""
    dialect = engine.dialect
    steps: dict[str, Callable[..., Any]] = {
        "connect": dialect.connect,
        "do_rollback": dialect.do_rollback,
        "do_terminate": dialect.do_terminate,
    }
    if dialect.name == "sqlite":
        event.listen(engine.sync_engine, "close", _close_sqlite)
    else:
        steps["connect"] = partial(_connect_postgres, dialect.connect)
        steps["do_terminate"] = partial(_cancel_and_terminate, dialect.do_terminate)
    # SQLAlchemy has no events for these steps.
    for name, step in steps.items():
        setattr(dialect, name, partial(_finish_step, step))


def _name_outages(engine: AsyncEngine, settings: Settings, *, has_limit: bool) -> None:
    """Raise ServiceUnavailable if a server can't be reached, refuses, is lost, late, or unable.

    Also if asyncpg can't use a part of the URL: a port, a host, the name or the type of an option.

    asyncpg raises an OSError for the first, which SQLAlchemy passes on, and no OperationalError for
    the next two. If its answers have a limit, it raises TimeoutError for the last, which SQLAlchemy
    does not treat as a lost connection, and for which it calls no event in ``connect`` and ping.

    A statement that may succeed when it is repeated raises OperationalError, as with other drivers.
    """
    dialect = engine.dialect
    first_connect, first_ping = dialect.connect, dialect.do_ping

    def outage(error: Exception) -> ServiceUnavailable:
        if has_limit and isinstance(error, TimeoutError):  # it has no text
            error = TimeoutError(f"no answer within {settings.database_answer_timeout:g} s")
        return ServiceUnavailable(unreachable(settings, error))

    def on_error(context: ExceptionContext) -> Exception | None:
        error = context.original_exception
        if has_limit and isinstance(error, TimeoutError):
            context.is_disconnect, context.invalidate_pool_on_disconnect = True, False
            if context.connection is not None:
                _hang_up(context.connection.connection)
        known, state = context.sqlalchemy_exception, getattr(error, "sqlstate", None) or ""
        if state == READ_ONLY:  # the server may have become a standby: connect again
            context.is_disconnect = True
        is_lost = context.connection is None or context.is_disconnect or UNABLE.match(state)
        if is_lost and isinstance(error, Exception):  # a cancellation counts as a disconnect
            return outage(error)
        if isinstance(known, DBAPIError) and (REPEATABLE.match(state) or _is_stale(error)):
            return OperationalError(
                known.statement, known.params, error, hide_parameters=known.hide_parameters
            )
        return None

    def connect(*arguments: Any, **options: Any) -> Any:
        try:
            return first_connect(*arguments, **options)
        except TimeoutError as error:
            if not has_limit:
                raise
            raise outage(error) from None
        except (OSError, TypeError, ValueError, OverflowError) as error:  # of the URL's parts
            raise outage(error) from error

    def ping(dbapi_connection: Any) -> bool:
        try:
            return first_ping(dbapi_connection)
        except TimeoutError as error:
            _hang_up(dbapi_connection)
            raise outage(error) from None

    event.listen(engine.sync_engine, "handle_error", on_error, retval=True)
    dialect.connect = connect  # type: ignore[method-assign]
    if has_limit:
        dialect.do_ping = ping  # type: ignore[method-assign]


def _is_stale(error: BaseException) -> bool:
    """Return whether a migration has changed a column's type since the statement was prepared."""
    return type(error).__name__ == "InvalidCachedStatementError"


def _hang_up(connection: AdaptedConnection | PoolProxiedConnection) -> None:
    """Close a connection of asyncpg without a goodbye, whose reply may never come."""
    driver: Any = connection.driver_connection
    driver.terminate()


def _finish_step(step: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run one of SQLAlchemy's synchronous steps like :func:`finish` runs a coroutine."""
    if not in_greenlet():  # the garbage collector closes a forgotten connection
        return step(*arguments, **options)
    return await_(finish(greenlet_spawn(step, *arguments, **options)))


def _connect_postgres(connect: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Connect, and have the server end the connection's statement if this process has gone.

    Otherwise a statement goes on and keeps its locks if its process is killed, or if a request
    gives up and hangs up. PostgreSQL has the setting since version 14, and not on every system.
    """
    connection = connect(*arguments, **options)
    setting = f"SET client_connection_check_interval = {CHECK_MS}"
    try:
        with suppress(import_module("asyncpg").PostgresError):
            await_(connection.driver_connection.execute(setting))
    except BaseException:
        _hang_up(connection)
        raise
    return connection


def _cancel_and_terminate(terminate: Callable[..., Any], connection: AdaptedConnection) -> None:
    """Close a connection of asyncpg, and ask the server to cancel its statement until then.

    The server ignores the request of asyncpg if it comes before the statement. asyncpg gives up
    after two seconds, and the statement would go on and keep its locks.
    """
    if in_greenlet():
        await_(_close_postgres(connection.driver_connection, greenlet_spawn(terminate, connection)))
    else:
        terminate(connection)


async def _close_postgres(driver: Any, close: Coroutine[Any, Any, None]) -> None:
    closing, requests = asyncio.ensure_future(close), []
    for pause in CANCEL_PAUSES:
        await asyncio.wait({closing}, timeout=pause)
        if closing.done():
            break
        # No public function of asyncpg sends the request.
        requests.append(asyncio.ensure_future(driver._cancel(asyncio.Future())))  # noqa: SLF001
    try:
        await closing
    finally:
        if requests:  # asyncio would log one that is cut off while it connects
            _, late = await asyncio.wait(requests, timeout=CANCEL_SECONDS)
            for request in late:
                request.cancel()


def _close_sqlite(connection: AdaptedConnection, _record: object) -> None:
    connection.run_async(lambda driver: finish(_interrupt_and_close(driver)))


async def _interrupt_and_close(driver: Connection) -> None:
    """End the pending work of the connection's thread, which would delay the close."""
    closing = asyncio.ensure_future(driver.close())
    while not closing.done():
        # A statement that the thread has not begun can't be interrupted yet.
        with suppress(ValueError, sqlite3.ProgrammingError):  # closed meanwhile
            await driver.interrupt()
        await asyncio.wait({closing}, timeout=0.05)
    await closing


def _keep_connected(context: ExceptionContext) -> None:
    """Keep the connection of an in-memory database, which would be lost with it."""
    context.is_disconnect = False
