"""Waits for results, with one subscription for all waiters of a process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Self

from coredis.exceptions import ConnectionError as Disconnected

from vibetuner.redis.connection import Connection
from vibetuner.redis.url import Address

# Pauses of an outage, before each reconnection; a result that was published meanwhile is looked up.
PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, *[2] * 11)

Waiter = asyncio.Future[bytes]
Hear = Callable[[bytes], None]


class ResultListener:
    """Delivers messages of channels to everybody who waits for them."""

    def __init__(self, address: Address) -> None:
        self._connection = Connection(address, on_push=self._deliver, on_loss=self._lose)
        self._waiters: defaultdict[str, dict[Waiter, Hear]] = defaultdict(dict)
        self._confirmed: dict[str, asyncio.Future[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._lose()
        await self._connection.close()

    async def wait(self, channel: str, key: str, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the value of ``key``, or else the next message on ``channel``.

        ``read`` reads the key by another connection. That is for a value that is too large for one
        that listens: the server publishes an empty message for it, and ends a connection instead of
        sending it more than 32 MB.
        """
        pauses = iter(PAUSES_SECONDS)
        while True:
            try:
                await self._connection.connect()
                message, confirmed = self._join(channel)
                try:
                    # On the same connection, so the server reads the key after it has subscribed.
                    stored: bytes | None = await self._connection.call("GET", key)
                    pauses = iter(PAUSES_SECONDS)
                    if stored is None:
                        confirmed.result()  # raises if the subscription was refused
                        stored = await message
                    return stored or await read()
                finally:
                    self._leave(channel, message)
            except Disconnected:
                if (pause := next(pauses, None)) is None:
                    raise
            await asyncio.sleep(pause)
            with suppress(Disconnected):
                if stored := await read():
                    return stored

    @asynccontextmanager
    async def listening(self, channel: str, hear: Hear | None = None) -> AsyncIterator[Waiter]:
        """Subscribe for the length of the block; the future gets the first message.

        With ``hear``, each message is passed to that instead; the future ends only with a loss.
        """
        await self._connection.connect()
        waiter, confirmed = self._join(channel, hear)
        try:
            await asyncio.shield(confirmed)
            if waiter.done():
                waiter.result()  # raises if the connection was lost first
            yield waiter
        finally:
            self._leave(channel, waiter)

    async def each(self, channel: str, heard: Callable[[], None]) -> None:
        """Call ``heard`` at once and at each message, until the connection is lost."""
        async with self.listening(channel, lambda _: heard()) as loss:
            heard()
            await loss

    def _join(self, channel: str, hear: Hear | None = None) -> tuple[Waiter, asyncio.Future[None]]:
        waiter: Waiter = asyncio.get_running_loop().create_future()
        waiters = self._waiters[channel]
        waiters[waiter] = hear or partial(_answer, waiter)
        if len(waiters) == 1:
            self._confirmed[channel] = self._connection.tell("SUBSCRIBE", channel)
        return waiter, self._confirmed[channel]

    def _leave(self, channel: str, waiter: Waiter) -> None:
        waiter.cancel()
        if waiter.done() and not waiter.cancelled():
            waiter.exception()  # marks it as retrieved
        waiters = self._waiters.get(channel)
        if waiters is None:
            return
        waiters.pop(waiter, None)
        if not waiters:
            del self._waiters[channel]
            self._confirmed.pop(channel, None)
            with suppress(Disconnected):
                self._connection.tell("UNSUBSCRIBE", channel)

    def _deliver(self, push: list[Any]) -> None:
        for hear in tuple(self._waiters.get(push[1].decode(), {}).values()):
            hear(push[2])

    def _lose(self) -> None:
        waiters, self._waiters = self._waiters, defaultdict(dict)
        self._confirmed.clear()
        for channel_waiters in waiters.values():
            for waiter in channel_waiters:
                if not waiter.done():
                    waiter.set_exception(Disconnected("The subscription was lost"))


def _answer(waiter: Waiter, message: bytes) -> None:
    if not waiter.done():
        waiter.set_result(message)
