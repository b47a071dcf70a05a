"""What is recorded at the end of a try; those of one turn of the loop go to the server together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from coredis.exceptions import ConnectionError as Disconnected

from vibetuner.tasks.fast.library import Library

__all__ = ["SUPERSEDED", "End", "Ends"]

SUPERSEDED = None

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


@dataclass(slots=True)
class _Batch:
    future: asyncio.Future[list[Any]]
    values: list[Any] = field(default_factory=list)
    size: int = 0
    step: str = ""


class Ends:
    """Records ends; ``on_end`` is told of each message as soon as its end is on the way."""

    def __init__(
        self,
        library: Library,
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
        self._sending: set[asyncio.Task[None]] = set()
        self._steps = count(time.time_ns())

    async def record(self, end: End) -> list[str] | None:
        """Record ``end``; returns the tasks that go on or fail with it, or :data:`SUPERSEDED`."""
        batch = self._batch
        if batch is None:
            batch = self._batch = _Batch(self._loop.create_future())
            self._loop.call_soon(self._send)
        place = batch.size
        batch.size += 1
        batch.values.extend(end)
        self._on_end(end.message_id)
        outcome = (await batch.future)[place]
        return SUPERSEDED if outcome is None else [name.decode() for name in outcome]

    def _send(self) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            return
        batch.step = f"{self._head[1]}:{next(self._steps)}"
        try:
            answer = self._library.ask("finish", self._keys, self._values(batch, again=False))
        except Disconnected as error:
            batch.future.set_exception(error)
        else:
            answer.add_done_callback(partial(self._take, batch))

    def _take(self, batch: _Batch, answer: asyncio.Future[list[Any]]) -> None:
        if batch.future.done():
            return
        if answer.cancelled() or answer.exception() is not None:
            task = self._loop.create_task(self._insist(batch))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        else:
            batch.future.set_result(answer.result())

    async def _insist(self, batch: _Batch) -> None:
        """Send them again after a loss: the server knows what it has answered to this step."""
        try:
            outcomes = await self._send_again(batch)
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            if not batch.future.done():
                batch.future.set_exception(error)
        else:
            if not batch.future.done():
                batch.future.set_result(outcomes)

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
