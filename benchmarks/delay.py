"""A proxy that delays each byte: ``python delay.py TARGET_PORT MILLISECONDS``; prints its port."""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Callable

target, seconds = int(sys.argv[1]), float(sys.argv[2]) / 1000


class Side(asyncio.Protocol):
    """One side of a connection; it passes received data to the other side after the delay."""

    def __init__(self, met: Callable[[Side], None]) -> None:
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        self._met = met
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find the other side."""
        self.transport = transport  # type: ignore[assignment]
        self._met(self)

    def join(self, other: Side) -> None:
        """Pass on the data that arrived before the other side was connected."""
        self.other = other
        for data in self._early:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        """Pass the data on after the delay."""
        if self.other is None or self.other.transport is None:
            self._early.append(data)
        elif seconds:
            asyncio.get_running_loop().call_later(seconds, self.other.transport.write, data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        """Close the other side."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def main() -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    pending = set()

    async def connect(near: Side) -> None:
        _, far = await loop.create_connection(lambda: Side(near.join), "127.0.0.1", target)
        far.join(near)

    def met(near: Side) -> None:
        task = loop.create_task(connect(near))
        pending.add(task)
        task.add_done_callback(pending.discard)

    server = await loop.create_server(lambda: Side(met), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def make_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose timers are exact; epoll's would round a millisecond up to two."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


with asyncio.Runner(loop_factory=make_loop) as runner:
    runner.run(main())
