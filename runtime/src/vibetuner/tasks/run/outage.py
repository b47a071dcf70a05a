"""Waits while the connection is lost, with a log line at the loss and one at the recovery."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from coredis.exceptions import ConnectionError as Disconnected

from vibetuner.errors import first_line
from vibetuner.timing import backoff

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0


class Outage:
    """The server's absence, shared by all loops of one worker.

    Running tasks go on meanwhile; their ends are recorded when the server is back.
    """

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()
        self._reported: set[str] = set()

    async def wait(self, error: Exception) -> None:
        """Report a failure, and pause before the next try: 50 ms at first, at most 2 s.

        A loss and a refusal that lasts are reported once each: a server that ends a connection may
        refuse the next one, as after a change of its password.
        """
        what = "lost Redis" if isinstance(error, Disconnected | OSError) else "Redis refuses"
        self._failures[what] += 1
        # A single refusal after a loss is a part of the return: a stream that is not there yet.
        if what not in self._reported and (not self._reported or self._failures[what] > 1):
            self._reported.add(what)
            logger.warning("%s (%s); running tasks go on, trying again", what, first_line(error))
        await asyncio.sleep(backoff(self._failures.total(), FIRST_PAUSE, LONGEST_PAUSE))

    def over(self) -> None:
        """Report that the server has answered."""
        if self._failures:
            self._failures.clear()
            self._reported.clear()
            logger.info("Redis is back")
