"""How messages come from the queue to the slots of a worker, many in one step."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from anyio import CancelScope
from coredis.exceptions import ConnectionError as Disconnected
from coredis.exceptions import RedisError, ResponseError
from streaq.constants import REDIS_GROUP
from streaq.types import StreamMessage

from vibetuner.resources.wire import Wire
from vibetuner.tasks.fast.ends import End, Ends
from vibetuner.tasks.fast.library import Library
from vibetuner.tasks.fast.waves import Begun, Waves

__all__ = ["Flow"]

logger = logging.getLogger(__name__)

UNBLOCK_SECONDS = 2


class Flow:
    """Reads messages ahead, and begins as many of them as there are free slots.

    Args:
        library: our functions on the server.
        listener: where a read may block.
        ends: where the end of a try is recorded.
        slots: how many tasks run at the same time.
    """

    def __init__(  # noqa: PLR0913 - one value of each kind
        self,
        library: Library,
        listener: Wire,
        *,
        prefix: str,
        consumer: str,
        priorities: Sequence[str],
        idle_ms: int,
        slots: int,
        letters: tuple[str, str],
    ) -> None:
        self.stopping = False
        self.ends = Ends(
            library, (prefix, *letters), (REDIS_GROUP, consumer, idle_ms), self._forget
        )
        self._library = library
        self._listener = listener
        self._prefix = prefix
        self._consumer = consumer
        self._priorities = list(priorities)
        self._idle_ms = idle_ms
        self._slots = slots
        self._waves = Waves(slots)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[StreamMessage] = deque()
        self._active: set[str] = set()  # a slot each, until their end is on its way
        self._held: set[str] = set()  # and until it is recorded
        self._starting: set[asyncio.Future[Any]] = set()
        self._filling = False
        self._room = asyncio.Event()
        self._error: BaseException | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, begins or runs here."""
        return not (self._waiting or self._held)

    async def next(self) -> Begun | None:
        """The next message for a free slot; None when there will be no more."""
        return await self._waves.next()

    def done(self, message: StreamMessage) -> None:
        """Tell that nothing more is to be done for a message that :meth:`next` has given out."""
        self._held.discard(message.message_id)
        if message.message_id in self._active:
            self._forget(message.message_id)
        self._room.set()

    async def change(self) -> None:
        """Wait until a slot becomes free, or a message is done."""
        self._room.clear()
        await self._room.wait()

    async def room(self, ahead: int) -> int:
        """Wait until fewer than half of ``ahead`` messages wait; returns how many to read.

        Raises what has broken a start.
        """
        while self._error is None and len(self._waiting) > ahead // 2:
            await self.change()
        if self._error is not None:
            raise self._error
        return max(1, ahead - len(self._waiting) + self._slots - len(self._active))

    async def read(self, count: int) -> int:
        """Read what is there, lost messages of other workers first; returns how many."""
        values = [REDIS_GROUP, self._consumer, self._idle_ms, count, *self._priorities]
        found = await self._library.call("read", (self._prefix,), values)
        for at in range(0, len(found), 4):
            priority, message, task, moment = (text.decode() for text in found[at : at + 4])
            self._waiting.append(StreamMessage(message, task, priority, int(moment)))
        self._fill_soon()
        return len(found) // 4

    async def wait(self, count: int) -> None:
        """Read like :meth:`read`, and wait for the first message when there is none.

        Cancelled, it still takes in what the server has handed out meanwhile.
        """
        streams = [f"{self._prefix}:queues:{priority}" for priority in self._priorities]
        client = self._listener.call("CLIENT", "ID")
        reading = self._listener.call(
            "XREADGROUP", "GROUP", REDIS_GROUP, self._consumer, "COUNT", count,
            "BLOCK", self._idle_ms, "STREAMS", *streams, *([">"] * len(streams)),
        )  # fmt: skip
        try:
            answer = await asyncio.shield(reading)
        except asyncio.CancelledError:
            await self._take_back(reading, client)
            raise
        self._take_in(answer)
        self._fill_soon()

    async def stop(self) -> list[StreamMessage]:
        """Begin nothing more; give back what was begun and not run, return what was not begun."""
        self.stopping = True
        while self._starting:
            await asyncio.wait(self._starting)
        begun, waiting = self._waves.stop(), list(self._waiting)
        self._waiting.clear()
        ends = [
            self.ends.record(End("h", m.priority, m.message_id, m.task_id))
            for m in (item.message for item in begun if item.tries)
        ]
        await asyncio.gather(*ends)
        return waiting

    def _take_in(self, answer: Any) -> None:
        for stream, entries in answer or ():
            priority = stream.decode().removeprefix(f"{self._prefix}:queues:")
            for entry, pairs in entries:
                fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
                moment = int(fields.get(b"enqueue_time", 0))
                task = fields[b"task_id"].decode()
                self._waiting.append(StreamMessage(entry.decode(), task, priority, moment))

    async def _take_back(self, reading: asyncio.Future[Any], client: asyncio.Future[int]) -> None:
        """End a read that waits; what it brought at the last moment is not left behind."""
        with CancelScope(shield=True), suppress(RedisError, TimeoutError):
            async with asyncio.timeout(UNBLOCK_SECONDS):
                await self._library.unblock(await client)
                self._take_in(await reading)

    def _forget(self, message_id: str) -> None:
        self._active.discard(message_id)
        self._fill_soon()

    def _fill_soon(self) -> None:
        if not self._filling:
            self._filling = True
            self._loop.call_soon(self._fill)

    def _fill(self) -> None:
        self._filling = False
        free = min(self._slots - len(self._active), len(self._waiting))
        self._room.set()
        if free <= 0 or self.stopping or self._error is not None:
            return
        messages = [self._waiting.popleft() for _ in range(free)]
        ids = [message.message_id for message in messages]
        self._active.update(ids)
        self._held.update(ids)
        values: list[Any] = [REDIS_GROUP, self._consumer]
        for message in messages:
            values += (message.priority, message.message_id, message.task_id)
        try:
            answer = self._library.ask("start", (self._prefix,), values)
        except RedisError as error:
            self._break(error)
            return
        self._starting.add(answer)
        answer.add_done_callback(partial(self._take_started, messages, values))

    def _take_started(
        self, messages: list[StreamMessage], values: list[Any], answer: asyncio.Future[Any]
    ) -> None:
        self._starting.discard(answer)
        error = Disconnected("It was cancelled") if answer.cancelled() else answer.exception()
        if error is None:
            self._keep_begun(messages, answer.result())
        elif isinstance(error, ResponseError):  # perhaps the server has forgotten our functions
            task = self._loop.create_task(self._start_again(messages, values))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)
        else:
            self._break(error)

    async def _start_again(self, messages: list[StreamMessage], values: list[Any]) -> None:
        try:
            self._keep_begun(messages, await self._library.call("start", (self._prefix,), values))
        except RedisError as error:
            self._break(error)

    def _keep_begun(self, messages: list[StreamMessage], answers: list[Any]) -> None:
        self._waves.put(
            Begun(message) if answer is None else Begun(message, *answer)
            for message, answer in zip(messages, answers, strict=True)
        )

    def _break(self, error: BaseException) -> None:
        logger.debug("starting tasks failed: %s", error)
        self._error = error
        self._room.set()
