"""Queues delayed tasks at the moment that they are due."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

from vibetuner.redis.functions import Functions

__all__ = ["DueClock"]

# A stock client of streaq's tells nobody of a delayed task; this is how late it can be noticed.
LONGEST_SLEEP_SECONDS = 0.5
# An event loop sleeps in whole milliseconds, rounded up; the last one is waited out turn by turn.
TICK_SECONDS = 0.001


class DueClock:
    """Sleeps until the next task is due, or until one is delayed for less."""

    def __init__(self, library: Functions, prefix: str, priorities: Sequence[str]) -> None:
        self.channel = f"{prefix}:delayed"
        self._library = library
        self._prefix = prefix
        self._priorities = list(priorities)
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Tell that something has been delayed."""
        self._woken.set()

    async def run(self) -> None:
        """Queue what is due, for ever."""
        while True:
            self._woken.clear()
            now = int(time.time() * 1000)  # rounded down: nothing is ever early
            values = [now, *self._priorities]
            soonest = await self._library.call("due", (self._prefix,), values)
            await self._sleep(math.inf if soonest is None else float(soonest) / 1000)

    async def _sleep(self, moment: float) -> None:
        """Until that moment, half a second, or until something is delayed."""
        pause = min(LONGEST_SLEEP_SECONDS, max(0.0, moment - time.time() - TICK_SECONDS))
        timer = asyncio.get_running_loop().call_later(pause, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()
        while 0 < moment - time.time() <= TICK_SECONDS:  # noqa: ASYNC110 - no event is so exact
            await asyncio.sleep(0)
