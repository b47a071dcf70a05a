"""The package that talks to Redis: its address, connections, functions and key names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vibetuner.errors import NotConfigured
from vibetuner.state import Slot, request_seconds

if TYPE_CHECKING:
    from coredis import Redis

REDIS_MISSING = (
    "Background tasks: Redis not configured. Add to .env:  REDIS_URL=redis://localhost:6379"
)

#: The client that a process shares while a lifespan is open.
redis_client: Slot[Redis[str]] = Slot(lambda: NotConfigured(REDIS_MISSING), name="Redis")

ANSWER_SECONDS = 10.0


def answer_seconds() -> float:
    """Return the seconds that a server has to answer, beyond the time that a command may block."""
    return request_seconds.get() or ANSWER_SECONDS
