"""The rows that wait in the outbox, and the workers that hand them on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module

from vibetuner.config import get_settings
from vibetuner.errors import VibetunerError
from vibetuner.project import worker_command
from vibetuner.resources.slots import sql_engine
from vibetuner.tasks.outbox.row import ANSWER_SECONDS, open_stores
from vibetuner.timing import duration

# Longer than a worker's relay ever leaves a row waiting.
RELAY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Outbox:
    """The rows that wait in the outboxes of the open databases.

    >>> Outbox(0, 0.0).is_stuck, Outbox(3, 60.0).is_stuck
    (False, True)
    """

    waiting: int
    oldest_seconds: float

    @property
    def is_stuck(self) -> bool:
        """Return whether no worker's relay runs, or Redis refuses the tasks."""
        return self.waiting > 0 and self.oldest_seconds > RELAY_SECONDS

    @property
    def text(self) -> str:
        """Return the state in words.

        >>> Outbox(3, 120.0).text
        '3 in the outbox, the oldest for 2 min 0 s: no worker hands them on'
        """
        if not self.waiting:
            return "0 in the outbox"
        stuck = ": no worker hands them on" if self.is_stuck else ""
        return (
            f"{self.waiting} in the outbox, the oldest for "
            f"{duration(self.oldest_seconds * 1000)}{stuck}"
        )

    @property
    def cure(self) -> str:
        """Return the cure if it is stuck."""
        start = worker_command(get_settings().environment)
        return f"look at Redis and at the workers' logs, or start one:  {start}"


async def read_outbox() -> Outbox | None:
    """Return the waiting rows; None if no open database has an outbox, or none answers."""
    try:
        stores = open_stores()
        async with asyncio.timeout(ANSWER_SECONDS):
            found = [await store.waiting() for store in stores]
    except Exception:  # noqa: BLE001 - a look at the queue goes on without
        return None
    if not found:
        return None
    times = [oldest for _, oldest in found if oldest is not None]
    now = datetime.now(UTC)
    oldest = max(((now - time).total_seconds() for time in times), default=0.0)
    return Outbox(sum(number for number, _ in found), max(oldest, 0.0))


@asynccontextmanager
async def open_outbox() -> AsyncIterator[None]:
    """Open the SQL database for a command, if one is configured and answers."""
    async with AsyncExitStack() as stack:
        settings = get_settings()
        if settings.database_url and sql_engine.peek() is None:
            # Imported here, so that a process loads only the drivers that it uses.
            sql = import_module("vibetuner.resources.sql")
            with suppress(VibetunerError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await stack.enter_async_context(sql.open_sql(settings))
        yield
