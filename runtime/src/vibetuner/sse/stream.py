"""The response that stays open and sends the events of one channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vibetuner.sse.event import RESET, Event
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.history import OUTAGES, open_history
from vibetuner.sse.hub import get_hub

__all__ = ["KEEPALIVE", "OUTAGE_SECONDS", "EventStream", "Write"]

Write = Callable[[bytes], Awaitable[None]]

RETRY = b"retry: 1000\n\n"
KEEPALIVE = b": keepalive\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
OUTAGE_SECONDS = 1.0


class EventStream(Response):
    """Sends what the browser has missed, then what comes, for as long as both sides live.

    It is written straight to the server, many events at once where they come at once: this is
    where a process with thousands of subscribers spends its time.
    """

    media_type = "text/event-stream"

    def __init__(self, channel: str, *, last_id: str | None = None, status_code: int = 200) -> None:
        self.channel = channel
        self.last_id = last_id
        self.status_code = status_code
        self.background: BackgroundTask | None = None
        self.init_headers(HEADERS)

    @staticmethod
    def last_id_of(request: Request) -> str | None:
        """Where a returning browser stopped; None for one that comes for the first time."""
        return request.headers.get("last-event-id") or None

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the browser has gone, the hub closes, or nothing more is to come."""

        async def write(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        with get_hub().subscribe(self.channel) as subscriber:
            watch = asyncio.create_task(_close_when_gone(receive, subscriber))
            try:
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
                await write(RETRY)
                await self.run(subscriber, write)
                await write(b"", more=False)
            finally:
                watch.cancel()
        if self.background is not None:
            await self.background()

    async def run(self, subscriber: Subscriber, write: Write) -> None:
        """Send what there is to send; returns at the stream's end."""
        if missed := await self._catch_up(subscriber):
            await write(missed)
        while (data := await subscriber.batch()) is not None:
            await write(data or KEEPALIVE)

    async def _catch_up(self, subscriber: Subscriber) -> bytes:
        """What the browser has missed, and where it stands then."""
        while not subscriber.closed:
            try:
                return await self._read_past(subscriber)
            except OUTAGES:
                # The relay says that Redis is away. Who waits here is told when it is back.
                await subscriber.pause(OUTAGE_SECONDS)
        return b""

    async def _read_past(self, subscriber: Subscriber) -> bytes:
        history = open_history()
        if history is None:
            return Event(RESET, "").frame if self.last_id else b""
        past = await history.read(self.channel, self.last_id)
        subscriber.begin_after(past.end)
        if past.missed is None:
            return Event(RESET, "", past.end).frame
        # An id alone is no event; it tells the browser where to go on if nothing comes before.
        return b"".join([*(event.frame for event in past.missed), f"id: {past.end}\n\n".encode()])


async def _close_when_gone(receive: Receive, subscriber: Subscriber) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    subscriber.close()
