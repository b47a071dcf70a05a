"""coredis's subscriptions, without the exit that may never come, and many messages at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, TypeVar

from anyio import TASK_STATUS_IGNORED, CancelScope, WouldBlock
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream
from coredis import Redis
from coredis.patterns.pubsub import ClusterPubSub, PubSub
from coredis.response.types import PubSubMessage

__all__ = ["ReliableRedis", "in_batches"]

T = TypeVar("T")
Messages = PubSub[str] | ClusterPubSub[str]


class ReliableRedis(Redis[str]):
    """coredis's client, with subscriptions that end when they are told to."""

    def pubsub(self, **options: Any) -> PubSub[str]:
        """As coredis's own."""
        return _ReliablePubSub(self.connection_pool, **options)


class _ReliablePubSub(PubSub[str]):
    """Ends also while it has no connection, and hands on at once what has come at once.

    In coredis 6.9 leaving the block ends the connection that there was. One that is being made
    anew, because the server has gone away, goes on for ever, and who left the block waits for it.
    And each message takes two turns of the event loop there, in which all others have theirs.
    """

    _reconnecting: CancelScope

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[Self]:
        async with super().__asynccontextmanager__():
            yield self
            if self._connection is None or not self._connection.usable:
                self._reconnecting.cancel("the block was left")

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Keep a connection, until the block is left."""
        with CancelScope() as self._reconnecting:
            await super().run(task_status=task_status)

    async def _consume_push_messages(self) -> None:
        connection = self.connection
        async for first in connection.push_messages:
            for response in (first, *waiting(connection._push_message_buffer_out)):  # noqa: SLF001
                self._send_stream.send_nowait(await self._handle_message(response))


async def in_batches(messages: Messages) -> AsyncIterator[list[PubSubMessage]]:
    """The messages of a subscription, as many at a time as there are."""
    async for first in messages:
        others = waiting(messages._receive_stream)  # noqa: SLF001 - it gives out one at a time
        yield [first, *(m for m in others if m is not None and m["type"] == "message")]


def waiting(stream: MemoryObjectReceiveStream[T]) -> Iterator[T]:
    """What has come already."""
    with suppress(WouldBlock):
        while True:
            yield stream.receive_nowait()
