"""The database of a run: orders, and the outbox beside them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

from pymongo import AsyncMongoClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from vibetuner.config import Settings, using_settings
from vibetuner.resources.slots import mongo_database
from vibetuner.resources.sql import create_schema, open_session
from vibetuner.tasks.outbox.row import TABLE
from vibetuner.tasks.outbox.sql import Outbox

__all__ = ["Database", "filled", "make_outbox", "small_disk", "transaction", "waiting"]

Database = Literal["sqlite", "postgresql", "mongodb"]

CREATE = text("CREATE TABLE orders (number VARCHAR PRIMARY KEY)")
INSERT = text("INSERT INTO orders (number) VALUES (:number)")
DISK_BYTES = 8_000_000


async def make_outbox(settings: Settings) -> None:
    """Create the tables; MongoDB creates its collections itself."""
    if not settings.database_url:
        return
    with using_settings(settings):
        await create_schema(settings, [Outbox])
    engine = create_async_engine(settings.database_url)
    async with engine.begin() as connection:
        await connection.execute(CREATE)
    await engine.dispose()


async def waiting(settings: Settings) -> set[str]:
    """Return the tasks that were committed and not handed on."""
    if not settings.database_url:
        async with AsyncMongoClient[dict[str, Any]](settings.mongodb_url) as client:
            rows = client.get_default_database()[TABLE]
            return {row["_id"] async for row in rows.find({}, ["_id"])}
    engine = create_async_engine(settings.database_url)
    async with engine.connect() as connection:
        found = await connection.execute(text(f"SELECT task_id FROM {TABLE}"))  # noqa: S608
        ids = {row[0] for row in found}
    await engine.dispose()
    return ids


@asynccontextmanager
async def transaction(
    order: str | None, *, in_mongodb: bool
) -> AsyncIterator[tuple[Any, Callable[[], Awaitable[None]]]]:
    """Store an order in a transaction; yield the session, and the function that commits it."""
    if not in_mongodb:
        async with open_session() as session:
            if order:
                await (await session.connection()).execute(INSERT, {"number": order})
            yield session, session.commit
        return
    database = mongo_database.get()
    async with database.client.start_session() as mongo:
        await mongo.start_transaction()
        if order:
            await database["orders"].insert_one({"_id": order}, session=mongo)

        async def commit() -> None:
            await mongo.commit_transaction()  # which within() has replaced

        yield mongo, commit


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk on a new folder, if this user may; yield whether that was done."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    is_small = (
        os.geteuid() == 0 and subprocess.run(["mount", *options], check=False).returncode == 0
    )
    try:
        yield is_small
    finally:
        if is_small:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Fill the small disk for the length of the block."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(b"x" * 4096)
                except OSError:
                    break
        yield
    finally:
        filler.unlink()
