"""The hub of one process, which passes events to subscribers; it does no I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from vibetuner.sse.event import Event, Position
from vibetuner.sse.feed import Feed, Subscriber
from vibetuner.timing import now_ms

KEEPALIVE_SECONDS = 15.0

# A wake-up costs the same for one event as for twenty, so events that arrive together are sent
# together. While they arrive faster than they are sent, the hub collects them for as long as the
# last wake-up took; otherwise it sends them at once.
COLLECT_SECONDS = 0.002
COLLECT_SECONDS_AT_MOST = 0.05


class Hub:
    """Passes each published event to the subscribers of its channel.

    It lives in one event loop at a time.

    Args:
        keepalive: the seconds of silence after which subscribers are woken.
    """

    def __init__(self, *, keepalive: float = KEEPALIVE_SECONDS) -> None:
        self._feeds: dict[str, Feed] = {}
        self._to_wake: set[Feed] = set()
        self._waiting = 0
        self._keepalive = keepalive
        self._waking: asyncio.TimerHandle | None = None
        self._beating: asyncio.TimerHandle | None = None
        self._next_wake = 0.0
        self._closed = False
        self._last_id: Position = (0, 0)

    def __len__(self) -> int:
        return sum(len(feed.subscribers) for feed in self._feeds.values())

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Accept subscribers for the length of the block, then close those that are left."""
        self._closed = False
        try:
            yield
        finally:
            self.close()

    @contextmanager
    def subscribe(self, channel: str) -> Iterator[Subscriber]:
        """Subscribe to ``channel`` for the length of the block."""
        feed = self._feeds.get(channel)
        if feed is None:
            feed = self._feeds[channel] = Feed(channel)
        subscriber = feed.join()
        if self._closed:
            subscriber.close()
        self._start_beating()
        try:
            yield subscriber
        finally:
            feed.subscribers.discard(subscriber)
            if not feed.subscribers and self._feeds.get(channel) is feed:
                del self._feeds[channel]
                self._to_wake.discard(feed)
            if not self._feeds:
                self._stop_timers()

    def has(self, channel: str) -> bool:
        """Return whether ``channel`` has a subscriber in this process."""
        return channel in self._feeds

    def publish(self, channel: str, event: Event, *, anew: bool = False) -> None:
        """Pass ``event`` to the channel's subscribers, unless they already got it.

        With ``anew``, it reports a gap, and ids may start again from a smaller one.
        """
        feed = self._feeds.get(channel)
        if feed is not None and feed.add(event, anew=anew):
            self._wake_soon(feed)

    def cursors(self) -> dict[str, str]:
        """Return the id that each channel with subscribers has reached, if it is known."""
        return {name: feed.cursor for name, feed in self._feeds.items() if feed.cursor}

    def note_gap(self) -> None:
        """Note that events may have passed by; call it before events are filled in.

        A subscriber that is just reading its id learns from :attr:`Subscriber.gaps` that it must
        read on from there.
        """
        for feed in self._feeds.values():
            feed.gaps += 1

    def next_id(self) -> str:
        """Return an id for an event that doesn't go through Redis."""
        now = (now_ms(), 0)
        last = self._last_id
        self._last_id = now if now > last else (last[0], last[1] + 1)
        return "{}-{}".format(*self._last_id)

    def close(self) -> None:
        """End every stream, and every one that is opened later."""
        self._closed = True
        for feed in self._feeds.values():
            for subscriber in feed.subscribers:
                subscriber.close()

    def _wake_soon(self, feed: Feed) -> None:
        self._to_wake.add(feed)
        self._waiting += 1
        if self._waking is None:
            loop = asyncio.get_running_loop()
            soonest = loop.time() + COLLECT_SECONDS
            self._waking = loop.call_at(max(soonest, self._next_wake), self._wake)

    def _wake(self) -> None:
        self._waking = None
        feeds, self._to_wake = self._to_wake, set()
        crowded, self._waiting = self._waiting > len(feeds), 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        for feed in feeds:
            feed.wake()
        if crowded:
            # Runs after the subscribers that were woken.
            loop.call_soon(self._note_cost, began)

    def _note_cost(self, began: float) -> None:
        now = asyncio.get_running_loop().time()
        self._next_wake = now + min(now - began, COLLECT_SECONDS_AT_MOST)

    def _start_beating(self) -> None:
        if self._beating is None:
            loop = asyncio.get_running_loop()
            self._beating = loop.call_later(self._keepalive, self._beat)

    def _beat(self) -> None:
        self._beating = None
        self._start_beating()
        for feed in self._feeds.values():
            feed.wake(trim=True)

    def _stop_timers(self) -> None:
        for timer in (self._waking, self._beating):
            if timer is not None:
                timer.cancel()
        self._waking = self._beating = None
        self._to_wake.clear()


@cache
def get_hub() -> Hub:
    """Return the process's hub."""
    return Hub()
