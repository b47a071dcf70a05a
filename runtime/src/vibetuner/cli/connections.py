"""Limits for each client of a web process: connections, and time for a request."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from vibetuner.cli.ports import BACKLOG, open_files
from vibetuner.config import Settings
from vibetuner.logs import log_sparingly
from vibetuner.sse.hub import get_hub
from vibetuner.sse.stream import client_of

logger = logging.getLogger(__name__)

SPARE_FILES = 64
MOST_AT_ONCE = 256

HEAD_SECONDS = 10.0
BODY_SECONDS = 20.0
SLOWEST_BYTES_A_SECOND = 500

# asyncio reads 256 kB at once, and a parser may need seconds for that, in which nobody is served.
PIECE_BYTES = 8192
# At least half of so many bytes of a body must be content, not the lengths of chunks.
JUDGED_BYTES = 4096
# httptools has no limit for heads; h11 has this one.
HEAD_BYTES = 65_536
# The requests that one connection may send without waiting for responses; uvicorn queues them all.
MOST_QUEUED = 100
# The bytes of a body that are parsed after its response; if there are more, the connection ends.
UNREAD_BYTES = 1_000_000
# Proxies keep a connection for up to two minutes; if they use one that we just close, they fail.
PROXY_IDLE_SECONDS = 150

# When the server ends, a client that has read nothing for so long gets no more.
UNREAD_SECONDS = 0.5

# Log lines that anybody can cause as often as they like.
CHEAP_LINES: dict[str, tuple[str, ...]] = {
    "uvicorn.error": ("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket"),
    "asyncio": ("socket.accept()",),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """The number of connections that a process accepts: in all, from one client, and at once."""

    total: int
    per_client: int
    at_once: int

    @classmethod
    def of(cls, files: int, per_client: int) -> Budget:
        """Divide the files that a process may have open; one client gets at most a third.

        >>> Budget.of(300, per_client=256)
        Budget(total=199, per_client=66, at_once=37)
        """
        at_once = max(8, min(MOST_AT_ONCE, files // 8))
        total = max(16, files - at_once - SPARE_FILES)
        return cls(total, min(per_client or total, total // 3), at_once)


class Clients:
    """The connections that each client has open; trusted proxies may have any number."""

    def __init__(self, budget: Budget, trusted: str) -> None:
        self._budget = budget
        self._open: Counter[str] = Counter()
        self.trusted = ProxyHeadersMiddleware(cast("Any", None), trusted).trusted_hosts

    def admit(self, address: str | None, in_all: int) -> str:
        """Count a connection; return the status with which to refuse it, or an empty text."""
        if in_all >= self._budget.total:
            logger.warning(
                "refused a connection, as %d are open. Raise the limit of open files: ulimit -n",
                in_all,
            )
            return "503 Service Unavailable"
        if address is None:
            return ""
        client = client_of(address)
        if address not in self.trusted and self._open[client] >= self._budget.per_client:
            logger.warning(
                "refused a connection of %s, which has %d open. If it is your proxy, add it to "
                "FORWARDED_ALLOW_IPS; else see CONNECTIONS_PER_CLIENT",
                address,
                self._open[client],
            )
            return "429 Too Many Requests"
        self._open[client] += 1
        return ""

    def leave(self, address: str | None) -> None:
        """Forget a connection that was admitted."""
        if address is not None:
            client = client_of(address)
            self._open[client] -= 1
            if self._open[client] <= 0:
                del self._open[client]


def make_config(app: Any, settings: Settings, **options: Any) -> uvicorn.Config:
    """Return uvicorn's configuration with our limits."""
    for name, prefixes in CHEAP_LINES.items():
        log_sparingly(logging.getLogger(name), prefixes=prefixes)
    log_sparingly(logger)
    budget = Budget.of(open_files(), settings.connections_per_client)
    clients = Clients(budget, settings.forwarded_allow_ips)
    limited = type("Limited", (_Limited, AutoHTTPProtocol), {"clients": clients})
    buffer = memoryview(bytearray(PIECE_BYTES))
    return uvicorn.Config(
        _with_plain_clients(ProxyHeadersMiddleware(app, settings.forwarded_allow_ips)),
        http=cast("Any", lambda **options: _SmallReads(limited(**options), buffer)),
        lifespan="off",
        log_config=None,
        server_header=False,
        proxy_headers=False,  # they are read above, once the client has its plain address
        backlog=budget.at_once,  # asyncio accepts so many in one turn
        ws_max_size=settings.max_body,
        **options,
    )


