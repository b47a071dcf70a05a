"""The package that talks to Redis: its address, connections, functions and key names."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vibetuner.errors import NotConfigured
from vibetuner.state import Slot, request_seconds

if TYPE_CHECKING:
    from coredis import Redis

REDIS_MISSING = (
    "Background tasks: Redis not configured. Add to .env:  REDIS_URL=redis://localhost:6379"
)

IN_A_SCRIPT = "async with base_lifespan(): (from vibetuner.frontend.lifespan)"

ANSWER_SECONDS = 10.0


def answer_seconds() -> float:
    """Return the seconds that a server has to answer, beyond the time that a command may block."""
    return request_seconds.get() or ANSWER_SECONDS


def not_open(name: str, setting: str, missing: str, fixture: str) -> NotConfigured:
    """Return the error for using a client that is not open, by the reason.

    Args:
        name: the outside system, at the beginning of a sentence.
        setting: the field of its URL.
        missing: the message for an empty one.
        fixture: opens it in a test.
    """
    # `worker-health` imports this package, and must not wait for pydantic.
    settings = import_module("vibetuner.config").get_settings()
    if getattr(settings, setting):
        missing = closed(name, IN_A_SCRIPT, fixture)
    elif settings.environment == "test":
        missing += f" (in a test, request the fixture {fixture})"
    return NotConfigured(missing)


def closed(name: str, opener: str, fixture: str) -> str:
    """Return the message for using something configured that no lifespan has opened."""
    return f"{name} is not open here. In a script:  {opener}; in a test: the fixture {fixture}"


#: The client that a process shares while a lifespan is open.
redis_client: Slot[Redis[str]] = Slot(
    lambda: not_open("Redis", "redis_url", REDIS_MISSING, "vibetuner_worker"), name="Redis"
)
