"""The enqueueing half of the fast path: connects, sends tasks, waits for results, aborts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, Self

from anyio import fail_after
from streaq import StreaqError, Worker
from streaq.task import Task, TaskResult
from streaq.utils import datetime_ms, now_ms, to_ms, to_seconds

from vibetuner.redis.client import ReliablePool
from vibetuner.redis.connection import Connection
from vibetuner.redis.functions import Functions, FunctionsRefused, Scripts
from vibetuner.tasks.fast.abort import Abort
from vibetuner.tasks.fast.answers import Answers

__all__ = ["FastQueue"]

logger = logging.getLogger(__name__)

ENQUEUED_AT_ONCE = 500


class FastQueue(Worker[Any]):
    """Enqueues by functions of its own on the server, and waits on one subscription for results.

    The functions keep streaq's keys and formats. Without them, as on a server that refuses them,
    and with Sentinel or Cluster, every method is streaq's own.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._library: Functions | None = None
        self._answers: Answers | None = None
        #: stands before the project's middlewares where the fast path, which needs none, is closed
        self.own_middlewares: list[Callable[[Any], Any]] = []

    @property
    def is_fast(self) -> bool:
        """Whether the fast path is open."""
        return self._library is not None

    @property
    def scripts(self) -> Scripts:
        """What runs a script with many arguments, and costs little."""
        return self._library or self.redis

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[Self]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(super().__asynccontextmanager__())
            pool = self._redis.connection_pool
            if isinstance(pool, ReliablePool) and self.anyio_backend == "asyncio":
                address = pool.address
                library = Functions(await stack.enter_async_context(Connection(address)))
                try:
                    await library.load()
                except FunctionsRefused:
                    logger.info("this Redis refuses functions and scripts; tasks run more slowly")
                else:
                    answers = Answers(address, library.connection)
                    self._answers = await stack.enter_async_context(answers)
                    self._library = library
                    stack.callback(setattr, self, "_answers", None)
                    stack.callback(setattr, self, "_library", None)
            if self._library is None:
                stack.callback(setattr, self, "middlewares", self.middlewares)
                self.middlewares = [*self.own_middlewares, *self.middlewares]  # type: ignore[list-item]
            yield self

    async def result_by_id(
        self,
        task_id: str,
        timeout: timedelta | int | None = None,  # noqa: ASYNC109 - the engine's own parameter
    ) -> TaskResult[Any]:
        """Wait for a task's result; raises TimeoutError after ``timeout`` seconds."""
        if self._answers is None:
            return await super().result_by_id(task_id, timeout)
        with fail_after(to_seconds(timeout)):
            raw = await self._answers.wait(self._channel_key + task_id, self.results_key + task_id)
        return read_result(task_id, await self.deserialize(raw))

    async def abort_by_id(
        self,
        task_id: str,
        timeout: timedelta | int | None = 5,  # noqa: ASYNC109 - as above
    ) -> bool:
        """Ask that a task be stopped; whether it was, in ``timeout`` seconds (0: don't wait)."""
        if self._answers is None:
            return await super().abort_by_id(task_id, timeout)
        async with self._answers.listening(self._channel_key + task_id) as message:
            return await Abort(self, task_id).ask(message, timeout)

    def publish_task(self, pipe: Any, task: Task[Any, Any], data: Any, *args: Any, **kwargs: Any):  # type: ignore[no-untyped-def]  # noqa: ANN201
        """Enqueue ``task``; in one step where it is not part of a pipeline."""
        if self._library is None or pipe is not self._redis or isinstance(task.schedule, str):
            return super().publish_task(pipe, task, data, *args, **kwargs)
        return self._enqueue([task], [data], *args)

    async def enqueue_many(self, tasks: Sequence[Task[Any, Any]]) -> None:
        """Enqueue tasks for immediate execution, hundreds in one step."""
        if self._library is None or any(isinstance(task.schedule, str) for task in tasks):
            await super().enqueue_many(tasks)
            return
        if any(task._after for task in tasks):  # noqa: SLF001 - the engine's own check
            raise StreaqError("Pipelined tasks can't be enqueued in batches!")
        now = now_ms()
        for at in range(0, len(tasks), ENQUEUED_AT_ONCE):
            part = tasks[at : at + ENQUEUED_AT_ONCE]
            await self._enqueue(part, [await task.serialize(now) for task in part], now)

    async def _enqueue(
        self, tasks: Sequence[Task[Any, Any]], payloads: Sequence[Any], now: int
    ) -> None:
        assert self._library is not None  # noqa: S101 - both callers have looked
        values: list[Any] = [now]
        for task, payload in zip(tasks, payloads, strict=True):
            task.priority = task.priority or self.priorities[-1]
            values += (
                task.id, payload, _moment(task, now), to_ms(task.parent.expire or 0),
                task.priority, len(task.after), *task.after,
            )  # fmt: skip
        await self._library.call("enqueue", (self.prefix,), values)


def read_result(task_id: str, data: dict[str, Any]) -> TaskResult[Any]:
    """A result as it is stored."""
    return TaskResult(
        task_id=task_id,
        fn_name=data["f"],
        created_time=data["ct"],
        enqueue_time=data["et"],
        success=data["s"],
        start_time=data["st"],
        finish_time=data["ft"],
        tries=data["t"],
        worker_id=data["w"],
        _result=data["r"],
    )


def _moment(task: Task[Any, Any], now: int) -> int:
    if task.schedule is not None:
        return datetime_ms(task.schedule)  # type: ignore[arg-type]
    return 0 if task.delay is None else now + to_ms(task.delay)
