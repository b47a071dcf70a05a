"""Claims messages from the queue and begins an attempt for each free slot."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from coredis.exceptions import RedisError, ResponseError

from vibetuner.redis.connection import Connection
from vibetuner.redis.functions import Functions
from vibetuner.redis.keys import GROUP, Keys
from vibetuner.tasks.attempt import LAST_MOMENT, Attempt
from vibetuner.tasks.queues import ReadOrder
from vibetuner.tasks.run.finisher import Finisher, fresh_ms
from vibetuner.tasks.run.outage import Outage

__all__ = ["Dispatcher", "Lookahead"]

# A claimed message that has found no slot for so long goes back into the queue.
FRESH_SECONDS = 0.2
# A blocking read ends after this, so that the queue is looked through for lost messages.
BLOCK_MS = 1000
LOOK_SECONDS = 0.5
BURST_SECONDS = 0.02
MOST_TRIES = 1_000_000
# The server does nothing else while it claims and loads.
MOST_AT_ONCE = 128
# Within one turn of the loop no more than a half begins: the server counts and claims for one half
# while the functions of the other half run here.
PORTIONS = 2


class Dispatcher:
    """Keeps the slots of one worker busy.

    It claims as many messages as there are free slots, and where tasks are short about as many more
    as finish in one round trip. A message that is claimed and not begun costs no attempt.

    Args:
        functions: our functions on the server.
        listener: a connection of its own, on which reads may block.
        keys: the queue's keys.
        consumer: the worker's id.
        order: the queues to read, and how a claim is divided among them.
        slots: how many attempts run at the same time.
        idle_ms: after how long another worker takes a message over.
        begin: starts an attempt, which ends with a call of :meth:`release`.
        prepare: makes what a server that was emptied has lost.
        finisher: requeues what was claimed and not begun, and knows what is not recorded yet.
        outage: hears of lost connections.
    """

    def __init__(  # noqa: PLR0913 - one collaborator of each kind
        self,
        functions: Functions,
        listener: Connection,
        *,
        keys: Keys,
        consumer: str,
        order: ReadOrder,
        slots: int,
        idle_ms: int,
        begin: Callable[[Attempt], None],
        prepare: Callable[[], Awaitable[None]],
        finisher: Finisher,
        outage: Outage,
    ) -> None:
        self.running: dict[str, Attempt] = {}  # by message
        self.on_idle: Callable[[], bool] | None = None
        self._functions = functions
        self._listener = listener
        self._keys = keys
        self._order = order
        self._slots = slots
        self._begin = begin
        self._prepare = prepare
        self._finisher = finisher
        self._outage = outage
        self._head = (GROUP, consumer, idle_ms, fresh_ms(idle_ms))
        self._loop = asyncio.get_running_loop()
        self._lookahead = Lookahead(slots=slots, now=self._loop.time())
        self._claimed: deque[Attempt] = deque()
        self._uncounted: list[Attempt] = []
        self._stopping = False
        self._filling = False
        self._changed = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is claimed or in flight here."""
        return not (self._claimed or self.running)

    async def run(self) -> None:
        """Claim messages until :meth:`stop`, through every outage."""
        while not self._stopping:
            try:
                await self._claim_some()
            except (RedisError, OSError) as error:
                if self._stopping:
                    return
                await self._outage.wait(error)
                with suppress(RedisError, OSError):  # else it is tried again at the next failure
                    if isinstance(error, ResponseError):  # a flush takes the streams with it
                        await self._prepare()
                    await self._requeue_unknown()

    async def make_groups(self) -> None:
        """Create the streams and their consumer group where they are missing."""
        await self._functions.call("make_groups", (self._keys.queue,), [GROUP, *self._order.names])

    def release(self, attempt: Attempt) -> None:
        """Free the slot of an attempt whose end is on its way."""
        if self.running.pop(attempt.message_id, None) is not None:
            self._lookahead.finished += 1
            if not self._filling:
                self._filling = True
                self._loop.call_soon(self._fill)

    def stop(self) -> None:
        """Begin nothing more; a read that blocks ends with its connection."""
        self._stopping = True
        self._changed.set()

    async def requeue_unbegun(self) -> bool:
        """Requeue every message that this worker has claimed and does not run, once it has stopped.

        Returns whether Redis has named them; those that it can't are taken over when they are idle
        enough.
        """
        self._claimed.clear()
        try:
            await self._requeue_unknown()
        except (RedisError, OSError):
            return False
        return True

    async def renew(self, state: str) -> None:
        """Renew the claims on all messages in flight, so that nobody takes them over.

        Args:
            state: what the worker says of itself.
        """
        attempts = list(self.running.values())
        group, consumer, idle, _ = self._head
        values: list[Any] = [group, consumer, state, idle]
        for one in attempts:
            values += (one.priority, one.message_id)
        now, *owned = await self._functions.call("renew", (self._keys.queue,), values)
        for attempt, mine in zip(attempts, owned, strict=True):
            if mine:
                attempt.claimed = now

    async def _claim_some(self) -> None:
        """Claim what is there; where nothing is, wait for the first new messages."""
        count = await self._room()
        # Asked before the claim: what is requeued while it is under way would be left over.
        is_over = self.on_idle is not None and self.is_empty and self.on_idle()
        if self._stopping or await self._claim(count) or self._stopping:
            return
        if self.on_idle is not None:  # a burst: it ends when there is nothing left
            if is_over:
                self.stop()
            else:
                await self._change(BURST_SECONDS)
            return
        until = self._loop.time() + LOOK_SECONDS
        while await self._listen(count) and self._loop.time() < until:
            count = await self._room()
            if self._stopping:
                return

    async def _room(self) -> int:
        """Wait until more messages are wanted; returns how many."""
        while not self._stopping:
            now = self._loop.time()
            self._requeue_stale(now)
            wanted = 2 * self._lookahead.count(now)
            if len(self._claimed) <= wanted // 2:
                room = wanted - len(self._claimed) + self._slots - len(self.running)
                if room > 0:
                    return min(room, MOST_AT_ONCE)
            await self._change(FRESH_SECONDS)
        return 0

    async def _change(self, seconds: float) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _claim(self, count: int) -> int:
        asked = self._loop.time()
        shares = self._order.divide(count)
        values = [*self._head, count, len(shares) // 2, *shares]
        reply = await self._functions.call("claim", (self._keys.queue,), values)
        self._outage.over()
        self._lookahead.answered(asked=asked, now=self._loop.time())
        return self._take(reply)

    async def _listen(self, count: int) -> bool:
        """Wait for new messages, a second at most; returns False where a queue holds more."""
        names = self._order.names
        streams = [self._keys.stream(name) for name in names]
        most = max(1, count // len(names))  # the server counts for each stream
        reply = await self._listener.call(
            "XREADGROUP", "GROUP", *self._head[:2], "COUNT", most, "BLOCK",
            min(self._head[2], BLOCK_MS), "STREAMS", *streams, *([">"] * len(streams)),
        )  # fmt: skip
        names_of = dict(zip(map(str.encode, streams), names, strict=True))
        values: list[Any] = []
        is_drained = True
        for stream, entries in reply or ():
            is_drained = is_drained and len(entries) < most
            for entry, fields in entries:
                known = dict(zip(fields[::2], fields[1::2], strict=False))
                values += (
                    names_of[stream], entry, known.get(b"task_id", b""),
                    known.get(b"enqueue_time", b"0"),
                )  # fmt: skip
        self._outage.over()
        if values:
            self._take(await self._functions.call("load", (self._keys.queue,), values))
        return is_drained

    def _take(self, reply: list[Any]) -> int:
        """Take claimed messages in; returns how many."""
        claimed, now = int(reply[0]), self._loop.time()
        for at in range(1, len(reply), 7):
            priority, message, task, queued, payload, tries, aborted = reply[at : at + 7]
            message_id = message.decode()
            if message_id in self.running or message_id in self._finisher.unrecorded:
                continue  # idle for so long that this worker has claimed it a second time
            self._claimed.append(
                Attempt(
                    task_id=task.decode("utf-8", "replace"),
                    priority=priority.decode(),
                    message_id=message_id,
                    queued=_number(queued, LAST_MOMENT),
                    payload=payload,
                    tries=_number(tries, MOST_TRIES) + 1,
                    is_aborted=bool(aborted),
                    claimed=claimed,
                    claimed_at=now,
                )
            )
        if len(reply) > 1:
            self._fill()
        return len(reply) // 7

    def _fill(self) -> None:
        """Begin what was claimed, as far as there are free slots."""
        self._filling = False
        claimed, running = self._claimed, self.running
        now = self._loop.time()
        begun: list[Attempt] = []
        most = max(1, min(self._slots // PORTIONS, MOST_AT_ONCE))
        while claimed and len(running) < self._slots and not self._stopping:
            if len(begun) == most:
                self._filling = True
                self._loop.call_soon(self._fill)
                break
            attempt = claimed.popleft()
            if now - attempt.claimed_at > FRESH_SECONDS:
                self._finisher.requeue(attempt.priority, attempt.message_id)
                continue
            running[attempt.message_id] = attempt
            begun.append(attempt)
        if begun:
            self._count(begun)
            for attempt in begun:
                self._begin(attempt)
        self._changed.set()

    def _count(self, begun: list[Attempt]) -> None:
        """Have attempts counted: sent before their functions run, so that a crash counts."""
        values: list[Any] = [*self._head, 0, 0]
        for one in (*self._uncounted, *begun):
            values += (one.priority, one.message_id, one.task_id, one.tries, one.claimed)
        waiting, self._uncounted = [*self._uncounted, *begun], []
        try:
            answer = self._functions.ask("claim", (self._keys.queue,), values)
        except RedisError:
            self._uncounted = waiting
            return
        answer.add_done_callback(lambda done: self._counted(waiting, done))

    def _counted(self, attempts: list[Attempt], answer: asyncio.Future[Any]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            # Those that still run are counted together with the next ones.
            self._uncounted += [one for one in attempts if one.message_id in self.running]

    def _requeue_stale(self, now: float) -> None:
        while self._claimed and now - self._claimed[0].claimed_at > FRESH_SECONDS:
            stale = self._claimed.popleft()
            self._finisher.requeue(stale.priority, stale.message_id)

    async def _requeue_unknown(self) -> None:
        """Requeue messages whose claim was answered to a connection that was lost."""
        held = await self._functions.call(
            "held", (self._keys.queue,), [*self._head[:2], *self._order.names]
        )
        known = {*self.running, *self._finisher.unrecorded}
        if not self._stopping:  # else a late answer has claimed them, and nothing begins
            known.update(one.message_id for one in self._claimed)
        for at in range(0, len(held), 2):
            if (message := held[at + 1].decode()) not in known:
                self._finisher.requeue(held[at].decode(), message)


class Lookahead:
    """Decides how many messages to claim beyond the free slots.

    Prefetch about as many as finish in one round trip, some times over. Long tasks need none, and
    a worker that needs none holds nothing that another worker could run.

    >>> ahead = Lookahead(slots=32, now=0.0)
    >>> ahead.finished += 100
    >>> ahead.answered(asked=0.097, now=0.1)
    >>> ahead.count(0.1), ahead.count(5.1)
    (24, 0)
    """

    SPAN_SECONDS = 0.02  # shorter spans say too little
    WEIGHT = 0.25
    MARGIN = 8  # tasks end in bunches, and each bunch should find the next one here
    MOST_PER_SLOT = 2

    def __init__(self, *, slots: int, now: float) -> None:
        self._most = self.MOST_PER_SLOT * slots
        self.finished = 0  # slots that became free since the last measurement
        self._since = now
        self._rate = 0.0
        self._wait = 0.0

    def answered(self, *, asked: float, now: float) -> None:
        """Measure a round trip, in seconds."""
        wait = now - asked
        self._wait = wait if not self._wait else self._wait + self.WEIGHT * (wait - self._wait)
        self.count(now)

    def count(self, now: float) -> int:
        """Return how many to hold by now."""
        span = now - self._since
        if span >= self.SPAN_SECONDS:
            self._rate, self.finished, self._since = self.finished / span, 0, now
        # No more than begin before they are stale, with a margin.
        spell = min(self.MARGIN * self._wait, FRESH_SECONDS / 2)
        return min(self._most, round(self._rate * spell))


def _number(stored: bytes, limit: int) -> int:
    """Return a stored number; 0 for anything else, and for what is out of range."""
    try:
        number = int(stored)
    except ValueError:
        return 0
    return number if 0 <= number < limit else 0
