"""A row of the outbox, and the stores that can hold it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

from vibetuner.errors import NotConfigured, TaskError
from vibetuner.loader import load_project
from vibetuner.project import find_root
from vibetuner.resources.slots import mongo_database, sql_engine

__all__ = ["TABLE", "Row", "Store", "open_stores", "store_for"]

#: The table, and the collection.
TABLE = "task_outbox"

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
    """A call that is to be enqueued once its transaction is committed.

    Attributes:
        task_id: the id that the task will have.
        name: the task's name.
        payload: the signed call.
        options: what ``enqueue`` in lua/queue.lua takes after the payload, as JSON.
        created_at: when it was written.
        key: the idempotency key, if it has one.
        keep: how many milliseconds the server is to remember the key.
        call: the call's fingerprint, where there is a key.
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
    """The place where rows wait: the table of the SQL database, or the collection of MongoDB."""

    async def add(self, row: Row, session: Any) -> tuple[str, str] | None:
        """Write a row in the session's transaction.

        Returns the task and the call of the row that has its key already; then nothing is written.
        """
        ...

    async def remove(self, task_id: str, session: Any) -> None:
        """Remove a row in the transaction that has written it."""
        ...

    def on_commit(self, session: Any, hear: Callable[[], None]) -> None:
        """Call ``hear`` once the session's transaction is committed; never, if it is not."""
        ...

    async def read(self, task_ids: Sequence[str] | None, limit: int) -> list[Row]:
        """Return committed rows, those of these tasks or the oldest."""
        ...

    async def delete(self, task_ids: Sequence[str]) -> None:
        """Delete rows that were handed on."""
        ...

    async def waiting(self) -> tuple[int, datetime | None]:
        """Return the number of rows, and the time of the oldest."""
        ...


def open_stores() -> list[Store]:
    """Return the stores of the databases that are open here and have an outbox."""
    stores = []
    if sql_engine.peek() is not None and _is_listed():
        stores.append(_store("sql", "SqlOutbox"))
    if mongo_database.peek() is not None:
        stores.append(_store("mongo", "MongoOutbox"))
    return stores


def store_for(session: Any) -> Store:
    """Return the store that a session writes to.

    Raises:
        NotConfigured: tune.py does not list the table.
        TaskError: it is no session of a database that is open here.
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
    models = load_project().sql_models if find_root() else ()
    return any(getattr(model, "__tablename__", None) == TABLE for model in models)


@cache
def _store(module: str, name: str) -> Store:
    # Imported here: a process loads only the drivers that it uses.
    return cast("Store", getattr(import_module(f"vibetuner.tasks.outbox.{module}"), name)())
