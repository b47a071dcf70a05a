"""The SQL database of a run: orders, and the outbox beside them."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from vibetuner.config import Settings, using_settings
from vibetuner.resources.sql import create_schema
from vibetuner.tasks.outbox.row import TABLE
from vibetuner.tasks.outbox.sql import Outbox

__all__ = ["make_outbox", "outbox_url", "waiting"]

ORDERS = "CREATE TABLE orders (number TEXT PRIMARY KEY)"


def outbox_url(folder: Path) -> str:
    """Return the value of DATABASE_URL."""
    return f"sqlite+aiosqlite:///{folder / 'chaos.db'}"


async def make_outbox(settings: Settings) -> None:
    """Create the tables."""
    with using_settings(settings):
        await create_schema(settings, [Outbox])
    with closing(sqlite3.connect(_path(settings))) as connection:
        connection.execute(ORDERS)


async def waiting(settings: Settings) -> set[str]:
    """Return the tasks that were committed and not handed on."""

    def read() -> set[str]:
        with closing(sqlite3.connect(_path(settings))) as connection:
            return {row[0] for row in connection.execute(f"SELECT task_id FROM {TABLE}")}  # noqa: S608

    return await asyncio.to_thread(read) if settings.database_url else set()


def _path(settings: Settings) -> str:
    return str(make_url(settings.database_url or "").database)
