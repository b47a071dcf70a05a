"""Queues delayed tasks at the moment that they are due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from vibetuner.tasks.fast.library import Library

__all__ = ["DueClock"]

# A stock client of streaq's tells nobody of a delayed task; this is how late it can be noticed.
LONGEST_SLEEP_SECONDS = 0.5


class DueClock:
    """Sleeps until the next task is due, or until one is delayed for less."""

    def __init__(self, library: Library, prefix: str, priorities: Sequence[str]) -> None:
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
            pause = LONGEST_SLEEP_SECONDS
            if soonest is not None:
                pause = min(pause, max(0.0, float(soonest) / 1000 - time.time()))
            timer = asyncio.get_running_loop().call_later(pause, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                timer.cancel()
