"""Lets this process's writers of a SQLite file take turns.

SQLite has one writer at a time. A connection that finds the file locked sleeps, up to 100 ms at a
time, and tries again; under load, one that has waited longest is as likely to fail as any other.
Here the writers of a process queue up, and each goes on as soon as the one before has committed.
Between processes, SQLite's own waiting remains.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_
from sqlalchemy.util.concurrency import in_greenlet

# As long as SQLite itself waits.
LONGEST_WAIT = 5.0
LOCKED = "database is locked"

# The statements before which sqlite3 begins a transaction.
WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE")
# The dialect's steps that end a transaction whether or not they succeed.
ENDS = ("do_rollback", "do_terminate", "do_close")

Step = Callable[[Any], None]


def take_turns(engine: AsyncEngine, seconds: float = LONGEST_WAIT) -> None:
    """Let the writers of an engine wait for each other in order, each at most ``seconds``."""
    turns, dialect = WriteTurns(seconds), engine.dialect
    event.listen(engine.sync_engine, "before_cursor_execute", turns.take)
    # SQLAlchemy's events come before these steps, but a turn ends after them.
    steps = {"do_commit": turns.commit} | dict.fromkeys(ENDS, turns.give_up)
    for name, step in steps.items():
        setattr(dialect, name, partial(step, getattr(dialect, name)))


class WriteTurns:
    """A turn: a connection takes it with its first write, and releases it with its transaction."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._holder: Any = None
        self._task: asyncio.Task[Any] | None = None

    def take(self, connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        """Wait for the turn before a transaction's first write.

        Raises OperationalError if the turn did not come in time; the error is SQLite's own for a
        locked file.
        """
        if not statement.lstrip()[:7].upper().startswith(WRITES) or not in_greenlet():
            return
        driver = connection.connection.dbapi_connection
        # A task that writes in two sessions would wait for itself; let SQLite fail instead.
        if driver is not self._holder and (
            self._holder is None or asyncio.current_task() is not self._task
        ):
            try:
                await_(self._wait(driver))
            except TimeoutError:
                raise OperationalError(statement, None, sqlite3.OperationalError(LOCKED)) from None

    def commit(self, step: Step, connection: Any) -> None:
        """Commit; if that fails, the same turn is kept for the rollback or the next try."""
        step(connection)
        self._end(connection)

    def give_up(self, step: Step, connection: Any) -> None:
        """Roll back or close."""
        try:
            step(connection)
        finally:
            self._end(connection)

    def _end(self, connection: Any) -> None:
        if self._holder is not None and self._holder is getattr(
            connection, "dbapi_connection", connection
        ):
            self._holder = self._task = None
            self._turn.release()

    async def _wait(self, driver: Any) -> None:
        async with asyncio.timeout(self._seconds):
            await self._turn.acquire()
        self._holder, self._task = driver, asyncio.current_task()
