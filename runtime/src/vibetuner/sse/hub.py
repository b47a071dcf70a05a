"""The in-process switchboard between what is sent and who listens; it does no I/O."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

__all__ = ["Event", "Hub", "Subscriber", "check_channel", "check_event", "get_hub"]

BACKLOG = 200
NAME = re.compile(r"[^\x00-\x20\x7f]{1,200}")


@dataclass(frozen=True, slots=True)
class Event:
    """What is sent: a name, and data of any number of lines."""

    name: str
    data: str

    def encode(self) -> bytes:
        r"""The event as the bytes of a ``text/event-stream``.

        The format is that of the HTML standard, section 9.2.6: one ``data`` field a line.

        >>> Event("progress", "<p>1\r\n2</p>").encode()
        b'event: progress\ndata: <p>1\ndata: 2</p>\n\n'
        """
        lines = re.split(r"\r\n|\r|\n", self.data)
        data = "".join(f"data: {line}\n" for line in lines)
        # A lone surrogate has no bytes; it must not end the stream of everybody who listens.
        return f"event: {self.name}\n{data}\n".encode(errors="replace")


@dataclass(eq=False, slots=True)
class Subscriber:
    """One open connection and the events that it has yet to send."""

    channel: str
    queue: asyncio.Queue[Event | None] = field(default_factory=lambda: asyncio.Queue(BACKLOG + 1))

    def offer(self, event: Event) -> bool:
        """Queue an event; False when the subscriber is too far behind."""
        if self.queue.qsize() >= BACKLOG:
            return False
        self.queue.put_nowait(event)
        return True

    def close(self) -> None:
        """End the stream after what is queued; the last place is kept for this."""
        if not self.queue.full():
            self.queue.put_nowait(None)

    async def events(self, *, keepalive: float) -> AsyncIterator[Event | None]:
        """The events to come; None after every ``keepalive`` seconds of silence."""
        while True:
            try:
                async with asyncio.timeout(keepalive):
                    event = await self.queue.get()
            except TimeoutError:
                yield None
                continue
            if event is None:
                return
            yield event


class Hub:
    """Hands each published event to the subscribers of its channel."""

    def __init__(self) -> None:
        self._subscribers: defaultdict[str, set[Subscriber]] = defaultdict(set)

    def __len__(self) -> int:
        return sum(map(len, self._subscribers.values()))

    @contextmanager
    def subscribe(self, channel: str) -> Iterator[Subscriber]:
        """A subscriber of ``channel`` for the length of the block."""
        subscriber = Subscriber(channel)
        self._subscribers[channel].add(subscriber)
        try:
            yield subscriber
        finally:
            self._remove(subscriber)

    def publish(self, channel: str, event: Event) -> None:
        """Offer ``event`` to every subscriber; one that is too far behind is closed.

        The browser comes back by itself, and the page fetches its state anew.
        """
        for subscriber in tuple(self._subscribers.get(channel, ())):
            if not subscriber.offer(event):
                self._remove(subscriber)
                subscriber.close()

    def close(self) -> None:
        """End every stream."""
        for subscribers in tuple(self._subscribers.values()):
            for subscriber in tuple(subscribers):
                subscriber.close()

    def _remove(self, subscriber: Subscriber) -> None:
        subscribers = self._subscribers.get(subscriber.channel)
        if subscribers is None:
            return
        subscribers.discard(subscriber)
        if not subscribers:
            del self._subscribers[subscriber.channel]


@cache
def get_hub() -> Hub:
    """The process's hub."""
    return Hub()


def check_channel(channel: str) -> str:
    """Return ``channel``, or raise ValueError: 1 to 200 characters, no spaces or line breaks."""
    return _check("channel", channel)


def check_event(event: str) -> str:
    """Return ``event``, or raise ValueError: 1 to 200 characters, no spaces or line breaks."""
    return _check("event", event)


def _check(what: str, name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(
            f"The {what} name {name!r} is not usable: take 1 to 200 characters without spaces, "
            "line breaks or control characters"
        )
    return name
