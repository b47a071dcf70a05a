"""The package that talks to Redis: its address, connections, functions and key names."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from vibetuner.errors import NotConfigured
from vibetuner.state import Slot

if TYPE_CHECKING:
    from coredis import Redis

__all__ = ["ANSWER_SECONDS", "REDIS_MISSING", "answer_seconds", "redis_client"]

REDIS_MISSING = (
    "Background tasks: Redis not configured. Add to .env:  REDIS_URL=redis://localhost:6379"
)

#: The client that a process shares while a lifespan is open.
redis_client: Slot[Redis[str]] = Slot(lambda: NotConfigured(REDIS_MISSING), name="Redis")

ANSWER_SECONDS = 10.0

#: Seconds that a command may take, beyond the time it blocks for, on connections opened in this
#: context. Code that answers requests sets fewer.
answer_seconds: ContextVar[float] = ContextVar("answer_seconds", default=ANSWER_SECONDS)
