"""How messages come from the queue to the slots of a worker, many in one step."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

from coredis.exceptions import ConnectionError as Disconnected
from coredis.exceptions import RedisError, ResponseError
from streaq.constants import REDIS_GROUP
from streaq.types import StreamMessage

from vibetuner.redis.functions import Functions
from vibetuner.tasks.fast.ends import (
    HAND_BACK,
    IN_VAIN,
    SUPERSEDED,
    UNREAD,
    End,
    Ends,
    Outcome,
)
from vibetuner.tasks.fast.lookahead import Lookahead
from vibetuner.tasks.fast.reader import Reader
from vibetuner.tasks.fast.slots import Begun, Slots

__all__ = ["Flow"]

logger = logging.getLogger(__name__)

# What was begun ahead and had no slot for so long is begun anew; the engine looks for aborts less
# often than that.
FRESH_SECONDS = 0.2
# As functions.lua has it: begin and count a try, begin without, count.
NOW, AHEAD, CHARGE = "1", "0", "+"


class Flow:
    """Reads messages, and begins as many of them as there are free slots, and a few ahead.

    What is begun ahead costs no try until it has a slot: whoever is killed before that has taken
    nothing from it.

    Args:
        library: our functions on the server.
        reader: where messages come from.
        slots: how many tasks run at the same time.
        prefetch: how many messages wait here while all slots are taken.
        letters: where dead letters are kept, and where each task's is.
    """

    def __init__(
        self,
        library: Functions,
        reader: Reader,
        *,
        slots: int,
        prefetch: int,
        letters: tuple[str, str],
    ) -> None:
        self.ends = Ends(
            library,
            (reader.prefix, *letters),
            (REDIS_GROUP, reader.consumer, reader.idle_ms),
            self._forget,
        )
        self._library = library
        self._reader = reader
        self._prefetch = prefetch
        self._head = (REDIS_GROUP, reader.consumer)
        self._waiting = reader.waiting
        self._count = slots
        self._slots = Slots(slots)
        self._loop = asyncio.get_running_loop()
        self._lookahead = Lookahead(slots=slots, now=self._loop.time())
        self._ahead: deque[Begun] = deque()
        self._asked_ahead = 0
        self._active: set[str] = set()  # a slot each, until their end is on its way
        self._held: set[str] = set()  # whatever is neither waiting nor recorded
        self._starting: set[asyncio.Future[Any]] = set()
        self._moved = 0.0  # when a slot has last become free
        self._filling = False
        self._stopping = False
        self._few = 0  # so few may wait before more are read
        self._room = asyncio.Event()
        self._changed = asyncio.Event()
        self._error: BaseException | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, begins or runs here."""
        return not (self._waiting or self._held)

    async def next(self) -> Begun | None:
        """The next message for a free slot; None when there will be no more."""
        while (begun := await self._slots.next()) is not None:
            if not begun.until or self._loop.time() < begun.until or begun.aborted:
                return begun
            end = End.without_run(IN_VAIN, begun.message)
            self.ends.add(end, partial(self._take_uncounted, begun.message))
        return None

    def done(self, message: StreamMessage) -> None:
        """Tell that nothing more is to be done for a message that :meth:`next` has given out."""
        self._held.discard(message.message_id)
        self._forget(message.message_id)
        self._changed.set()

    async def change(self) -> None:
        """Wait until a slot becomes free, or a message is done."""
        self._changed.clear()
        await self._changed.wait()

    async def room(self) -> int:
        """Wait until fewer than half of those messages wait that are wanted; returns how many.

        These are the prefetch, and more where tasks are short. When they turn out to be long, what
        is too much goes back into the queue.

        Raises what has broken a start.
        """
        while self._error is None:
            now = self._loop.time()
            if now > self._moved + FRESH_SECONDS:
                await self._give_back_surplus(now)
            wanted = self._prefetch + 2 * self._lookahead.count(now)
            self._few = wanted // 2
            if len(self._waiting) <= self._few:
                return max(1, wanted - len(self._waiting) + self._count - len(self._active))
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(FRESH_SECONDS):
                    await self._room.wait()
        raise self._error

    async def read(self, count: int) -> int:
        """Read what is there, lost messages of other workers first; returns how many."""
        found = await self._reader.read(count)
        self._fill_soon()
        return found

    async def wait(self, count: int) -> int:
        """Read new messages, and wait a second for the first; returns how many."""
        found = await self._reader.wait(count)
        self._fill()
        return found

    async def stop(self) -> None:
        """Begin nothing more; give back what has not run."""
        self._stopping = True
        while self._starting:
            await asyncio.wait(self._starting)
        begun = self._slots.stop()
        await self.ends.settled()  # what has begun in vain waits again then
        waiting = [*self._waiting, *(one.message for one in self._ahead)]
        self._waiting.clear()
        self._ahead.clear()
        ends = [End.without_run(HAND_BACK, one.message) for one in begun if one.tries]
        ends += [End.without_run(UNREAD, message) for message in waiting]
        await asyncio.gather(*map(self.ends.record, ends))

    async def _give_back_surplus(self, now: float) -> None:
        """What was read for short tasks, and stands behind long ones, is for other workers."""
        while self._ahead and self._ahead[-1].until < now:
            self._wait_again(self._ahead.pop().message)
        counted = [begun.message for begun in self._slots.take_old(now)]
        ends = [End.without_run(HAND_BACK, message) for message in counted]
        while len(self._waiting) > self._prefetch:
            ends.append(End.without_run(UNREAD, self._waiting.pop()))
        await asyncio.gather(*map(self.ends.record, ends))
        for message in counted:
            self.done(message)

    def _forget(self, message_id: str) -> None:
        if message_id in self._active:
            self._active.remove(message_id)
            self._moved = self._loop.time()
            self._lookahead.one_ended()
            self._fill_soon()

    def _fill_soon(self) -> None:
        if not self._filling:
            self._filling = True
            self._loop.call_soon(self._fill)

    def _fill(self) -> None:
        """Give the free slots what was begun ahead, and begin what takes its place."""
        self._filling = False
        self._changed.set()
        if self._stopping or self._error is not None:
            return
        values: list[Any] = [*self._head]
        self._charge(values)
        now = self._choose(self._count - len(self._active) - self._asked_ahead)
        self._active.update(message.message_id for message in now)
        wanted = self._lookahead.count(self._loop.time())
        ahead = self._choose(wanted - self._asked_ahead - len(self._ahead))
        self._asked_ahead += len(ahead)
        if len(self._waiting) <= self._few:
            self._room.set()
        for mode, messages in ((NOW, now), (AHEAD, ahead)):
            for message in messages:
                self._held.add(message.message_id)
                values += (mode, message.priority, message.message_id, message.task_id)
        if len(values) > len(self._head):
            self._start(now, ahead, values)

    def _charge(self, values: list[Any]) -> None:
        """Have a try counted for what was begun ahead, before it runs."""
        now = self._loop.time()
        left = self._slots.portion
        # A few more than there are slots, where these are free so often that it is for a moment.
        count = self._count + min(left, self._lookahead.count(now) // 2)
        while self._ahead and len(self._active) < count:
            if not left:
                self._fill_soon()
                return
            left -= 1
            begun = self._ahead.popleft()
            message = begun.message
            if begun.until < now and not begun.aborted:
                self._wait_again(message)
                continue
            if len(self._active) < self._count:
                begun = begun._replace(until=0)
            self._active.add(message.message_id)
            values += (CHARGE, message.priority, message.message_id, message.task_id)
            self._slots.put(begun)

    def _wait_again(self, message: StreamMessage) -> None:
        """Begin it anew when it has a slot; whether it was aborted meanwhile is asked then."""
        self._held.discard(message.message_id)
        self._waiting.appendleft(message)

    def _take_uncounted(
        self, message: StreamMessage, outcome: Outcome, error: BaseException | None
    ) -> None:
        if error is not None:
            self._break(error)
        elif outcome is SUPERSEDED:
            self.done(message)
        else:
            self._wait_again(message)
            self._fill_soon()

    def _choose(self, count: int) -> list[StreamMessage]:
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]

    def _start(
        self, now: list[StreamMessage], ahead: list[StreamMessage], values: list[Any]
    ) -> None:
        try:
            answer = self._library.ask("start", (self._reader.prefix,), values)
        except RedisError as error:
            self._break(error)
            return
        self._starting.add(answer)
        asked = self._loop.time()
        answer.add_done_callback(partial(self._take_started, now, ahead, values, asked))

    def _take_started(
        self,
        now: list[StreamMessage],
        ahead: list[StreamMessage],
        values: list[Any],
        asked: float,
        answer: asyncio.Future[Any],
    ) -> None:
        self._starting.discard(answer)
        error = Disconnected("It was cancelled") if answer.cancelled() else answer.exception()
        if error is None:
            self._lookahead.answered(asked=asked, now=self._loop.time())
            self._keep_begun(now, ahead, answer.result())
        elif isinstance(error, ResponseError):  # perhaps the server has forgotten our functions
            task = self._loop.create_task(self._start_again(now, ahead, values))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)
        else:
            self._break(error)

    async def _start_again(
        self, now: list[StreamMessage], ahead: list[StreamMessage], values: list[Any]
    ) -> None:
        try:
            answers = await self._library.call("start", (self._reader.prefix,), values)
        except RedisError as error:
            self._break(error)
        else:
            self._keep_begun(now, ahead, answers)

    def _keep_begun(
        self, now: list[StreamMessage], ahead: list[StreamMessage], answers: list[Any]
    ) -> None:
        until = self._loop.time() + FRESH_SECONDS
        self._asked_ahead -= len(ahead)
        for place, message in enumerate(now):
            answer = answers[place]
            self._slots.put(Begun(message) if answer is None else Begun(message, *answer))
        for message, answer in zip(ahead, answers[len(now) :], strict=True):
            if answer is None:  # it waited here for so long that another worker has it
                self.done(message)
            else:
                payload, tries, aborted = answer
                self._ahead.append(Begun(message, payload, tries, aborted, until))
        if ahead:
            self._fill_soon()

    def _break(self, error: BaseException) -> None:
        logger.debug("starting tasks failed: %s", error)
        self._error = error
        self._room.set()
        self._changed.set()
