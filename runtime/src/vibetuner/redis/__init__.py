"""The one package that speaks to Redis: its address, connections, functions and key names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vibetuner.errors import NotConfigured
from vibetuner.state import Slot

if TYPE_CHECKING:
    from coredis import Redis

__all__ = ["REDIS_MISSING", "redis_client"]

REDIS_MISSING = (
    "Background tasks: Redis not configured. Add to .env:  REDIS_URL=redis://localhost:6379"
)

#: The client that a process shares while a lifespan is open.
redis_client: Slot[Redis[str]] = Slot(lambda: NotConfigured(REDIS_MISSING))
