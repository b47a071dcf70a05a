"""The queue of one channel in a process: its latest events, and each subscriber's position.

All subscribers read one queue, each at its own position. The queue is bounded, and with it the
distance by which a subscriber may be behind: one that falls off its end is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice

from vibetuner.sse.event import RESET, Event, Position, parse_id

# The distance by which a subscriber may be behind, in events and in bytes.
BACKLOG = 256
BACKLOG_BYTES = 1_000_000

# The size of one write; the process holds this much memory for each slow browser.
BATCH_BYTES = 64_000
# Slow subscribers ask for batches at many positions; only the last few are kept.
BATCHES = 8


class Feed:
    """The queue of one channel."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        #: the id of the newest event; before the first event, the earliest id of a subscriber
        self.cursor = ""
        #: how often the relay has subscribed anew, so that events may have passed by unnoticed
        self.gaps = 0
        self.subscribers: set[Subscriber] = set()
        self.start = 0
        self.events: deque[Event] = deque()
        self._last: Position | None = None
        self._size = 0
        self._batches: dict[int, tuple[bytes, int]] = {}

    @property
    def end(self) -> int:
        """The index after the last event."""
        return self.start + len(self.events)

    def join(self) -> Subscriber:
        """Return a subscriber that gets the events from now on."""
        subscriber = Subscriber(self)
        self.subscribers.add(subscriber)
        return subscriber

    def begin(self, cursor: str) -> None:
        """Note the id from which a subscriber listens; the earliest one counts."""
        if self._last is None and (not self.cursor or _position(cursor) < _position(self.cursor)):
            self.cursor = cursor

    def add(self, event: Event, *, anew: bool = False) -> bool:
        """Queue an event; return False if it was queued before.

        With ``anew``, ids may start again from a smaller one.
        """
        if anew:
            self._last = None
        if event.id:
            if self._last is not None and event.position <= self._last:
                return False
            self.cursor, self._last = event.id, event.position
        self.events.append(event)
        self._size += len(event.frame)
        self._batches.clear()
        while len(self.events) > BACKLOG or (self._size > BACKLOG_BYTES and len(self.events) > 1):
            self._drop_first()
        return True

    def wake(self, *, trim: bool = False) -> None:
        """Wake every subscriber; with ``trim``, first drop the events that all have read."""
        if trim and self.events:
            first = min((s.index for s in self.subscribers), default=self.end)
            while self.start < first:
                self._drop_first()
        for subscriber in self.subscribers:
            subscriber.wake()

    def batch(self, index: int) -> tuple[bytes, int]:
        """Return the next events as bytes, and the index after them; shared by all subscribers."""
        known = self._batches.get(index)
        if known is None:
            frames: list[bytes] = []
            size = 0
            for event in islice(self.events, index - self.start, None):
                if frames and size + len(event.frame) > BATCH_BYTES:
                    break
                frames.append(event.frame)
                size += len(event.frame)
            if len(self._batches) >= BATCHES:
                self._batches.clear()
            known = self._batches[index] = (b"".join(frames), index + len(frames))
        return known

    def _drop_first(self) -> None:
        self._size -= len(self.events.popleft().frame)
        self.start += 1
        self._batches.clear()


class Subscriber:
    """One open connection, and the index in the queue that it has reached."""

    __slots__ = ("_after", "_feed", "_waiter", "closed", "index")

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._waiter: asyncio.Future[None] | None = None
        self._after: Position | None = None
        self.index = feed.end
        self.closed = False

    @property
    def channel(self) -> str:
        """The channel's name."""
        return self._feed.channel

    @property
    def gaps(self) -> int:
        """The feed's count of gaps; if it grows while the history is read, read on from there."""
        return self._feed.gaps

    def begin_after(self, event_id: str) -> None:
        """Skip queued events up to this id: the subscriber received them from the history."""
        self._after = parse_id(event_id)
        self._feed.begin(event_id)

    def close(self) -> None:
        """End the stream after the events that are queued."""
        self.closed = True
        self.wake()

    def wake(self) -> None:
        """Make it check for events to send."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def pause(self, seconds: float) -> None:
        """Wait this many seconds, or until it is closed."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not self.closed:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._wait()
            except TimeoutError:
                return

    async def batch(self) -> bytes | None:
        """Return the bytes to send next; empty after a silence, None at the end of the stream."""
        if not await self._has_more():
            return None
        self._skip()
        data, self.index = self._feed.batch(self.index)
        return data

    async def events(self) -> list[Event] | None:
        """Return all queued events; empty after a silence, None at the end of the stream."""
        if not await self._has_more():
            return None
        self._skip()
        events = list(islice(self._feed.events, self.index - self._feed.start, None))
        self.index = self._feed.end
        return events

    async def _has_more(self) -> bool:
        """Wait for an event or a silence; return False if it fell behind, or is closed and done."""
        if self.index == self._feed.end and not self.closed:
            await self._wait()
        if self.index < self._feed.start:
            return False
        return not self.closed or self.index != self._feed.end

    def _skip(self) -> None:
        """Skip the events that the subscriber received from the history."""
        if self._after is None:
            return
        for event in islice(self._feed.events, self.index - self._feed.start, None):
            if not event.id:
                return
            if event.name == RESET or event.position > self._after:
                self._after = None
                return
            self.index += 1

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


def _position(event_id: str) -> Position:
    return parse_id(event_id) or (0, 0)
