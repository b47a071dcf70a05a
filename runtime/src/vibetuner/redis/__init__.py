"""The one package that speaks to Redis: its address, connections, functions and key names."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from vibetuner.errors import NotConfigured, ServiceUnavailable
from vibetuner.state import Slot

if TYPE_CHECKING:
    from coredis import Redis

__all__ = ["REDIS_MISSING", "answer_seconds", "late", "redis_client"]

REDIS_MISSING = (
    "Background tasks: Redis not configured. Add to .env:  REDIS_URL=redis://localhost:6379"
)

#: The client that a process shares while a lifespan is open.
redis_client: Slot[Redis[str]] = Slot(lambda: NotConfigured(REDIS_MISSING))

#: How long a command may take on what is opened in this context; None for any time. Whoever
#: answers requests sets it.
answer_seconds: ContextVar[float | None] = ContextVar("answer_seconds", default=None)


def late(seconds: float) -> ServiceUnavailable:
    """Return the error for a command that was not answered in time."""
    return ServiceUnavailable(
        f"Redis has not answered within {seconds:g} s. Check that it runs and is not busy:  "
        "vibetuner doctor"
    )
