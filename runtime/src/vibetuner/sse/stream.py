"""The response that stays open and sends the events of one channel, and limits for open ones."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask
from starlette.types import Receive, Scope, Send

from vibetuner.config import Settings, get_settings
from vibetuner.logs import log_sparingly
from vibetuner.redis.client import answering
from vibetuner.sse.broadcast import encode_data
from vibetuner.sse.event import NOWHERE, RESET, Event, check_channel
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.history import OUTAGES, open_history
from vibetuner.sse.hub import get_hub

Write = Callable[[bytes], Awaitable[None]]
First = Callable[[str], Awaitable[tuple[str, Any]]]

RETRY = b"retry: 1000\n\n"
KEEPALIVE = b": keepalive\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
OUTAGE_SECONDS = 1.0
# After the line of its id, as the data of an event may hold the text itself.
RESET_LINE = f"\nevent: {RESET}\n".encode()

logger = logging.getLogger(__name__)

#: the seconds after which a refused client should try again
RETRY_SECONDS = 10


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
        """Return the id after which a reconnecting browser continues; None for a new one.

        A script can't set the header: a page whose stream was given up names the id in the URL.
        """
        name = "last-event-id"
        return request.headers.get(name) or request.query_params.get(name) or None

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
        """Send the events; return at the end of the stream.

        The first write, even of nothing, opens the stream in the browser.
        """
        await self._replay(subscriber, write)
        while (data := await subscriber.batch()) is not None:
            if RESET_LINE in data:  # sent together: who has the id of the reset has the state, too
                data += await self._state()
            await write(data or KEEPALIVE)

    async def _stream(self, receive: Receive, send: Send) -> None:
        head = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        opened = False

        async def write(data: bytes, *, more: bool = True) -> None:
            nonlocal opened
            if not opened:
                start = RETRY if self.last_id else RETRY + _mark(NOWHERE)
                opened, data = True, start + data
                await send(head)
            await send({"type": "http.response.body", "body": data, "more_body": more})

        with get_hub().subscribe(self.channel) as subscriber:
            watch = asyncio.create_task(_close_when_gone(receive, subscriber))
            try:
                await self.run(subscriber, write)
                await write(b"", more=False)
            finally:
                watch.cancel()

    async def _replay(self, subscriber: Subscriber, write: Write) -> None:
        """Send the events that the browser missed, one portion at a time.

        The browser's position is known before the stream opens, so that a page gets all events of
        what it starts once its stream is open. While Redis is away, it is NOWHERE instead. The
        browser does not get a later id before it has the state.
        """
        last_id, history = self.last_id, open_history()
        if history is None:
            await write(Event(RESET, "").frame if last_id else b"")
            await write(await self._state())
            return
        more, is_whole = True, bool(last_id)
        while more and not subscriber.closed:
            gaps = subscriber.gaps
            try:
                async with answering(get_settings()):
                    past = await history.read(self.channel, last_id)
            except OUTAGES:
                # The relay logs the outage. The browser gets its events when Redis is back; an
                # answer that is late or an error would make it give up.
                await write(b"")
                last_id = last_id or NOWHERE
                await subscriber.pause(OUTAGE_SECONDS)
                continue
            subscriber.begin_after(past.end)
            last_id, more = past.end, past.more or gaps != subscriber.gaps
            if past.missed is None:
                is_whole = False
                await write(Event(RESET, "", "" if self.first else last_id).frame)
            elif is_whole or self.first is None:
                await write(b"".join(event.frame for event in past.missed) + _mark(last_id))
            else:
                await write(b"")  # the state includes the events
        if not (is_whole or subscriber.closed):
            await write(await self._state(last_id))

    async def _state(self, event_id: str | None = "") -> bytes:
        """Return the current state as the project's function returns it, as an event."""
        if self.first is None:
            return b""
        name, data = await self.first(self.channel)
        text = encode_data(name, data, get_settings().sse_event_bytes)
        return Event(name, text, event_id or "").frame


def _mark(event_id: str) -> bytes:
    """Return what tells a browser where to continue; an id alone is not an event."""
    return f"id: {event_id}\n\n".encode()


async def _close_when_gone(receive: Receive, subscriber: Subscriber) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    subscriber.close()


class TooManyStreams(Exception):  # noqa: N818 - a state, as in HTTP 429
    """A stream was refused; ``status`` is the HTTP status of the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StreamBudget:
    """Counts the open streams of one process."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        log_sparingly(logger)

    def __len__(self) -> int:
        return self._open.total()

    @contextmanager
    def admit(self, address: str, settings: Settings) -> Iterator[None]:
        """Count a stream of a client for the length of the block.

        Raises TooManyStreams if the client has SSE_STREAMS_PER_CLIENT streams open (429), or the
        process has SSE_STREAMS (503).
        """
        client = client_of(address)
        self._check(client, settings)
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    def _check(self, client: str, settings: Settings) -> None:
        each, total = settings.sse_streams_per_client, most(settings)
        if client and each and self._open[client] >= each:
            reason = f"{client} has {each} open, which is SSE_STREAMS_PER_CLIENT"
            answer = TooManyStreams(429, "Too many event streams are open at your address.")
        elif len(self) >= total:
            reason = f"{total} are open, which is SSE_STREAMS or half of the open files allowed"
            answer = TooManyStreams(503, "Too many event streams are open.")
        else:
            return
        logger.warning("refused an event stream: %s", reason)
        raise answer


def most(settings: Settings) -> int:
    """Return the most streams that this process may have open.

    Each takes a file descriptor; half of those stay free for requests and databases.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    return max(1, min(settings.sse_streams, files // 2))


def client_of(address: str) -> str:
    """Return the name under which an address is counted; an IPv6 client has a /64 network.

    >>> client_of("192.0.2.7"), client_of("2001:db8:1:2:3::4"), client_of("::ffff:192.0.2.7")
    ('192.0.2.7', '2001:db8:1:2::/64', '192.0.2.7')
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return repr(address[:64]) if address else ""  # from a proxy, or a Unix socket
    if not isinstance(ip, IPv6Address):
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ip_network((ip, 64), strict=False)) if not ip.is_loopback else str(ip)


@cache
def get_budget() -> StreamBudget:
    """Return the process's budget."""
    return StreamBudget()
