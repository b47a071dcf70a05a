"""The response that stays open and sends the events of one channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask
from starlette.types import Receive, Scope, Send

from vibetuner.config import get_settings
from vibetuner.redis.client import answering
from vibetuner.sse.broadcast import encode_data
from vibetuner.sse.budget import RETRY_SECONDS, TooManyStreams, get_budget
from vibetuner.sse.event import RESET, Event, check_channel
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.history import OUTAGES, open_history
from vibetuner.sse.hub import get_hub

Write = Callable[[bytes], Awaitable[None]]
First = Callable[[str], Awaitable[tuple[str, Any]]]

RETRY = b"retry: 1000\n\n"
KEEPALIVE = b": keepalive\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
OUTAGE_SECONDS = 1.0
RESET_LINE = f"event: {RESET}\n".encode()


def add_events_route(
    router: APIRouter,
    path: str,
    function: Callable[..., Any],
    first: First | None,
    options: dict[str, Any],
) -> None:
    """Register the stream of the channel that the dependency ``function`` returns."""

    async def endpoint(request: Request, channel: str = Depends(function)) -> EventStream:
        try:
            check_channel(channel)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        return EventStream(channel, last_id=EventStream.last_id_of(request), first=first)

    add_stream_route(router, path, endpoint, function, options)


def add_stream_route(
    router: APIRouter,
    path: str,
    endpoint: Callable[..., Any],
    function: Callable[..., Any],
    options: dict[str, Any],
) -> None:
    """Register ``endpoint`` under the name and description of ``function``, as an event stream."""
    endpoint.__name__ = getattr(function, "__name__", "events")
    endpoint.__doc__ = function.__doc__
    router.add_api_route(
        path,
        endpoint,
        methods=["GET"],
        response_class=EventStream,
        response_model=None,
        **{"response_description": "Server-sent events, until either side leaves", **options},
    )


class EventStream(Response):
    """Sends the events that the browser missed, then new ones, until one side leaves.

    It is written directly to the server, with many events in one write if they arrive together: a
    process with thousands of subscribers spends most of its time here.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        channel: str,
        *,
        last_id: str | None = None,
        first: First | None = None,
        status_code: int = 200,
    ) -> None:
        self.channel = channel
        self.last_id = last_id
        self.first = first
        self.status_code = status_code
        self.background: BackgroundTask | None = None
        self.init_headers(HEADERS)

    @staticmethod
    def last_id_of(request: Request) -> str | None:
        """Return the id after which a reconnecting browser continues; None for a new one."""
        return request.headers.get("last-event-id") or None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the browser leaves, the hub closes, or the stream ends."""
        address = scope["client"][0] if scope.get("client") else ""
        try:
            with get_budget().admit(address, get_settings()):
                await self._stream(receive, send)
        except TooManyStreams as refusal:
            # A refused client must not keep its connection, and with it a file descriptor.
            headers = {"Retry-After": str(RETRY_SECONDS), "Connection": "close"}
            answer = JSONResponse({"detail": str(refusal)}, refusal.status, headers)
            await answer(scope, receive, send)
        if self.background is not None:
            await self.background()

    async def run(self, subscriber: Subscriber, write: Write) -> None:
        """Send the events; return at the end of the stream."""
        await self._replay(subscriber, write)
        while (data := await subscriber.batch()) is not None:
            await write(data or KEEPALIVE)
            if self.first is not None and RESET_LINE in data:
                await self._write_first(write)

    async def _stream(self, receive: Receive, send: Send) -> None:
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

    async def _replay(self, subscriber: Subscriber, write: Write) -> None:
        """Send the events that the browser missed, one portion at a time."""
        last_id = self.last_id
        history = open_history()
        if history is None:
            if last_id:
                await write(Event(RESET, "").frame)
            await self._write_first(write)
            return
        more, is_whole = True, bool(last_id)
        while more and not subscriber.closed:
            try:
                async with answering(get_settings()):
                    past = await history.read(self.channel, last_id)
            except OUTAGES:
                # The relay logs the outage. The browser gets its events when Redis is back.
                await subscriber.pause(OUTAGE_SECONDS)
                continue
            subscriber.begin_after(past.end)
            if past.missed is None:
                is_whole = False
                await write(Event(RESET, "", past.end).frame)
            else:
                # An id alone is not an event; it tells the browser where to continue.
                end = f"id: {past.end}\n\n".encode()
                await write(b"".join([*(event.frame for event in past.missed), end]))
            last_id, more = past.end, past.more
        if not (is_whole or subscriber.closed):
            await self._write_first(write)

    async def _write_first(self, write: Write) -> None:
        """Send the current state as the project's function returns it."""
        if self.first is not None:
            name, data = await self.first(self.channel)
            text = encode_data(name, data, get_settings().sse_event_bytes)
            await write(Event(name, text).frame)


async def _close_when_gone(receive: Receive, subscriber: Subscriber) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    subscriber.close()
