"""Records how attempts ended; the ends of one event loop turn go to the server together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from coredis.exceptions import RedisError, ResponseError
from streaq.utils import to_tuple

from vibetuner.errors import first_line
from vibetuner.logs import together
from vibetuner.redis.keys import GROUP
from vibetuner.tasks.attempt import Attempt, Cause, End, Source
from vibetuner.tasks.client.queue import QueueClient, result_lifetime
from vibetuner.tasks.observers import Observers
from vibetuner.tasks.payload import KEPT, Kind, dump
from vibetuner.tasks.run.outage import Outage

logger = logging.getLogger(__name__)

# The kinds of ends in lua/queue.lua.
SUCCESS, FAILURE, RETRY, REQUEUE, UNCOUNTED = "s", "f", "r", "h", "u"
KINDS = {
    End.DONE: SUCCESS, End.FAILED: FAILURE, End.ABORTED: FAILURE,
    End.RETRYING: RETRY, End.REQUEUED: REQUEUE,
}  # fmt: skip
COUNTERS = {
    End.DONE: "completed", End.FAILED: "failed", End.ABORTED: "aborted",
    End.RETRYING: "retried", End.REQUEUED: "relinquished",
}  # fmt: skip

LARGEST_PAYLOAD = 4096


@dataclass(slots=True, eq=False)
class Batch:
    """Ends that are sent to the server together."""

    values: list[Any] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)


class Finisher:
    """Records the ends of one worker's attempts; during an outage, it waits.

    Args:
        worker_id: the worker, which is the consumer of its messages.
        idle_ms: the time after which another worker takes a message over.
    """

    def __init__(  # noqa: PLR0913 - one collaborator of each kind
        self,
        client: QueueClient,
        *,
        worker_id: str,
        idle_ms: int,
        observers: Observers,
        counters: dict[str, int],
        outage: Outage,
    ) -> None:
        # What the server has to know of a consumer, and how long its claims are safe.
        self.head = (GROUP, worker_id, idle_ms, fresh_ms(idle_ms))
        self.unrecorded: dict[Source, int] = {}  # number of ends being recorded
        keys = client.keys
        self._functions = client.functions
        self._codec = client.codec
        self._keys = (keys.queue, keys.letters, keys.letter_places, keys.prefix)
        self._worker_id = worker_id
        self._observers = observers
        self._counters = counters
        self._outage = outage
        self._loop = asyncio.get_running_loop()
        self._steps = count(time.time_ns())
        self._batch: Batch | None = None
        self._busy: set[asyncio.Future[Any]] = set()
        self._sent: set[Batch] = set()
        self._closed = False

    def add(self, attempt: Attempt) -> None:
        """Record the end of an attempt with the others of this turn of the loop."""
        if attempt.end is End.DONE and attempt.triggers:
            self._store_following(attempt)
        self._observers.ending(attempt)
        values = self._values(attempt)
        assert attempt.end is not None  # noqa: S101 - it was judged
        self._counters[COUNTERS[attempt.end]] += 1
        self._add(attempt, values)

    def requeue(self, priority: str, message_id: str) -> None:
        """Requeue a message that was claimed and not begun; it costs no attempt."""
        attempt = Attempt("", priority, message_id)
        self._add(attempt, [UNCOUNTED, priority, message_id, "", 0, "", "", "", "", "", "", 0])

    def abandon(self, attempt: Attempt) -> None:
        """Requeue a task whose function does not end; a late result is discarded."""
        attempt.end, attempt.finished = End.REQUEUED, time.time_ns() // 1_000_000
        self.add(attempt)

    @property
    def is_settled(self) -> bool:
        """Return whether everything is recorded."""
        return not self._busy and self._batch is None

    async def settled(self) -> None:
        """Wait until everything is recorded."""
        while self._busy or self._batch is not None:
            await asyncio.wait(self._busy) if self._busy else await asyncio.sleep(0)

    def close(self) -> list[Attempt]:
        """Repeat no step; return the attempts whose ends the server has not acknowledged.

        Ends that were added in this turn of the loop are still sent, once.
        """
        self._closed = True
        for one in tuple(self._busy):
            one.cancel()
        batches = [*self._sent, self._batch] if self._batch is not None else self._sent
        return [one for batch in batches for one in batch.attempts if one.end is not None]

    def _add(self, attempt: Attempt, values: list[Any]) -> None:
        batch = self._batch
        if batch is None:
            batch = self._batch = Batch()
            self._loop.call_soon(self._send)
        batch.values += values
        batch.sizes.append(len(values))
        batch.attempts.append(attempt)
        if attempt.message_id:
            self.unrecorded[attempt.source] = self.unrecorded.get(attempt.source, 0) + 1

    def _values(self, attempt: Attempt) -> list[Any]:
        """Return the arguments of finish in lua/queue.lua for one attempt."""
        end = attempt.end
        assert end is not None  # noqa: S101 - it was judged
        entry, payload = attempt.entry, b""
        value: Any = ""
        lifetime: Any = ""
        extras: list[Any] = []
        if end is End.RETRYING or end is End.REQUEUED:
            value = attempt.retry_at if end is End.RETRYING else ""
            lifetime = attempt.tries - (end is End.REQUEUED)
            extras += ("t", entry) if entry else ()
            entry = ""
        else:
            lifetime = result_lifetime(attempt.task)
            value = self._result(attempt)
            if attempt.following:
                extras += ("f", attempt.following)
            if attempt.fallback_of:
                extras += ("b", "")
            if attempt.otherwise:
                extras += ("o", attempt.otherwise)
            if attempt.letter:
                extras += ("d", attempt.letter)
            if attempt.trace:
                extras += ("x", attempt.trace)
            if attempt.payload is None:
                extras += ("g", "")
            elif len(attempt.payload) <= LARGEST_PAYLOAD:
                payload = attempt.payload[KEPT]
            if attempt.task is not None and attempt.task.expire is not None:
                extras += ("e", "")
        if attempt.is_listed:
            extras += ("j", "")
        if attempt.lock:
            extras += ("l", attempt.lock)
        return [
            KINDS[end], attempt.priority, attempt.message_id, attempt.task_id, attempt.claimed,
            value, lifetime, attempt.fn_name, str(end), entry, payload,
            len(extras) // 2, *extras,
        ]  # fmt: skip

    def _result(self, attempt: Attempt) -> bytes:
        """Return the result as streaq stores it; one that can't be stored fails its task."""
        body = dump(
            {
                "f": attempt.fn_name, "ct": attempt.created, "et": attempt.queued,
                "s": attempt.end is End.DONE,
                "r": attempt.value if attempt.error is None else attempt.error,
                "st": attempt.started or attempt.finished, "ft": attempt.finished,
                "t": attempt.tries, "w": self._worker_id,
            }
        )  # fmt: skip
        return self._codec.seal(body, Kind.RESULT, attempt.task_id)

    def _store_following(self, attempt: Attempt) -> None:
        """Store a result as the arguments of the following task, or fail the task."""
        try:
            body = dump(to_tuple(attempt.value))
            attempt.following = self._codec.seal(body, Kind.ARGUMENTS, attempt.task_id)
        except Exception as error:  # noqa: BLE001 - pickling runs anybody's code
            attempt.end, attempt.error, attempt.cause = End.FAILED, error, Cause.EXCEPTION

    def _send(self) -> None:
        batch, self._batch = self._batch, None
        assert batch is not None  # noqa: S101 - a batch exists when _send is scheduled
        self._sent.add(batch)
        step = f"{self._worker_id}:{next(self._steps)}"
        try:
            answer = self._functions.ask("finish", self._keys, self._step(batch, step))
        except Exception:  # noqa: BLE001 - the connection is lost, or a value can't be sent
            self._resend_soon(batch, step)
            return
        self._busy.add(answer)
        answer.add_done_callback(lambda done: self._answered(batch, step, done))

    def _answered(self, batch: Batch, step: str, answer: asyncio.Future[Any]) -> None:
        self._busy.discard(answer)
        if answer.cancelled() or answer.exception() is not None:
            self._resend_soon(batch, step)
        else:
            self._recorded(batch, answer.result())

    def _resend_soon(self, batch: Batch, step: str) -> None:
        if self._closed:
            return
        self._in_background(self._send_again(batch, step))

    async def _send_again(self, batch: Batch, step: str) -> None:
        """Send a step until it is answered; the server remembers the answer to each step's name."""
        is_reported = False
        while True:
            try:
                values = self._step(batch, step, again=True)
                reply = await self._functions.call("finish", self._keys, values)
            except ResponseError as error:
                if len(batch.attempts) > 1:
                    self._split(batch)
                    return
                name = batch.attempts[0].fn_name
                if not is_reported:
                    logger.warning(
                        "could not record the end of %s yet: %s", name, first_line(error)
                    )
                is_reported = True
                await self._outage.wait(error, batch)
            except (RedisError, OSError) as error:
                await self._outage.wait(error, batch)
            except Exception:
                if len(batch.attempts) > 1:
                    self._split(batch)
                    return
                attempt = batch.attempts[0]
                logger.exception("could not record the end of %s", attempt.fn_name)
                self._forget(attempt.source)  # another worker takes it over once it is idle
                self._sent.discard(batch)
                self._outage.over(batch)
                return
            else:
                self._outage.over(batch)
                self._recorded(batch, reply)
                return

    def _split(self, batch: Batch) -> None:
        """Record the ends of a batch one by one: perhaps only one of them is refused."""
        self._sent.discard(batch)
        self._outage.over(batch)
        for part in _split(batch):
            self._sent.add(part)
            self._resend_soon(part, f"{self._worker_id}:{next(self._steps)}")

    def _step(self, batch: Batch, step: str, *, again: bool = False) -> list[Any]:
        now = time.time_ns() // 1_000_000
        return [*self.head, now, step, int(again), *batch.values]

    def _recorded(self, batch: Batch, reply: list[list[Any]]) -> None:
        self._sent.discard(batch)
        exceptions = {int(place): rest for place, *rest in reply}
        with together():
            for place, attempt in enumerate(batch.attempts, start=1):
                self._forget(attempt.source)
                if place in exceptions and not exceptions[place]:
                    self._superseded(attempt)
                    continue
                if attempt.end is not None:
                    self._observers.ended(attempt)
                attempt.error = None  # its traceback's frames refer to the attempt
                if place in exceptions:
                    self._in_background(self._enqueue_anew(attempt))

    def _forget(self, source: Source) -> None:
        left = self.unrecorded.pop(source, 1) - 1
        if left > 0:
            self.unrecorded[source] = left

    def _superseded(self, attempt: Attempt) -> None:
        if attempt.end is None:
            return  # it was claimed here and never began
        self._counters["superseded"] += 1
        logger.warning(
            "another worker took over %s; result discarded",
            attempt.fn_name,
            extra={"task_id": attempt.task_id},
        )

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _enqueue_anew(self, attempt: Attempt) -> None:
        """Enqueue a task that Redis has lost, for its next attempt; its attempts count anew."""
        wait = max(0, attempt.retry_at - time.time_ns() // 1_000_000)
        moment = f"+{wait}" if attempt.end is End.RETRYING else "0"
        values = [attempt.task_id, attempt.payload, moment, 0, attempt.priority, 0]
        while True:
            try:
                await self._functions.call("enqueue", self._keys[:1], values)
            except (RedisError, OSError) as error:
                await self._outage.wait(error, attempt)
            else:
                self._outage.over(attempt)
                return


def fresh_ms(idle_ms: int) -> int:
    """Return for how long after a claim no other worker can have taken the message over.

    That is less than the shortest idle timeout that a setting allows, one second.
    """
    return min(900, round(idle_ms * 0.9))


def _split(batch: Batch) -> list[Batch]:
    parts, at = [], 0
    for attempt, size in zip(batch.attempts, batch.sizes, strict=True):
        parts.append(Batch(batch.values[at : at + size], [size], [attempt]))
        at += size
    return parts
