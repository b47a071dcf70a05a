"""The outbox in MongoDB: a collection that is written to in a transaction."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from pymongo import timeout
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import OperationFailure, PyMongoError

from vibetuner.config import get_settings
from vibetuner.errors import ServiceUnavailable, TaskError
from vibetuner.redis import answer_seconds
from vibetuner.resources.mongo import unreachable
from vibetuner.resources.slots import mongo_database
from vibetuner.tasks.outbox.row import DURABLE_END, TABLE, Row

NO_TRANSACTIONS = 20  # IllegalOperation: the server is not a replica set
PASSING = "TransientTransactionError"
FIELDS = [name for name in Row.__slots__ if name != "task_id"]


class MongoUnavailable(ServiceUnavailable, PyMongoError):  # noqa: N818 - as its base
    """MongoDB can't be used; ``with_transaction()`` repeats only what raises a PyMongoError."""


class MongoOutbox:
    """The collection, in the database that is open here; its methods are those of ``Store``."""

    async def add(self, row: Row, session: AsyncClientSession) -> tuple[str, str | None] | None:
        """Implement :meth:`Store.add`.

        Raises:
            ServiceUnavailable: MongoDB does not answer, or refuses.
            TaskError: the session has no transaction, is of another server, or the server does not
                support transactions.
        """
        if not session.in_transaction:
            raise TaskError(
                "within() takes a MongoDB session in a transaction, and this one is in none. "
                "Begin one:  async with await session.start_transaction():"
            )
        if session.client != mongo_database.get().client:  # those of one server are equal
            raise TaskError(
                "within() takes a session of the server of MONGODB_URL. Start one with  "
                "mongo_database.get().client.start_session()  (from vibetuner.resources.slots)"
            )
        values = {name: getattr(row, name) for name in FIELDS}
        with _answering():
            if row.key and (
                found := await _rows(session).find_one({"key": row.key}, ["call"], session=session)
            ):
                return str(found["_id"]), str(found["call"])
            # An insert of a known id would end the transaction.
            added = await _rows(session).update_one(
                {"_id": row.task_id}, {"$setOnInsert": values}, upsert=True, session=session
            )
        return (row.task_id, None) if added.matched_count else None

    async def remove(self, task_id: str, session: AsyncClientSession) -> None:
        with _answering():
            await _rows(session).delete_one({"_id": task_id}, session=session)

    def on_commit(self, session: AsyncClientSession, hear: Callable[[], None]) -> None:
        """Implement :meth:`Store.on_commit`.

        PyMongo has no event, so the session's methods are wrapped until the transaction ends.
        """
        hooks = session.__dict__.setdefault(TABLE, [])
        hooks.append(hear)
        if len(hooks) == 1:
            _wrap(session, hooks)

    async def read(
        self, task_ids: Sequence[str] | None, limit: int, *, durable: bool | None = None
    ) -> list[Row]:
        query: dict[str, Any] = {} if task_ids is None else {"_id": {"$in": list(task_ids)}}
        if durable is not None:
            is_durable = {"$regex": f"{re.escape(DURABLE_END)}$"}
            query["options"] = is_durable if durable else {"$not": is_durable}
        found = _rows().find(query).sort("created_at", 1).limit(limit)
        return [
            Row(one["_id"], *(one.get(name) for name in FIELDS))  # type: ignore[arg-type]
            async for one in found
        ]

    async def ids(self, beginning: str, limit: int) -> list[str]:
        same = {"_id": {"$regex": f"^{re.escape(beginning)}"}}
        return [str(one["_id"]) async for one in _rows().find(same, ["_id"]).limit(limit)]

    async def delete(self, task_ids: Sequence[str]) -> None:
        await _rows().delete_many({"_id": {"$in": list(task_ids)}})

    async def waiting(self) -> tuple[int, datetime | None]:
        oldest = await _rows().find_one({}, ["created_at"], sort=[("created_at", 1)])
        number = await _rows().count_documents({})
        return number, oldest["created_at"] if oldest else None


@contextmanager
def _answering() -> Iterator[None]:
    """Limit the steps in a transaction, and translate their errors.

    A conflict of two transactions is raised as it is, so that the caller can repeat one.
    """
    try:
        with timeout(answer_seconds()):
            yield
    except PyMongoError as error:
        if isinstance(error, OperationFailure):
            if error.code == NO_TRANSACTIONS:
                raise TaskError(
                    "within() needs transactions, which this MongoDB does not have, as it is no "
                    "replica set. Start it with --replSet rs0 and run rs.initiate()"
                ) from error
            if error.has_error_label(PASSING):
                raise
        labels = [PASSING] if error.has_error_label(PASSING) else []
        raise MongoUnavailable(unreachable(get_settings(), error), labels) from error


def _wrap(session: AsyncClientSession, hooks: list[Callable[[], None]]) -> None:
    """Call the hooks after the commit; forget them with an abort, or one session's next commit."""
    commit, abort = session.commit_transaction, session.abort_transaction

    def unwrap() -> None:
        for name in (TABLE, "commit_transaction", "abort_transaction"):
            session.__dict__.pop(name, None)

    async def commit_and_call() -> None:
        unwrap()
        await commit()
        for hear in hooks:
            hear()

    async def abort_and_forget() -> None:
        unwrap()
        await abort()

    session.__dict__.update(commit_transaction=commit_and_call, abort_transaction=abort_and_forget)


def _rows(session: AsyncClientSession | None = None) -> AsyncCollection[dict[str, Any]]:
    """Return the collection, of the client that the session belongs to."""
    database = mongo_database.get()
    return database[TABLE] if session is None else session.client[database.name][TABLE]
