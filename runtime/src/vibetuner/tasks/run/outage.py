"""Waits while the server is lost or refuses, with a log line at the start and one at the end."""

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

    Running tasks go on meanwhile; their ends are recorded when the server is back. It is back once
    each loop that failed has succeeded: a server may refuse the commands of one loop, and run those
    of the others.
    """

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()
        self._failing: Counter[object] = Counter()
        self._reported: set[str] = set()

    async def wait(self, error: Exception, who: object) -> None:
        """Report a failure, and pause before the next try: 50 ms at first, at most 2 s.

        A loss and a refusal that lasts are reported once each: a server that ends a connection may
        refuse the next one, as after a change of its password.

        Args:
            who: the loop that failed, which must call :meth:`over`.
        """
        what = "lost Redis" if isinstance(error, Disconnected | OSError) else "Redis refuses"
        self._failures[what] += 1
        self._failing[who] += 1
        # A single refusal after a loss is a part of the return: a stream that is not there yet.
        if what not in self._reported and (not self._reported or self._failures[what] > 1):
            self._reported.add(what)
            logger.warning("%s (%s); running tasks go on, trying again", what, first_line(error))
        await asyncio.sleep(backoff(self._failing[who], FIRST_PAUSE, LONGEST_PAUSE))

    def over(self, who: object) -> None:
        """Report that the server has answered this loop, or that the loop has given up."""
        if self._failing.pop(who, 0) and not self._failing:
            self._failures.clear()
            self._reported.clear()
            logger.info("Redis is back")
