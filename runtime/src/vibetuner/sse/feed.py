"""One channel inside a process: its latest events, and how far each subscriber has come.

The events stand in one queue that all subscribers read, each at a place of its own. It is bounded,
and so is what a subscriber can be behind: who falls off its end is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice

from vibetuner.sse.event import RESET, Event, Place, parse_id

__all__ = ["BACKLOG", "Feed", "Subscriber"]

# How far a subscriber may be behind, in events and in bytes.
BACKLOG = 256
BACKLOG_BYTES = 1_000_000

# What is sent at once; a browser that is slow holds so much of the process's memory.
BATCH_BYTES = 64_000


class Feed:
    """The queue of one channel."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        # Up to which id it is heard; before the first event, where the first subscriber began.
        self.cursor = ""
        self.subscribers: set[Subscriber] = set()
        self.start = 0
        self.events: deque[Event] = deque()
        self._last: Place | None = None
        self._size = 0
        self._batches: dict[int, tuple[bytes, int]] = {}

    @property
    def end(self) -> int:
        """The place behind the last event."""
        return self.start + len(self.events)

    def join(self) -> Subscriber:
        """A subscriber who hears what comes from now on."""
        subscriber = Subscriber(self)
        self.subscribers.add(subscriber)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """Forget a subscriber."""
        self.subscribers.discard(subscriber)

    def begin(self, cursor: str) -> None:
        """Note from where a subscriber listens; of several, the earliest counts."""
        if self._last is None and (not self.cursor or _place(cursor) < _place(self.cursor)):
            self.cursor = cursor

    def add(self, event: Event) -> bool:
        """Queue an event; False when it was heard before."""
        if event.id:
            if self._last is not None and event.place <= self._last:
                return False
            self.cursor, self._last = event.id, event.place
        self.events.append(event)
        self._size += len(event.frame)
        self._batches.clear()
        while len(self.events) > BACKLOG or (self._size > BACKLOG_BYTES and len(self.events) > 1):
            self._drop_first()
        return True

    def restart(self, event: Event) -> None:
        """Queue an event that begins a new order of ids."""
        self._last = None
        self.add(event)

    def wake(self, *, trim: bool = False) -> None:
        """Let every subscriber look; with ``trim`` drop first what all of them have had."""
        if trim and self.events:
            first = min((s.position for s in self.subscribers), default=self.end)
            while self.start < first:
                self._drop_first()
        for subscriber in self.subscribers:
            subscriber.wake()

    def batch(self, position: int) -> tuple[bytes, int]:
        """The next events as bytes, and the place behind them; joined once for all who ask."""
        known = self._batches.get(position)
        if known is None:
            frames: list[bytes] = []
            size = 0
            for event in islice(self.events, position - self.start, None):
                if frames and size + len(event.frame) > BATCH_BYTES:
                    break
                frames.append(event.frame)
                size += len(event.frame)
            known = self._batches[position] = (b"".join(frames), position + len(frames))
        return known

    def _drop_first(self) -> None:
        self._size -= len(self.events.popleft().frame)
        self.start += 1
        self._batches.clear()


class Subscriber:
    """One open connection, and its place in the queue."""

    __slots__ = ("_after", "_feed", "_waiter", "closed", "position")

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._waiter: asyncio.Future[None] | None = None
        self._after: Place | None = None
        self.position = feed.end
        self.closed = False

    @property
    def channel(self) -> str:
        """What it listens to."""
        return self._feed.channel

    def begin_after(self, event_id: str) -> None:
        """Skip queued events up to this id: it has had them from the history."""
        self._after = parse_id(event_id)
        self._feed.begin(event_id)

    def close(self) -> None:
        """End the stream after what is queued."""
        self.closed = True
        self.wake()

    def wake(self) -> None:
        """Let it look whether there is something to send."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until it is closed."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not self.closed:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._wait()
            except TimeoutError:
                return

    async def batch(self) -> bytes | None:
        """The bytes to send next; none after a span of silence, None at the stream's end."""
        if not self._is_behind() and not self.closed:
            await self._wait()
        if self._is_over():
            return None
        if self._after is not None:
            return b"".join([event.frame for event in self._take()])
        data, self.position = self._feed.batch(self.position)
        return data

    async def events(self) -> list[Event] | None:
        """As :meth:`batch`, not encoded."""
        if not self._is_behind() and not self.closed:
            await self._wait()
        return None if self._is_over() else self._take()

    def _is_behind(self) -> bool:
        return self.position != self._feed.end

    def _is_over(self) -> bool:
        """Whether nothing more comes: it was overtaken, or closed and is at the end."""
        return self.position < self._feed.start or (self.closed and not self._is_behind())

    def _take(self) -> list[Event]:
        feed = self._feed
        events = list(islice(feed.events, self.position - feed.start, None))
        self.position = feed.end
        return [event for event in events if self._is_new(event)]

    def _is_new(self, event: Event) -> bool:
        if self._after is not None and event.id and event.name != RESET:
            if event.place <= self._after:
                return False
            self._after = None
        return True

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


def _place(event_id: str) -> Place:
    return parse_id(event_id) or (0, 0)
