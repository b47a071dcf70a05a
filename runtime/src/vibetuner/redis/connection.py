"""One connection: what is called in one turn of the event loop goes out in one write."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Self, cast

import hiredis
from coredis.exceptions import ConnectionError as Disconnected
from coredis.exceptions import ResponseError

from vibetuner.errors import first_line
from vibetuner.redis import answer_seconds, late
from vibetuner.redis.url import Address

__all__ = ["Connection"]

CONNECT_SECONDS = 5

Push = Callable[[list[Any]], None]


class Connection:
    """Sends commands and gives out their replies, as bytes, in order.

    It connects when something is called, and again after a loss. What was under way at a loss
    fails, and is never sent a second time: nobody can tell whether the server has done it.

    Args:
        address: the server.
        on_push: takes what no command has asked for: the messages of subscriptions.
        on_loss: called when an open connection is lost.
    """

    def __init__(
        self,
        address: Address,
        *,
        on_push: Push | None = None,
        on_loss: Callable[[], None] | None = None,
    ) -> None:
        self.address = address
        self._on_push = on_push
        self._on_loss = on_loss
        self._loop = asyncio.get_running_loop()
        self._line: _Line | None = None
        self._unsent: list[bytes] = []
        self._asked: list[asyncio.Future[Any]] = []
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False
        self._seconds = answer_seconds.get()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def call(self, *command: str | bytes | float) -> asyncio.Future[Any]:
        """Send a command with the others of this turn of the loop; the future has its reply.

        The future raises coredis's ConnectionError when the server can't be reached or is lost
        before it has answered, and its ResponseError when the server refuses the command. Where
        :data:`vibetuner.redis.answer_seconds` was set, it raises ServiceUnavailable after so long.
        """
        future = self._loop.create_future()
        self._send(hiredis.pack_command(command), future)  # type: ignore[arg-type]
        if self._seconds is not None:
            timer = self._loop.call_later(self._seconds, _settle, future, late(self._seconds))
            future.add_done_callback(lambda _: timer.cancel())
        return future

    def tell(self, *command: str | bytes | float) -> None:
        """Send a command whose answers are pushes: SUBSCRIBE and its kin."""
        self._send(hiredis.pack_command(command), None)  # type: ignore[arg-type]

    async def connect(self) -> None:
        """Connect if that is not done; raises as the future of :meth:`call` does."""
        if self._line is None:
            await asyncio.shield(self._start_connecting())

    async def close(self) -> None:
        """Fail what has no reply yet, and disconnect."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._line is not None:
            self._line.close()
            await self._line.gone.wait()
        self._fail(Disconnected("The connection is closed"))

    def _send(self, packed: bytes, future: asyncio.Future[Any] | None) -> None:
        if self._closed:
            raise Disconnected("The connection is closed")
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)
        if future is not None:
            self._asked.append(future)

    def _flush(self) -> None:
        if not self._unsent or self._closed:
            return
        if self._line is None:
            self._start_connecting()
            return
        packed, asked = b"".join(self._unsent), self._asked
        self._unsent, self._asked = [], []
        self._line.write(packed, asked)

    def _start_connecting(self) -> asyncio.Task[None]:
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        return self._connecting

    async def _connect(self) -> None:
        line = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                line = await self._open()
                for greeting in self.address.greeting():
                    asked = self._loop.create_future()
                    line.write(hiredis.pack_command(greeting), [asked])  # type: ignore[arg-type]
                    await asked
            line.on_loss, self._line = self._lost, line
        except (OSError, TimeoutError) as error:
            reason = "no answer" if isinstance(error, TimeoutError) else first_line(error)
            raise Disconnected(f"Redis at {self.address} can't be reached: {reason}") from None
        finally:
            if line is not None and self._line is not line:
                line.close()

    async def _open(self) -> _Line:
        address, loop = self.address, self._loop
        new = lambda: _Line(self._on_push)  # noqa: E731
        if address.path:
            _, line = await loop.create_unix_connection(new, address.path)
        else:
            tls = address.tls.context() if address.tls else None
            name = address.host if tls else None
            _, line = await loop.create_connection(
                new, address.host, address.port, ssl=tls, server_hostname=name
            )
        return line

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if task.cancelled():
            self._fail(Disconnected("The connection is closed"))
        elif error := task.exception():
            self._fail(error)
        else:
            self._flush()

    def _fail(self, error: BaseException) -> None:
        asked, self._asked, self._unsent = self._asked, [], []
        for future in asked:
            _settle(future, error)

    def _lost(self) -> None:
        self._line = None
        if self._on_loss is not None and not self._closed:
            self._on_loss()


class _Line(asyncio.Protocol):
    """The protocol below: bytes to replies, replies to who waits for them."""

    def __init__(self, on_push: Push | None) -> None:
        self.on_loss: Callable[[], None] | None = None
        self.gone = asyncio.Event()
        self._on_push = on_push
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._reader = hiredis.Reader(replyError=ResponseError)
        self._transport: asyncio.Transport | None = None

    def write(self, packed: bytes, asked: list[asyncio.Future[Any]]) -> None:
        self._waiting.extend(asked)
        if self._transport is None:
            self.connection_lost(None)
        else:
            self._transport.write(packed)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by descent
        if sock := transport.get_extra_info("socket"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if waiting:
                    _settle(waiting.popleft(), reply)
                elif self._on_push is not None:
                    self._on_push(reply)
        except hiredis.ProtocolError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.gone.set()
        reason = f": {first_line(exc)}" if exc else ""
        error = Disconnected(f"The connection to Redis was lost{reason}")
        while self._waiting:
            _settle(self._waiting.popleft(), error)
        if self.on_loss is not None:
            self.on_loss()


def _settle(future: asyncio.Future[Any], reply: Any) -> None:
    if future.done():  # nobody waits any more
        return
    if isinstance(reply, BaseException):
        future.set_exception(reply)
    else:
        future.set_result(reply)
