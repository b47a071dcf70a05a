"""A row of the outbox, and the interface of the stores that hold rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

from vibetuner.errors import NotConfigured, TaskError
from vibetuner.loader import find_project
from vibetuner.resources.slots import mongo_database, sql_engine

#: The table, and the collection.
TABLE = "task_outbox"

#: The last option of a row whose task is enqueued durably, and the end of its options then.
DURABLE = "durable"
DURABLE_END = f'"{DURABLE}"]'

#: How long a look at the outbox waits for its database.
ANSWER_SECONDS = 2.0

UNKNOWN_SESSION = (
    "within() takes an AsyncSession of SQLModel or SQLAlchemy, or a MongoDB session in a "
    "transaction, not {kind}. Open one:  async with open_session() as session: "
    "(from vibetuner.resources.sql)"
)
UNLISTED = (
    "within() needs the table of the outbox. Add Outbox (from vibetuner.tasks.outbox.sql) to "
    "sql_models=[...] in tune.py, then run:  vibetuner db revision 'outbox'"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A call to be enqueued once its transaction is committed.

    Attributes:
        task_id: the id that the task will have.
        name: the task's name.
        payload: the signed call.
        options: the arguments of ``enqueue`` in lua/queue.lua after the payload, as JSON.
        created_at: when it was written.
        key: the idempotency key, if it has one.
        keep: the milliseconds that the server remembers the key.
        call: the call's fingerprint, if there is a key.
    """

    task_id: str
    name: str
    payload: bytes
    options: str
    created_at: datetime
    key: str | None = None
    keep: int = 0
    call: str | None = None


class Store(Protocol):
    """A store of rows: the table of the SQL database, or the collection of MongoDB."""

    async def add(self, row: Row, session: Any) -> tuple[str, str | None] | None:
        """Write a row in the session's transaction.

        If another row has the same task or key, write nothing and return its task, and, if it has
        the key, its call.
        """

    async def remove(self, task_id: str, session: Any) -> None:
        """Remove a row in the transaction that wrote it."""

    def on_commit(self, session: Any, hear: Callable[[], None]) -> None:
        """Call ``hear`` once the session's transaction is committed, and not after a rollback."""

    async def read(
        self, task_ids: Sequence[str] | None, limit: int, *, durable: bool | None = None
    ) -> list[Row]:
        """Return committed rows, of these tasks or the oldest; only durable ones, or only others.

        Another row may count as durable, never the other way round.
        """

    async def ids(self, beginning: str, limit: int) -> list[str]:
        """Return ids of committed rows that begin with ``beginning``, letters and digits."""

    async def delete(self, task_ids: Sequence[str]) -> None:
        """Delete rows that were handed on."""

    async def waiting(self) -> tuple[int, datetime | None]:
        """Return the number of rows, and the time of the oldest."""


def open_stores() -> list[Store]:
    """Return the stores of the databases that are open here and have an outbox."""
    stores = []
    if sql_engine.peek() is not None and _is_listed():
        stores.append(_store("sql", "SqlOutbox"))
    if mongo_database.peek() is not None:
        stores.append(_store("mongo", "MongoOutbox"))
    return stores


async def find_row(task_id: str) -> Row | None:
    """Return a task's committed row; None if there is none, or a database does not answer."""
    with suppress(Exception):
        async with asyncio.timeout(ANSWER_SECONDS):
            for store in open_stores():
                if rows := await store.read([task_id], 1):
                    return rows[0]
    return None


async def ids_in_outbox(beginning: str, *, limit: int) -> list[str]:
    """Return ids of tasks with a committed row; none if a database does not answer."""
    found: list[str] = []
    with suppress(Exception):
        async with asyncio.timeout(ANSWER_SECONDS):
            for store in open_stores():
                found += await store.ids(beginning, limit)
    return found


def store_for(session: Any) -> Store:
    """Return the store that a session writes to.

    Raises:
        NotConfigured: tune.py does not list the table.
        TaskError: the session belongs to no database that is open here.
    """
    kinds = {one.__name__: one.__module__ for one in type(session).__mro__}
    if kinds.get("AsyncSession", "").startswith("sqlalchemy."):
        if not _is_listed():
            raise NotConfigured(UNLISTED)
        return _store("sql", "SqlOutbox")
    if kinds.get("AsyncClientSession", "").startswith("pymongo."):
        return _store("mongo", "MongoOutbox")
    raise TaskError(UNKNOWN_SESSION.format(kind=f"a {type(session).__qualname__}"))


def _is_listed() -> bool:
    project = find_project()
    return project is not None and any(
        getattr(model, "__tablename__", None) == TABLE for model in project.sql_models
    )


@cache
def _store(module: str, name: str) -> Store:
    # Imported here, so that a process loads only the drivers that it uses.
    return cast("Store", getattr(import_module(f"vibetuner.tasks.outbox.{module}"), name)())
