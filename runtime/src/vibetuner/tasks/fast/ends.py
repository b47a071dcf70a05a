"""What is recorded at the end of a try; those of one turn of the loop go to the server together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, NamedTuple, Self

from coredis.exceptions import ConnectionError as Disconnected
from streaq.types import StreamMessage

from vibetuner.logs import together
from vibetuner.redis.functions import Functions

__all__ = [
    "FAILURE",
    "HAND_BACK",
    "IN_VAIN",
    "RETRY",
    "SUCCESS",
    "SUPERSEDED",
    "UNREAD",
    "End",
    "Ends",
    "Outcome",
    "Then",
]

SUPERSEDED = None

# Kinds of ends, as functions.lua has them. Handed back: the try is not counted, and who comes first
# has the task. Begun in vain: the try is not counted. Unread: who comes first has the task.
SUCCESS, FAILURE, RETRY, HAND_BACK, IN_VAIN, UNREAD = "s", "f", "r", "h", "b", "u"

# The tasks that go on or fail with one that has ended, or SUPERSEDED.
Outcome = list[bytes] | None
# Gets that, or the error because of which nobody knows.
Then = Callable[[Outcome, BaseException | None], None]

# A server that restarts is back within this.
PATIENCE_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


class End(NamedTuple):
    """The end of one try, as functions.lua takes it."""

    kind: str
    priority: str
    message_id: str
    task_id: str
    value: str | bytes | int = ""
    ttl: str | int = ""
    lock: str = ""
    following: str | bytes = ""
    otherwise: str = ""
    letter: str = ""

    @classmethod
    def without_run(cls, kind: str, message: StreamMessage) -> Self:
        """The end of what was not run, or not to its end."""
        return cls(kind, message.priority, message.message_id, message.task_id)


@dataclass(slots=True, eq=False)
class _Batch:
    recorded: asyncio.Future[None]
    values: list[Any] = field(default_factory=list)
    thens: list[Then] = field(default_factory=list)
    step: str = ""


class Ends:
    """Records ends; ``on_end`` is told of each message as soon as its end is on the way."""

    def __init__(
        self,
        library: Functions,
        keys: tuple[str, ...],
        head: tuple[str, str, int],
        on_end: Callable[[str], None],
    ) -> None:
        self._library = library
        self._keys = keys
        self._head = head
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._batch: _Batch | None = None
        self._unrecorded: set[asyncio.Future[None]] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._steps = count(time.time_ns())

    def add(self, end: End, then: Then) -> None:
        """Record ``end`` with the others of this turn of the loop; ``then`` hears of it."""
        batch = self._batch
        if batch is None:
            batch = self._batch = _Batch(self._loop.create_future())
            self._unrecorded.add(batch.recorded)
            batch.recorded.add_done_callback(self._unrecorded.discard)
            self._loop.call_soon(self._send)
        batch.values.extend(end)
        batch.thens.append(then)
        self._on_end(end.message_id)

    async def record(self, end: End) -> Outcome:
        """Record ``end``, and wait until that is done."""
        outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self.add(end, partial(_settle, outcome))
        return await outcome

    async def settled(self) -> None:
        """Wait until everything is recorded."""
        while self._unrecorded:
            await asyncio.wait(self._unrecorded)

    def _send(self) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            return
        batch.step = f"{self._head[1]}:{next(self._steps)}"
        try:
            answer = self._library.ask("finish", self._keys, self._values(batch, again=False))
        except Disconnected as error:
            _fail(batch, error)
        else:
            answer.add_done_callback(partial(self._take, batch))

    def _take(self, batch: _Batch, answer: asyncio.Future[list[Any]]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            task = self._loop.create_task(self._insist(batch))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        else:
            _tell(batch, answer.result())

    async def _insist(self, batch: _Batch) -> None:
        """Send them again after a loss: the server knows what it has answered to this step."""
        try:
            outcomes = await self._send_again(batch)
        except asyncio.CancelledError as error:
            _fail(batch, error)
            raise
        except Exception as error:  # noqa: BLE001 - who has ended hears of it
            _fail(batch, error)
        else:
            _tell(batch, outcomes)

    async def _send_again(self, batch: _Batch) -> list[Any]:
        values = self._values(batch, again=True)
        for pause in PATIENCE_SECONDS:
            with suppress(Disconnected):
                return await self._call(values)
            await asyncio.sleep(pause)
        return await self._call(values)

    async def _call(self, values: list[Any]) -> list[Any]:
        outcomes: list[Any] = await self._library.call("finish", self._keys, values)
        return outcomes

    def _values(self, batch: _Batch, *, again: bool) -> list[Any]:
        return [*self._head, round(time.time() * 1000), batch.step, int(again), *batch.values]


def _tell(batch: _Batch, outcomes: list[Any]) -> None:
    with together():
        for then, outcome in zip(batch.thens, outcomes, strict=True):
            then(outcome, None)
    batch.recorded.set_result(None)


def _fail(batch: _Batch, error: BaseException) -> None:
    for then in batch.thens:
        then(None, error)
    batch.recorded.set_result(None)


def _settle(future: asyncio.Future[Outcome], outcome: Outcome, error: BaseException | None) -> None:
    if future.done():  # nobody waits any more
        return
    if error is None:
        future.set_result(outcome)
    else:
        future.set_exception(error)
