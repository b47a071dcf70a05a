"""Listeners in a test's event loop: servers, and proxies in front of servers."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from vibetuner.redis.url import Address

__all__ = ["open_listener", "open_proxy"]

# Iterations of the loop until an accepted connection is known to its server.
TURNS_TO_ACCEPT = 4

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


@asynccontextmanager
async def open_listener(
    serve: Serve, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve each connection with ``serve`` inside the block; yield the port.

    After the block no connection is left: what ``serve`` still does is cancelled, and its socket is
    closed. Otherwise the garbage collector would find it during a later test, and fail that one.
    An error of ``serve`` is raised, unless it says that the connection was lost.
    """
    loop = asyncio.get_running_loop()
    writers: list[asyncio.StreamWriter] = []
    serving: list[asyncio.Future[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if inspect.isawaitable(answer := serve(reader, writer)):
            serving.append(asyncio.ensure_future(answer))

    server = await asyncio.start_server(accept, host, port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        # Asyncio would never close the sockets that it accepts in the iteration in which it closes.
        for listener in server.sockets:
            loop.remove_reader(listener.fileno())
        for _ in range(TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        server.close()
        for one in serving:
            one.cancel()
        ends = await asyncio.gather(*serving, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, OSError):
            raise end


@asynccontextmanager
async def open_proxy(
    target: Address,
    *,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    on_read: Callable[[int], object] = lambda _size: None,
    on_answer: Callable[[bytes], Awaitable[object]] | None = None,
) -> AsyncIterator[int]:
    """Run a proxy in front of a server; yield its port.

    ``on_read`` gets the size of each read. ``on_answer`` gets what the server sends; it is passed
    on after that, and nothing else of the same connection before.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back = None
        try:
            there, back = (
                await asyncio.open_unix_connection(target.path)
                if target.path
                else await asyncio.open_connection(target.host, target.port)
            )
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(pump(reader, back, lambda data: on_read(len(data))))
                pumps.create_task(pump(there, writer, on_answer or (lambda _data: None)))
        finally:
            if back is not None:
                back.close()

    async def pump(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        look: Callable[[bytes], object],
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 20):
                if inspect.isawaitable(looked := look(data)):
                    await looked
                writer.write(data)
                await writer.drain()
        writer.close()

    async with open_listener(serve, port=port, tls=tls) as opened:
        yield opened
