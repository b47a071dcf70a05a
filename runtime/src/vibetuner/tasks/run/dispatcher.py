"""Claims messages from the queue and begins an attempt in each free slot."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import chain
from typing import Any

from coredis.exceptions import RedisError, ResponseError

from vibetuner.redis.connection import Connection
from vibetuner.redis.keys import GROUP
from vibetuner.tasks.attempt import LAST_MOMENT, Attempt, Source
from vibetuner.tasks.client.queue import QueueClient
from vibetuner.tasks.queues import ReadOrder
from vibetuner.tasks.run.finisher import Finisher
from vibetuner.tasks.run.outage import Outage

# A claimed message that gets no slot within this time is requeued.
FRESH_SECONDS = 0.2
# A blocking read ends after this, so that lost messages are looked for.
BLOCK_MS = 1000
LOOK_SECONDS = 0.5
# A blocking read on a connection that was lost may go on for so long, and claim messages.
DOUBT_SECONDS = BLOCK_MS / 1000 + 0.5
BURST_SECONDS = 0.02
# The consumer of a worker that ended is removed after a day: even a frozen one is back by then.
FORGET_MS = 86_400_000
MOST_TRIES = 1_000_000
# The number of values that the server returns of each message.
VALUES = 7
# The marks of a message: see load_messages in lua/queue.lua.
ABORT, FAIL = 1, 2
# The server does nothing else while it claims and loads messages.
MOST_AT_ONCE = 128
# In one turn of the event loop at most half of the slots begin an attempt: the server counts and
# claims for one half while the functions of the other half run here.
PORTIONS = 2


class Dispatcher:
    """Keeps the slots of one worker busy.

    It claims as many messages as there are free slots. If tasks are short, it prefetches about as
    many more as finish in one round trip. A message that is claimed and not begun costs no attempt.

    Args:
        listener: a connection of its own, for blocking reads.
        slots: the number of attempts that run at the same time.
        begin: starts an attempt, which ends with a call of :meth:`release`.
        prepare: recreates the streams and schedules that an emptied server has lost.
        finisher: the worker's own, which requeues messages that were claimed and not begun, and
            knows unrecorded ends.
    """

    def __init__(  # noqa: PLR0913 - one collaborator of each kind
        self,
        client: QueueClient,
        listener: Connection,
        *,
        order: ReadOrder,
        slots: int,
        begin: Callable[[Attempt], None],
        prepare: Callable[[], Awaitable[None]],
        finisher: Finisher,
        outage: Outage,
    ) -> None:
        self.running: dict[Source, Attempt] = {}
        self.on_idle: Callable[[], bool] | None = None
        self._functions = client.functions
        self._listener = listener
        self._keys = client.keys
        self._order = order
        self._slots = slots
        self._begin = begin
        self._prepare = prepare
        self._finisher = finisher
        self._outage = outage
        self._head = finisher.head
        self._loop = asyncio.get_running_loop()
        self._lookahead = Lookahead(slots=slots, now=self._loop.time())
        self._claimed: deque[Attempt] = deque()
        self._uncounted: list[Attempt] = []
        self._stopping = False
        self._filling = False
        self._doubt_at = math.inf
        self._changed = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        """Return whether no message is claimed or in flight here."""
        return not (self._claimed or self.running)

    async def run(self) -> None:
        """Claim messages until :meth:`stop`; during an outage, wait."""
        while not self._stopping:
            try:
                if self._loop.time() > self._doubt_at:
                    self._doubt_at = math.inf
                    await self._requeue_unknown()
                await self._claim_some()
                self._outage.over(self)
            except (RedisError, OSError) as error:
                if self._stopping:
                    return
                await self._outage.wait(error, self)
                with suppress(RedisError, OSError):  # it is tried again at the next failure
                    if isinstance(error, ResponseError):  # a flush deletes the streams, too
                        await self._prepare()
                    await self._requeue_unknown()
                self._doubt_at = self._loop.time() + DOUBT_SECONDS

    async def make_groups(self) -> None:
        """Create missing streams and groups; remove the consumers of workers that ended."""
        values = [GROUP, FORGET_MS, *self._order.names]
        await self._functions.call("make_groups", (self._keys.queue,), values)

    def release(self, attempt: Attempt) -> None:
        """Free the slot of an attempt whose end is being recorded."""
        if self.running.pop(attempt.source, None) is not None:
            self._lookahead.finished += 1
            if not self._filling:
                self._filling = True
                self._loop.call_soon(self._fill)

    def stop(self) -> None:
        """Begin nothing more; a blocking read ends with its connection."""
        self._stopping = True
        self._changed.set()

    async def requeue_unbegun(self) -> bool:
        """After a stop, requeue every message that this worker has claimed and does not run.

        Returns whether Redis named them; otherwise other workers take them over once they are idle.
        """
        self._claimed.clear()
        try:
            await self._requeue_unknown()
            await self._finisher.settled()
            # Until the server has noticed that the listener is closed, which it has by now, the
            # blocking read still gets messages, even those that were just requeued.
            await self._requeue_unknown()
        except (RedisError, OSError):
            return False
        return True

    async def renew(self, state: str) -> list[Attempt]:
        """Renew the claims on all messages in flight, so that nobody takes them over.

        Returns the attempts that nobody has taken over.
        """
        attempts = list(self.running.values())
        group, consumer, idle, _ = self._head
        values: list[Any] = [group, consumer, state, idle]
        for one in attempts:
            values += (one.priority, one.message_id, one.task_id, one.claimed)
        now, *owned = await self._functions.call("renew", (self._keys.queue,), values)
        kept = [attempt for attempt, mine in zip(attempts, owned, strict=True) if mine]
        for attempt in kept:
            attempt.claimed = now
        return kept

    async def _claim_some(self) -> None:
        """Claim the messages that are there; if there are none, wait for the first new ones."""
        count = await self._room()
        # Checked before the claim: messages requeued during the claim would be left over.
        is_over = self.on_idle is not None and self.is_empty and self.on_idle()
        if self._stopping or await self._claim(count) or self._stopping:
            return
        if self.on_idle is not None:  # burst mode ends when there is nothing left
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
        """Wait until more messages are wanted; return how many."""
        while not self._stopping:
            now = self._loop.time()
            self._requeue_stale(now)
            wanted = 2 * self._lookahead.count(now)
            if len(self._claimed) <= wanted // 2:
                room = wanted - len(self._claimed) + self._slots - len(self.running)
                if room > 0:
                    return min(room, MOST_AT_ONCE)
            self._outage.over(self)  # it asks the server for nothing
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
        if self._is_late(asked):
            messages = (reply[at : at + 4] for at in range(1, len(reply), VALUES))
            reply = await self._load([*chain.from_iterable(messages)], asked)
        self._lookahead.answered(asked=asked, now=self._loop.time())
        return self._take(reply)

    async def _listen(self, count: int) -> bool:
        """Wait for new messages, at most a second; return False if a queue holds more."""
        names = self._order.names
        streams, asked = [self._keys.stream(name) for name in names], self._loop.time()
        most = max(1, count // len(names))  # the limit applies to each stream
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
        if values:
            self._take(await self._load(values, asked))
        self._outage.over(self)
        return is_drained

    async def _load(self, messages: list[Any], asked: float) -> list[Any]:
        """Load messages that were claimed after ``asked``: four values each."""
        values = [*self._head[:2], int(self._is_late(asked)), *messages]
        reply: list[Any] = await self._functions.call("load", (self._keys.queue,), values)
        return reply

    def _is_late(self, asked: float) -> bool:
        """Return whether other workers may have taken over messages claimed after ``asked``.

        That is so if this process or the server was frozen since then.
        """
        _, _, idle_ms, fresh = self._head
        return (self._loop.time() - asked) * 1000 >= idle_ms - fresh

    def _take(self, reply: list[Any]) -> int:
        """Keep claimed messages until a slot is free; return how many."""
        claimed, now = int(reply[0]), self._loop.time()
        for at in range(1, len(reply), VALUES):
            priority, message, task, queued, payload, tries, mark = reply[at : at + VALUES]
            source = (priority.decode(), message.decode())
            if source in self.running or source in self._finisher.unrecorded:
                continue  # it was idle for so long that this worker claimed it again
            self._claimed.append(
                Attempt(
                    task_id=task.decode("utf-8", "replace") or f"message-{source[1]}",
                    priority=source[0],
                    message_id=source[1],
                    queued=_number(queued, LAST_MOMENT),
                    payload=payload,
                    tries=_number(tries, MOST_TRIES) + 1,
                    is_aborted=mark == ABORT,
                    must_fail=mark == FAIL,
                    has_begun=tries != b"",
                    claimed=claimed,
                    claimed_at=now,
                )
            )
        if len(reply) > 1:
            self._fill()
        return len(reply) // VALUES

    def _fill(self) -> None:
        """Begin claimed messages in the free slots."""
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
            running[attempt.source] = attempt
            begun.append(attempt)
        if begun:
            self._count(begun)
            for attempt in begun:
                self._begin(attempt)
        self._changed.set()

    def _count(self, begun: list[Attempt]) -> None:
        """Send the attempts' counts before their functions run, so that a crash counts as a try."""
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
            # Attempts that still run are counted with the next ones.
            self._uncounted += [one for one in attempts if one.source in self.running]

    def _requeue_stale(self, now: float) -> None:
        while self._claimed and now - self._claimed[0].claimed_at > FRESH_SECONDS:
            stale = self._claimed.popleft()
            self._finisher.requeue(stale.priority, stale.message_id)

    async def _requeue_unknown(self) -> None:
        """Requeue messages that the server claimed for a connection that was lost."""
        held = await self._functions.call(
            "held", (self._keys.queue,), [*self._head[:2], *self._order.names]
        )
        known = {*self.running, *self._finisher.unrecorded}
        if not self._stopping:  # a stopping worker begins none of them, so they are requeued
            known.update(one.source for one in self._claimed)
        for at in range(0, len(held), 2):
            if (source := (held[at].decode(), held[at + 1].decode())) not in known:
                self._finisher.requeue(*source)


