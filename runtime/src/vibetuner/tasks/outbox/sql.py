"""The outbox in the SQL database: list :class:`Outbox` in ``sql_models=`` of tune.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from importlib import import_module

from sqlalchemy import Engine, LargeBinary, Text, event, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlmodel import Field, SQLModel, col, delete, select

from vibetuner.errors import TaskError
from vibetuner.resources.schema import UtcDateTime
from vibetuner.resources.slots import sql_engine
from vibetuner.tasks.outbox.row import DURABLE_END, TABLE, Row

__all__ = ["Outbox", "SqlOutbox"]

LONGEST_ID = 64


class Outbox(SQLModel, table=True):
    """A call of a task that is enqueued once its transaction is committed."""

    __tablename__ = TABLE

    task_id: str = Field(primary_key=True, max_length=LONGEST_ID)
    name: str = Field(sa_type=Text)
    payload: bytes = Field(sa_type=LargeBinary)
    options: str = Field(sa_type=Text)
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)
    key: str | None = Field(default=None, unique=True, max_length=500)
    keep: int = 0
    call: str | None = Field(default=None, sa_type=Text)


FIELDS = [getattr(Outbox, name) for name in Row.__slots__]


class SqlOutbox:
    """The table, in the database whose engine is open here."""

    async def add(self, row: Row, session: AsyncSession) -> tuple[str, str | None] | None:
        """Implement :meth:`Store.add`; wait for another transaction with the same key.

        Raises:
            TaskError: the session is of another database, or the id too long for the table.
        """
        if len(row.task_id) > LONGEST_ID:  # an error of the server would end the transaction
            raise TaskError(
                f"{row.name}: with within(session), an id takes up to {LONGEST_ID} characters, not "
                f"{len(row.task_id)}"
            )
        engine = sql_engine.get().sync_engine
        bound = session.sync_session.get_bind().engine
        if not _is_same(bound, engine):
            raise TaskError(
                "within() takes a session of the database of DATABASE_URL, not of "
                f"{bound.url!r}. Open one with open_session()"
            )
        connection = await session.connection()
        values = {name: getattr(row, name) for name in Row.__slots__}
        dialect = import_module(f"sqlalchemy.dialects.{engine.dialect.name}")  # no other's: 8 MB
        statement = dialect.insert(Outbox).on_conflict_do_nothing()
        while not (await connection.execute(statement, values)).rowcount:
            same = (col(Outbox.task_id) == row.task_id) | (col(Outbox.key) == row.key)
            known = (
                select(Outbox.task_id, Outbox.call, Outbox.key)
                .where(same)
                .order_by(col(Outbox.key) != row.key)
            )
            # The other row may have been handed on and deleted in between.
            if found := (await connection.execute(known)).first():
                return str(found[0]), found[1] if found[2] == row.key else None
        return None

    async def remove(self, task_id: str, session: AsyncSession) -> None:
        """Implement :meth:`Store.remove`."""
        statement = delete(Outbox).where(col(Outbox.task_id) == task_id)
        await (await session.connection()).execute(statement)

    def on_commit(self, session: AsyncSession, hear: Callable[[], None]) -> None:
        """Implement :meth:`Store.on_commit`; committing a savepoint does not count."""
        savepoint = session.sync_session.get_nested_transaction()
        session.sync_session.info.setdefault(TABLE, []).append((savepoint, hear))
        for name, listener in LISTENERS.items():
            if not event.contains(session.sync_session, name, listener):
                event.listen(session.sync_session, name, listener)

    async def read(
        self, task_ids: Sequence[str] | None, limit: int, *, durable: bool | None = None
    ) -> list[Row]:
        """Implement :meth:`Store.read`."""
        statement = select(*FIELDS).order_by(col(Outbox.created_at)).limit(limit)
        if task_ids is not None:
            statement = statement.where(col(Outbox.task_id).in_(task_ids))
        if durable is not None:
            is_durable = col(Outbox.options).endswith(DURABLE_END)
            statement = statement.where(is_durable if durable else ~is_durable)
        async with sql_engine.get().connect() as connection:
            return [Row(*found) for found in await connection.execute(statement)]

    async def ids(self, beginning: str, limit: int) -> list[str]:
        """Implement :meth:`Store.ids`."""
        same = col(Outbox.task_id).startswith(beginning, autoescape=True)
        async with sql_engine.get().connect() as connection:
            found = await connection.execute(select(Outbox.task_id).where(same).limit(limit))
            # SQLite's LIKE ignores the case.
            return [one for one in found.scalars() if one.startswith(beginning)]

    async def delete(self, task_ids: Sequence[str]) -> None:
        """Implement :meth:`Store.delete`."""
        async with sql_engine.get().begin() as connection:
            await connection.execute(delete(Outbox).where(col(Outbox.task_id).in_(task_ids)))

    async def waiting(self) -> tuple[int, datetime | None]:
        """Implement :meth:`Store.waiting`."""
        statement = select(func.count(), func.min(Outbox.created_at))
        async with sql_engine.get().connect() as connection:
            number, oldest = (await connection.execute(statement)).one()
        return number, oldest


def _is_same(one: Engine, other: Engine) -> bool:
    """Return whether two engines are of one database; each has a memory of its own."""
    in_memory = one.url.database in {None, "", ":memory:"}
    return one is other or (one.url == other.url and not in_memory)


def _call_hooks(session: Session) -> None:
    if not session.in_nested_transaction():
        for _, hear in session.info.pop(TABLE, ()):
            hear()


def _drop_hooks(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(TABLE, None)


def _drop_hooks_of(session: Session, transaction: SessionTransaction) -> None:
    """Drop the hooks of a savepoint that was rolled back, and of those that were in it."""
    if hooks := session.info.get(TABLE):
        hooks[:] = [hook for hook in hooks if transaction not in _with_outer(hook[0])]


def _with_outer(transaction: SessionTransaction | None) -> Iterator[SessionTransaction]:
    while transaction is not None:
        yield transaction
        transaction = transaction.parent


LISTENERS: dict[str, Callable[..., None]] = {
    "after_commit": _call_hooks,
    "after_transaction_end": _drop_hooks,
    "after_soft_rollback": _drop_hooks_of,
}
