"""Hands out what has begun to the slots of a worker."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from streaq.types import StreamMessage

__all__ = ["Begun", "Slots"]

# In one turn of the loop no more than a half begins: the server begins and ends their tasks while
# those of the other half run here.
PORTIONS = 2


class Begun(NamedTuple):
    """A message that this worker has begun, or that another has taken over: then ``tries`` is 0.

    What was begun ahead of a slot is to be run ``until`` a moment of the loop's clock.
    """

    message: StreamMessage
    payload: bytes | None = None
    tries: int = 0
    aborted: int = 0
    until: float = 0


class Slots:
    """The slots that are free, and what waits for one."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.portion = max(1, count // PORTIONS)
        self._left = self.portion
        self._turning = False
        self._waking = False
        self._stopped = False
        self._begun: deque[Begun] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()

    def put(self, begun: Begun) -> None:
        """Hand this out when a slot is free."""
        self._begun.append(begun)
        self._wake()

    async def next(self) -> Begun | None:
        """The next one for a free slot; None when there will be no more."""
        while not self._stopped:
            if self._begun and self._left:
                begun = self._begun.popleft()
                self._left -= 1
                if not self._turning:
                    self._turning = True
                    self._loop.call_soon(self._turn)
                self._wake()
                return begun
            idle = self._loop.create_future()
            self._idle.append(idle)
            try:
                await idle
            finally:
                self._waking = False
        return None

    def take_old(self, now: float) -> list[Begun]:
        """What was to be run until before this moment; it is not handed out."""
        old = [begun for begun in self._begun if 0 < begun.until < now]
        self._begun = deque(begun for begun in self._begun if begun not in old)
        return old

    def stop(self) -> list[Begun]:
        """Hand out nothing more; returns what was not."""
        self._stopped = True
        for idle in self._idle:
            if not idle.done():
                idle.set_result(None)
        left = list(self._begun)
        self._begun.clear()
        return left

    def _turn(self) -> None:
        self._turning = False
        self._left = self.portion
        self._wake()

    def _wake(self) -> None:
        """Wake a slot, which wakes the next; a task that waits for nothing leaves its own free."""
        if self._waking or not (self._left and self._begun):
            return
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                self._waking = True
                return