def _with_plain_clients(app: Any) -> Any:
    """Wrap ``app`` to see IPv4 clients by their IPv4 address, also on a listener for both."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if client := scope.get("client"):
            scope["client"] = (_plain(client[0]), client[1])
        await app(scope, receive, send)

    return serve


def _plain(address: str) -> str:
    """Return an address; without the prefix of a listener on ``::`` if it is one of IPv4.

    >>> _plain("::ffff:192.0.2.7"), _plain("192.0.2.7"), _plain("2001:db8::7")
    ('192.0.2.7', '192.0.2.7', '2001:db8::7')
    """
    return address.removeprefix("::ffff:") if "." in address else address


def _answer(status: str, headers: str = "", text: str = "") -> bytes:
    """Return a response to a client that uvicorn's protocol does not serve."""
    text = text or status
    return (
        f"HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(text)}\r\n\r\n{text}"
    ).encode()


class LimitedServer(uvicorn.Server):
    """uvicorn's server; it closes late connections, and at its end event streams first."""

    async def on_tick(self, counter: int) -> bool:
        """Close the connections whose request is late."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, _Limited) and connection.is_late(now):
                    connection.hang_up()
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; as many connections may wait as before, however few are accepted at once."""
        await super().startup(sockets=sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections, event streams at once."""
        get_hub().close()
        hanging_up = asyncio.create_task(self._hang_up())
        await super().shutdown(sockets=sockets)
        hanging_up.cancel()

    async def _hang_up(self) -> None:
        """End the connections of clients that don't read what is left for them."""
        before: dict[Any, int] = {}
        while True:
            await asyncio.sleep(UNREAD_SECONDS)
            unsent: dict[Any, int] = {}
            for connection in tuple(self.server_state.connections):
                transport = cast("asyncio.WriteTransport", connection.transport)
                unsent[connection] = transport.get_write_buffer_size()
                if unsent[connection] and unsent[connection] == before.get(connection):
                    transport.abort()
            before = unsent


class _SmallReads(asyncio.BufferedProtocol):
    """Passes received data to a connection's protocol in small pieces, between others' turns.

    Args:
        buffer: the size of a piece; connections can share it, as each piece is copied at once.
    """

    def __init__(self, protocol: _Limited, buffer: memoryview) -> None:
        self._protocol = protocol
        self._buffer = buffer
        self.connection_made = protocol.connection_made  # type: ignore[method-assign]
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the interface
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._protocol.data_received(bytes(self._buffer[:nbytes]))
        if nbytes == len(self._buffer):
            self._protocol.rest()


class _Limited(asyncio.Protocol):
    """Our limits, in front of uvicorn's protocol of one connection.

    A request's head has ten seconds. Its body has twenty, plus one for each 500 bytes, while the
    app reads. A body in chunks of a few bytes is refused, as each takes as long as a large one.
    """

    clients: Clients
    # Of uvicorn's protocol.
    connections: set[Any]
    cycle: Any
    flow: Any
    loop: asyncio.AbstractEventLoop
    timeout_keep_alive: int
    # Requests that wait for the response to the one before; only httptools' has any.
    pipeline: Sequence[Any] = ()
    transport: asyncio.Transport

    _counted = False
    _refused = False
    _heard = False
    _deaf = False
    _head_since: float | None = None
    _head_bytes = 0
    _body_since = 0.0
    _body_bytes = 0
    _last_cycle: Any = None
    _running: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._address = _plain(str(peer[0])) if isinstance(peer, tuple) else None
        if status := self.clients.admit(self._address, len(self.connections)):
            self._refused = True
            cast("asyncio.Transport", transport).write(_answer(status, "Retry-After: 5\r\n"))
            transport.close()
            return
        self._counted = True
        self._head_since = self.loop.time()
        if self._address in self.clients.trusted:
            self.timeout_keep_alive = PROXY_IDLE_SECONDS
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._refused or self._deaf:
            return
        self._heard = True
        stored = len(self.cycle.body) if self.cycle is not None else 0
        super().data_received(data)
        cycle = self.cycle
        if len(self.pipeline) > MOST_QUEUED:
            logger.warning("closed a connection of %s, with too many requests", self._address)
            self._end_running()
            self.transport.abort()
        elif cycle is None or cycle.response_complete:
            if self._head_since is None:
                self._head_since = self.loop.time()
            self._head_bytes += len(data)
            if cycle is not None and cycle.more_body:
                if self._head_bytes > UNREAD_BYTES:
                    self._part()
            elif self._head_bytes > HEAD_BYTES:
                self._refuse("431 Request Header Fields Too Large")
        elif cycle is not self._last_cycle:
            self._last_cycle, self._head_since, self._head_bytes = cycle, None, 0
            self._body_since, self._body_bytes = self.loop.time(), 0
        else:
            self._body_bytes += len(data)
            content = len(cycle.body) - stored
            if cycle.more_body and len(data) >= JUDGED_BYTES and content < len(data) / 2:
                self._refuse("400 Bad Request", "The chunks of the body are too small.")

    def on_response_complete(self) -> None:
        cycle = self.cycle
        super().on_response_complete()  # type: ignore[misc]  # uvicorn's
        declared = int(dict(cycle.scope["headers"]).get(b"content-length", 0))
        if cycle.more_body and declared > UNREAD_BYTES:
            self._part()

    def _part(self) -> None:
        """End our side of the connection, and discard what arrives until the client ends its own.

        To close it at once would reset it, perhaps before the client has read the response.
        """
        self._deaf = True
        if not self.transport.is_closing():
            self.transport.write_eof()

    def rest(self) -> None:
        """Read on in the next turn of the event loop; uvloop would read all that has arrived."""
        if not (self._refused or self.transport.is_closing()):
            self.transport.pause_reading()
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not (self.flow.read_paused or self.transport.is_closing()):
            self.transport.resume_reading()

    def is_late(self, now: float) -> bool:
        if self._head_since is not None:
            return now - self._head_since > HEAD_SECONDS
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.more_body:
            return False
        # The names of uvicorn's two protocols.
        asks = ("waiting_for_100_continue", "expect_100_continue")
        if self.flow.read_paused or any(getattr(cycle, name, False) for name in asks):
            self._body_since, self._body_bytes = now, 0
            return False
        allowed = BODY_SECONDS + self._body_bytes / SLOWEST_BYTES_A_SECOND
        return now - self._body_since > allowed

    def hang_up(self) -> None:
        logger.warning("closed a connection of %s, whose request did not come", self._address)
        if self.transport.is_closing():
            self.transport.abort()
            return
        if self._heard and not (self.cycle and self.cycle.response_started):
            self.transport.write(_answer("408 Request Timeout", "Retry-After: 5\r\n"))
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse("400 Bad Request", msg)

    def _refuse(self, status: str, text: str = "") -> None:
        # A malformed body may arrive after the app got the head. The app's response can't be
        # sent then, and uvicorn's own 400 fails after a HEAD: each would log a traceback.
        self._deaf = True
        cycle, is_answered = self.cycle, False
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            is_answered = cycle.response_started
        elif cycle is not None:
            is_answered = cycle.more_body
        if not is_answered:
            self.transport.write(_answer(status, text=text))
        self.transport.close()

    def handle_websocket_upgrade(self, *args: Any) -> None:
        super().handle_websocket_upgrade(*args)  # type: ignore[misc]  # uvicorn's
        self._leave()  # another protocol has the connection from now on
        if not self.transport.is_closing():  # uvloop looks for the protocol when it starts to read
            self.transport.pause_reading()
            self.transport.resume_reading()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)  # type: ignore[misc]  # httptools'

    def _end_running(self) -> None:
        """Let the running request end quietly; uvicorn tells only the newest, which may wait."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._end_running()
        if not self._refused:
            super().connection_lost(exc)

    def _leave(self) -> None:
        if self._counted:
            self._counted = False
            self.clients.leave(self._address)

    def pause_writing(self) -> None:
        if not self._refused:
            super().pause_writing()

    def resume_writing(self) -> None:
        if not self._refused:
            super().resume_writing()
