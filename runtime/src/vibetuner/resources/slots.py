"""The open connection to each database; importing this module loads no driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vibetuner.config import get_settings
from vibetuner.errors import ServiceUnavailable, VibetunerError
from vibetuner.redis import REDIS_MISSING, closed, not_open
from vibetuner.state import Slot

if TYPE_CHECKING:
    from pymongo.asynchronous.database import AsyncDatabase
    from sqlalchemy.ext.asyncio import AsyncEngine
    from streaq import Worker

MONGO_MISSING = "MongoDB not configured. Add to .env:  MONGODB_URL=mongodb://localhost:27017"
SQL_MISSING = (
    "SQL database not configured. Add to .env:  DATABASE_URL=sqlite+aiosqlite:///.vibetuner/app.db"
)
QUEUE_OPENER = "async with open_queue(): (from vibetuner.tasks.worker)"


def no_queue() -> VibetunerError:
    """Return the error for using a queue that is not open."""
    if get_settings().redis_url:
        return ServiceUnavailable(closed("The queue", QUEUE_OPENER, "vibetuner_worker"))
    return not_open("The queue", "redis_url", REDIS_MISSING, "vibetuner_worker")


mongo_database: Slot[AsyncDatabase[dict[str, Any]]] = Slot(
    lambda: not_open("MongoDB", "mongodb_url", MONGO_MISSING, "vibetuner_db"), name="MongoDB"
)
sql_engine: Slot[AsyncEngine] = Slot(
    lambda: not_open("The SQL database", "database_url", SQL_MISSING, "vibetuner_sql"),
    name="The SQL database",
)
task_queue: Slot[Worker[Any]] = Slot(no_queue, name="The queue")
