"""coredis's subscriptions, without the exit that may never come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from anyio import TASK_STATUS_IGNORED, CancelScope
from anyio.abc import TaskStatus
from coredis import Redis
from coredis.patterns.pubsub import PubSub

__all__ = ["ReliableRedis"]


class ReliableRedis(Redis[str]):
    """coredis's client, with subscriptions that end when they are told to."""

    def pubsub(self, **options: Any) -> PubSub[str]:
        """As coredis's own."""
        return _ReliablePubSub(self.connection_pool, **options)


class _ReliablePubSub(PubSub[str]):
    """Ends also while it has no connection.

    In coredis 6.9 leaving the block ends the connection that there was. One that is being made
    anew, because the server has gone away, goes on for ever, and who left the block waits for it.
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
