"""Hands out what has begun to the slots of a worker, in waves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from streaq.types import StreamMessage

__all__ = ["Begun", "Waves"]

# The server begins and ends the tasks of one wave while those of another run here. A task that
# waits for nothing has ended, and that is on its way, some turns of the loop after its slot woke.
WAVES = 4
TURNS = 4


class Begun(NamedTuple):
    """A message that this worker has begun, or that another has taken over: then ``tries`` is 0."""

    message: StreamMessage
    payload: bytes | None = None
    tries: int = 0
    aborted: int = 0


class Waves:
    """Lets a quarter of the slots begin in the same turn of the loop, the next soon after."""

    def __init__(self, slots: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._portion = max(1, slots // WAVES)
        self._left = self._portion
        self._moving = False
        self._stopped = False
        self._begun: deque[Begun] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()

    def put(self, begun: Iterable[Begun]) -> None:
        """Hand these out as slots are free."""
        self._begun.extend(begun)
        self._wake()

    async def next(self) -> Begun | None:
        """The next one for a free slot; None when there will be no more."""
        while not self._stopped:
            if self._begun and self._left:
                self._left -= 1
                if not self._moving:
                    self._moving = True
                    self._after(TURNS, self._next_wave)
                begun = self._begun.popleft()
                self._wake()
                return begun
            idle = self._loop.create_future()
            self._idle.append(idle)
            await idle
        return None

    def stop(self) -> list[Begun]:
        """Hand out nothing more; returns what was not."""
        self._stopped = True
        for idle in self._idle:
            if not idle.done():
                idle.set_result(None)
        left = list(self._begun)
        self._begun.clear()
        return left

    def _next_wave(self) -> None:
        self._moving = False
        self._left = self._portion
        self._wake()

    def _wake(self) -> None:
        """Wake a slot, which wakes the next; a task that waits for nothing leaves its own free."""
        if not (self._left and self._begun):
            return
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                return

    def _after(self, turns: int, callback: Callable[[], None]) -> None:
        """Call it some turns of the loop later."""
        if turns:
            self._loop.call_soon(self._after, turns - 1, callback)
        else:
            callback()