class Lookahead:
    """Decides how many messages to prefetch.

    The number is ``MARGIN`` times as many as finish in one round trip. While tasks are long, that
    is 0, so that the worker holds no message that another one could run.

    >>> ahead = Lookahead(slots=32, now=0.0)
    >>> ahead.finished += 100
    >>> ahead.answered(asked=0.097, now=0.1)
    >>> ahead.count(0.1), ahead.count(5.1)
    (24, 0)
    """

    SPAN_SECONDS = 0.02  # shorter spans are not reliable
    WEIGHT = 0.25
    MARGIN = 8  # tasks end in bursts, and each burst should find prefetched messages
    MOST_PER_SLOT = 4  # with 2, no-ops ran out before three of four claims were answered

    def __init__(self, *, slots: int, now: float) -> None:
        self._most = self.MOST_PER_SLOT * slots
        self.finished = 0  # slots that became free since the last measurement
        self._since = now
        self._rate = 0.0
        self._wait = 0.0

    def answered(self, *, asked: float, now: float) -> None:
        """Record a round trip, in seconds."""
        wait = now - asked
        self._wait = wait if not self._wait else self._wait + self.WEIGHT * (wait - self._wait)
        self.count(now)

    def count(self, now: float) -> int:
        """Return how many messages to hold at this time."""
        span = now - self._since
        if span >= self.SPAN_SECONDS:
            self._rate, self.finished, self._since = self.finished / span, 0, now
        # At most as many as begin before they are stale, with a margin.
        seconds = min(self.MARGIN * self._wait, FRESH_SECONDS / 2)
        return min(self._most, round(self._rate * seconds))


def _number(stored: bytes, limit: int) -> int:
    """Parse a stored number; 0 for anything else, and for numbers out of range."""
    try:
        number = int(stored)
    except ValueError:
        return 0
    return number if 0 <= number < limit else 0
