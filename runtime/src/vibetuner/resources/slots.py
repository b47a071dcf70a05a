"""What a process has open of each database; light, so that asking loads no driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vibetuner.errors import NotConfigured
from vibetuner.state import Slot

if TYPE_CHECKING:
    from pymongo.asynchronous.database import AsyncDatabase
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["MONGO_MISSING", "SQL_MISSING", "mongo_database", "sql_engine"]

MONGO_MISSING = "MongoDB not configured. Add to .env:  MONGODB_URL=mongodb://localhost:27017"
SQL_MISSING = (
    "SQL database not configured. Add to .env:  DATABASE_URL=sqlite+aiosqlite:///.vibetuner/app.db"
)

mongo_database: Slot[AsyncDatabase[dict[str, Any]]] = Slot(lambda: NotConfigured(MONGO_MISSING))
sql_engine: Slot[AsyncEngine] = Slot(lambda: NotConfigured(SQL_MISSING))
