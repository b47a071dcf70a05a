"""Listeners in a test's event loop: servers, and proxies in front of servers."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from vibetuner.redis.url import Address

__all__ = ["open_listener", "open_proxy"]

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


@asynccontextmanager
async def open_listener(
    serve: Serve, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve each connection with ``serve`` inside the block; yield the port.

    The listener accepts nothing in the loop iteration in which it closes: asyncio would never close
    the sockets of that iteration, and a later test would fail because of them.
    """
    server = await asyncio.start_server(serve, host, port, ssl=tls)
    loop = asyncio.get_running_loop()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for listener in server.sockets:
            loop.remove_reader(listener.fileno())
        await asyncio.sleep(0)
        server.close()


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
    connections: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
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
        except asyncio.CancelledError:  # the listener closes
            pass
        finally:
            writer.close()
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
        try:
            yield opened
        finally:
            for connection in connections:
                if connection is not None:
                    connection.cancel()
            await asyncio.gather(*filter(None, connections), return_exceptions=True)
