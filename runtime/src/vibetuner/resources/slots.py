"""The open connection to each database; importing this module loads no driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vibetuner.config import get_settings
from vibetuner.errors import NotConfigured, ServiceUnavailable, VibetunerError
from vibetuner.redis import REDIS_MISSING
from vibetuner.state import Slot

if TYPE_CHECKING:
    from pymongo.asynchronous.database import AsyncDatabase
    from sqlalchemy.ext.asyncio import AsyncEngine
    from streaq import Worker

MONGO_MISSING = "MongoDB not configured. Add to .env:  MONGODB_URL=mongodb://localhost:27017"
SQL_MISSING = (
    "SQL database not configured. Add to .env:  DATABASE_URL=sqlite+aiosqlite:///.vibetuner/app.db"
)
QUEUE_CLOSED = (
    "The queue is not open here. In a script:  async with open_queue(): "
    "(from vibetuner.tasks.worker)"
)


def no_queue() -> VibetunerError:
    """Return the error for using a queue that is not open."""
    if get_settings().redis_url:
        return ServiceUnavailable(QUEUE_CLOSED)
    return _not_configured(REDIS_MISSING, "vibetuner_worker")


def _not_configured(message: str, fixture: str) -> NotConfigured:
    """Return the error for an empty setting, which a fixture sets in a test."""
    if get_settings().environment == "test":
        message += f" (in a test, request the fixture {fixture})"
    return NotConfigured(message)


mongo_database: Slot[AsyncDatabase[dict[str, Any]]] = Slot(
    lambda: _not_configured(MONGO_MISSING, "vibetuner_db"), name="MongoDB"
)
sql_engine: Slot[AsyncEngine] = Slot(
    lambda: _not_configured(SQL_MISSING, "vibetuner_sql"), name="The SQL database"
)
task_queue: Slot[Worker[Any]] = Slot(no_queue, name="The queue")
