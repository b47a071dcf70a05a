"""streaq's worker with a fast path: one step on the server where the engine takes fifteen."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, Self

from anyio import (
    TASK_STATUS_IGNORED,
    CancelScope,
    CapacityLimiter,
    create_task_group,
    fail_after,
)
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from coredis.exceptions import RedisError
from streaq import StreaqError, Worker
from streaq.constants import REDIS_GROUP
from streaq.task import Task, TaskResult
from streaq.types import StreamMessage
from streaq.utils import datetime_ms, now_ms, to_ms, to_seconds, to_tuple

from vibetuner.resources.wire import Address, Wire
from vibetuner.tasks.fast.abort import Abort
from vibetuner.tasks.fast.answers import Answers
from vibetuner.tasks.fast.due import DueClock
from vibetuner.tasks.fast.ends import SUPERSEDED, End
from vibetuner.tasks.fast.flow import Begun, Flow
from vibetuner.tasks.fast.library import Library
from vibetuner.tasks.fast.trial import Trial

__all__ = ["FastWorker"]

logger = logging.getLogger(__name__)

ENQUEUED_AT_ONCE = 500
UNRUN_RESULT_SECONDS = 300


class FastWorker(Worker[Any]):
    """Runs, finishes and enqueues by functions of its own on the server; else as streaq does.

    The functions keep streaq's keys and formats. Without them, as on a server that refuses them,
    and with Sentinel or Cluster, every method is streaq's own.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: where dead letters are kept, and where each task's is; before it is entered
        self.letter_keys = ("", "")
        self._letters: dict[str, str] = {}
        self._begun: dict[str, Begun] = {}
        self._library: Library | None = None
        self._flow: Flow | None = None
        self._answers: Answers | None = None
        self._trial = Trial(self)

    @property
    def is_fast(self) -> bool:
        """Whether the fast path is open."""
        return self._library is not None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[Self]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(super().__asynccontextmanager__())
            address = Address.of(self._redis.connection_pool)
            if address is not None and self.anyio_backend == "asyncio":
                library = Library(await stack.enter_async_context(Wire(address)))
                if await library.load():
                    answers = Answers(address, library.wire)
                    self._answers = await stack.enter_async_context(answers)
                    self._library = library
                    stack.callback(setattr, self, "_answers", None)
                    stack.callback(setattr, self, "_library", None)
                else:
                    logger.info("this Redis refuses functions and scripts; tasks run more slowly")
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

    # -- running

    async def schedule_delayed_tasks(self) -> None:
        """Queue delayed tasks when they are due; twice a second look for aborts and cron jobs."""
        if self._library is None or self._answers is None:
            await super().schedule_delayed_tasks()
            return
        clock = DueClock(self._library, self.prefix, self.priorities)
        async with create_task_group() as group:
            group.start_soon(super().schedule_delayed_tasks)
            group.start_soon(clock.run)
            group.start_soon(self._answers.each, clock.channel, clock.wake)

    async def producer(
        self,
        queue: MemoryObjectSendStream[StreamMessage],
        limiter: CapacityLimiter,
        scope: CancelScope,
    ) -> None:
        """Read messages until it is cancelled; then give back at once what has not begun."""
        if self._flow is None:
            await super().producer(queue, limiter, scope)
            return
        with queue:
            try:
                await self._read_on(self._flow, scope)
            finally:
                with CancelScope(shield=True):
                    await self._stop(self._flow)

    async def _read_on(self, flow: Flow, scope: CancelScope) -> None:
        ahead = self.prefetch - self.concurrency
        while True:
            count = await flow.room(ahead)
            if await flow.read(count):
                continue
            if not self.burst:
                await flow.wait(count)
            elif flow.is_empty:
                scope.cancel("No tasks left for worker with --burst")
                return
            else:
                await flow.change()

    async def _stop(self, flow: Flow) -> None:
        try:
            for message in await flow.stop():
                await self.redis.xclaim(
                    self.stream_key + message.priority, REDIS_GROUP, self.id, 0,
                    [message.message_id], justid=True, idle=self.idle_timeout,
                )  # fmt: skip
        except RedisError as error:
            # Whoever takes them over when they are idle long enough begins them again.
            logger.debug("messages could not be given back: %s", error)

    async def run_consumers(
        self,
        receive: MemoryObjectReceiveStream[StreamMessage],
        renew_scope: CancelScope,
        produce_scope: CancelScope,
        *,
        task_status: TaskStatus[CapacityLimiter] = TASK_STATUS_IGNORED,
    ) -> None:
        """Run tasks until the producer has stopped and what runs has ended."""
        if self._library is None:
            await super().run_consumers(
                receive, renew_scope, produce_scope, task_status=task_status
            )
            return
        address = Address.of(self._redis.connection_pool)
        assert address is not None  # noqa: S101 - else there were no library
        try:
            async with Wire(address) as listener:
                self._flow = self._make_flow(self._library, listener)
                errors: list[Exception] = []
                # Their end is the flow's, so that none of them is cut short while it records.
                with CancelScope(shield=True):
                    async with create_task_group() as group:
                        for _ in range(self.concurrency):
                            group.start_soon(self._consume, self._flow, produce_scope, errors)
                        task_status.started(CapacityLimiter(self.concurrency))
                if errors:
                    raise errors[0]
        finally:
            self._flow = None
            renew_scope.cancel()

    def _make_flow(self, library: Library, listener: Wire) -> Flow:
        return Flow(
            library,
            listener,
            prefix=self.prefix,
            consumer=self.id,
            priorities=self.priorities,
            idle_ms=self.idle_timeout,
            slots=self.concurrency,
            letters=self.letter_keys,
        )

    async def _consume(self, flow: Flow, scope: CancelScope, errors: list[Exception]) -> None:
        while (begun := await flow.next()) is not None:
            message = begun.message
            try:
                if scope.cancel_called:
                    await self._give_back(flow, begun)
                else:
                    self._begun[message.message_id] = begun
                    await self.run_task(message)
            except Exception as error:  # noqa: BLE001 - raised when the others have ended
                errors.append(error)
                scope.cancel("A task's end could not be recorded")
            finally:
                self._begun.pop(message.message_id, None)
                flow.done(message)

    async def _give_back(self, flow: Flow, begun: Begun) -> None:
        if begun.tries:
            message = begun.message
            end = End("h", message.priority, message.message_id, message.task_id)
            await flow.ends.record(end)

    async def run_task(self, msg: StreamMessage) -> None:
        """Run one task that has begun."""
        begun = self._begun.pop(msg.message_id, None)
        if begun is None:
            await super().run_task(msg)
        else:
            await self._trial.run(begun)

    # -- recording

    async def finish_task(  # type: ignore[override]  # noqa: PLR0913, PLR0917 - the engine's own parameters
        self,
        msg: StreamMessage,
        finish: bool,
        schedule: int | None,
        return_value: Any,
        start_time: int,
        finish_time: int,
        created_time: int,
        fn_name: str,
        success: bool,
        silent: bool,
        ttl: timedelta | int | None,
        triggers: str | None,
        lock_key: str | None,
        tries: int,
        otherwise: str | None,
    ) -> bool:
        """Record the end of a try; False when another worker has taken the task over."""
        flow = self._flow
        if flow is None:
            await super().finish_task(
                msg, finish, schedule, return_value, start_time, finish_time, created_time,
                fn_name, success, silent, ttl, triggers, lock_key, tries, otherwise,
            )  # fmt: skip
            return True
        place = (msg.priority, msg.message_id, msg.task_id)
        letter = self._letters.pop(msg.task_id, "")
        if not finish:
            end = End("r", *place, schedule) if schedule is not None else End("h", *place)
            return await self._record(flow, end._replace(lock=lock_key or ""), fn_name)
        result = await self.serialize(
            {
                "f": fn_name, "ct": created_time, "et": msg.enqueue_time, "s": success,
                "r": return_value, "st": start_time, "ft": finish_time, "t": tries, "w": self.id,
            }
        )  # fmt: skip
        handed_on: str | bytes = ""
        if success and triggers:
            handed_on = await self.serialize(to_tuple(return_value))
        end = End(
            "s" if success else "f", *place, result, _lifetime(ttl), lock_key or "", handed_on,
            otherwise or "", letter,
        )  # fmt: skip
        self.counters["completed" if success else "failed"] += 1
        return await self._record(flow, end, fn_name)

    async def finish_failed_task(  # noqa: PLR0913, PLR0917 - as above
        self,
        msg: StreamMessage,
        exc: BaseException,
        tries: int,
        created_time: int,
        fn_name: str = "Unknown",
        ttl: timedelta | int | None = UNRUN_RESULT_SECONDS,
        otherwise: str | None = None,
    ) -> None:
        """Record the end of a task that was not run."""
        if self._flow is None:
            await super().finish_failed_task(msg, exc, tries, created_time, fn_name, ttl, otherwise)
            return
        now = now_ms()
        await FastWorker.finish_task(
            self, msg, True, None, exc, now, now, created_time, fn_name, False, True, ttl,
            None, None, tries, otherwise,
        )  # fmt: skip

    async def _record(self, flow: Flow, end: End, fn_name: str) -> bool:
        outcome = await flow.ends.record(end)
        if outcome is SUPERSEDED:
            self.counters["superseded"] += 1
            logger.warning("%s was taken over by another worker; its run here is void", fn_name)
            return False
        if end.kind == "f" and (outcome or end.otherwise):
            await self.fail_task_dependents(outcome, end.otherwise or None)
        return True

    def keep_with_end(self, task_id: str, letter: str) -> bool:
        """Keep a dead letter in the step that records its task's end; False if there is none."""
        if self._flow is None:
            return False
        self._letters[task_id] = letter
        return True

    # -- enqueueing

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


def _lifetime(ttl: timedelta | int | None) -> str | int:
    """In milliseconds; empty is for ever, as the engine has it."""
    return "" if ttl is None else to_ms(ttl)
