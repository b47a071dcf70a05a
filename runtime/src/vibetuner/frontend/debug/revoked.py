"""Tickets that were revoked before they expired, including all copies."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import cache

from coredis.exceptions import RedisError

from vibetuner.config import get_settings
from vibetuner.errors import NotConfigured, VibetunerError, first_line
from vibetuner.frontend.debug.tickets import Ticket
from vibetuner.redis.keys import Keys
from vibetuner.tasks.worker import get_worker

__all__ = ["Revoked", "get_revoked"]

logger = logging.getLogger(__name__)

# The time that a page may wait for the reply; the pages about a failing Redis need time, too.
SECONDS = 0.5
AGAIN_SECONDS = 2.0
OUTAGES = (RedisError, OSError, VibetunerError, ExceptionGroup)


class Revoked:
    """Remembers revoked tickets until they expire: in Redis for all processes, and here.

    While Redis does not answer, its revocations don't count: otherwise the people who look after
    Redis could not open the page that reports the outage. Revocations that could not be written are
    written again until Redis takes them.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._untold: dict[str, float] = {}
        self._telling: asyncio.Task[None] | None = None

    async def add(self, ticket: Ticket) -> None:
        """Revoke a ticket; if Redis does not answer, other processes learn of it later."""
        now = time.monotonic()
        self._until = {name: until for name, until in self._until.items() if until > now}
        self._until[ticket.id] = now + ticket.seconds
        try:
            await self._tell(ticket.id)
        except NotConfigured:
            pass  # no other process shares the tickets
        except OUTAGES as error:
            logger.warning(
                "a ticket to /debug is revoked in this process, and in others once Redis answers: "
                "%s",
                first_line(error),
            )
            self._untold[ticket.id] = self._until[ticket.id]
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._tell_later())

    async def holds(self, ticket: Ticket) -> bool:
        """Return whether a ticket was revoked."""
        if ticket.id in self._until:
            return True
        try:
            async with asyncio.timeout(SECONDS):
                return bool(await get_worker().redis.exists([_key(ticket.id)]))
        except OUTAGES:
            return False

    async def _tell(self, ticket_id: str) -> None:
        left = self._until[ticket_id] - time.monotonic()
        async with asyncio.timeout(SECONDS):
            await get_worker().redis.set(_key(ticket_id), "1", ex=max(1, int(left) + 1))

    async def _tell_later(self) -> None:
        while self._untold:
            await asyncio.sleep(AGAIN_SECONDS)
            for ticket_id, until in tuple(self._untold.items()):
                with suppress(*OUTAGES):
                    if until > time.monotonic():
                        await self._tell(ticket_id)
                    del self._untold[ticket_id]


@cache
def get_revoked() -> Revoked:
    """Return the revocations that this process remembers."""
    return Revoked()


def _key(ticket_id: str) -> str:
    return Keys(get_settings().redis_key_prefix).revoked(ticket_id)
