"""Reads messages from the queue, some before there is a slot for them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from anyio import CancelScope
from coredis.exceptions import RedisError
from streaq.constants import REDIS_GROUP
from streaq.types import StreamMessage

from vibetuner.redis.connection import Connection
from vibetuner.redis.functions import Functions

__all__ = ["Reader"]

UNBLOCK_SECONDS = 2
# What others give back or lose wakes nobody who waits for new messages.
LONGEST_WAIT_MS = 1000


class Reader:
    """Reads for one consumer; what was read is in :attr:`waiting`, the oldest first.

    Args:
        library: our functions on the server.
        listener: where a read may block.
        idle_ms: after how long a message that nobody renews is another's.
    """

    def __init__(  # noqa: PLR0913 - one value of each kind
        self,
        library: Functions,
        listener: Connection,
        *,
        prefix: str,
        consumer: str,
        priorities: Sequence[str],
        idle_ms: int,
    ) -> None:
        self.waiting: deque[StreamMessage] = deque()
        self._library = library
        self._listener = listener
        self.prefix = prefix
        self.consumer = consumer
        self.idle_ms = idle_ms
        self._priorities = list(priorities)

    async def read(self, count: int) -> int:
        """Read what is there, lost messages of other workers first; returns how many."""
        values = [REDIS_GROUP, self.consumer, self.idle_ms, count, *self._priorities]
        found = await self._library.call("read", (self.prefix,), values)
        for at in range(0, len(found), 4):
            priority, message, task, moment = [text.decode() for text in found[at : at + 4]]
            self.waiting.append(StreamMessage(message, task, priority, int(moment)))
        return len(found) // 4

    async def wait(self, count: int) -> int:
        """Read new messages, and wait a second for the first; returns how many.

        Cancelled, it still takes in what the server has handed out meanwhile.
        """
        streams = [f"{self.prefix}:queues:{priority}" for priority in self._priorities]
        client = self._listener.call("CLIENT", "ID")
        reading = self._listener.call(
            "XREADGROUP", "GROUP", REDIS_GROUP, self.consumer, "COUNT", count,
            "BLOCK", min(self.idle_ms, LONGEST_WAIT_MS), "STREAMS", *streams,
            *([">"] * len(streams)),
        )  # fmt: skip
        try:
            answer = await asyncio.shield(reading)
        except asyncio.CancelledError:
            await self._take_back(reading, client)
            raise
        return self._take_in(answer)

    def _take_in(self, answer: Any) -> int:
        before = len(self.waiting)
        for stream, entries in answer or ():
            priority = stream.decode().removeprefix(f"{self.prefix}:queues:")
            for entry, pairs in entries:
                fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
                moment = int(fields.get(b"enqueue_time", 0))
                task = fields[b"task_id"].decode()
                self.waiting.append(StreamMessage(entry.decode(), task, priority, moment))
        return len(self.waiting) - before

    async def _take_back(self, reading: asyncio.Future[Any], client: asyncio.Future[int]) -> None:
        """End a read that waits; what it brought at the last moment is not left behind."""
        with CancelScope(shield=True), suppress(RedisError, TimeoutError):
            async with asyncio.timeout(UNBLOCK_SECONDS):
                await self._library.unblock(await client)
                self._take_in(await reading)
