"""Tickets that were taken back before they expired, whoever has a copy of them."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import cache

from coredis.exceptions import RedisError

from vibetuner.config import get_settings
from vibetuner.errors import VibetunerError, first_line
from vibetuner.frontend.debug.tickets import Ticket
from vibetuner.redis.keys import Keys
from vibetuner.tasks.worker import get_worker

__all__ = ["Revoked", "get_revoked"]

logger = logging.getLogger(__name__)

# What a page may wait for the answer; one about a Redis that is away has its own time to take.
SECONDS = 0.5
OUTAGES = (RedisError, OSError, VibetunerError, ExceptionGroup)


class Revoked:
    """Remembers tickets until they expire: in Redis for all processes, and here.

    Redis has no say while it does not answer: what it keeps from those who look after it would be
    the page that tells them so.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    async def add(self, ticket: Ticket) -> None:
        """Take a ticket back; where Redis does not answer, before this process alone."""
        now = time.monotonic()
        self._until = {name: until for name, until in self._until.items() if until > now}
        self._until[ticket.id] = now + ticket.seconds
        try:
            async with asyncio.timeout(SECONDS):
                await get_worker().redis.set(_key(ticket), "1", ex=int(ticket.seconds) + 1)
        except OUTAGES as error:
            logger.warning(
                "a ticket to /debug is taken back in this process alone, as Redis did not hear "
                "of it: %s",
                first_line(error),
            )

    async def holds(self, ticket: Ticket) -> bool:
        """Whether a ticket was taken back."""
        if ticket.id in self._until:
            return True
        try:
            async with asyncio.timeout(SECONDS):
                return bool(await get_worker().redis.exists([_key(ticket)]))
        except OUTAGES:
            return False


@cache
def get_revoked() -> Revoked:
    """What this process remembers."""
    return Revoked()


def _key(ticket: Ticket) -> str:
    return Keys(get_settings().redis_key_prefix).revoked(ticket.id)
