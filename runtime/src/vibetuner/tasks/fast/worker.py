"""The running half of the fast path: one step on the server where the engine takes fifteen."""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from typing import Any

from anyio import (
    TASK_STATUS_IGNORED,
    CancelScope,
    CapacityLimiter,
    create_task_group,
    current_time,
)
from anyio.abc import TaskGroup, TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from coredis.exceptions import RedisError
from streaq import StreaqRetry, TaskContext
from streaq.types import StreamMessage
from streaq.utils import now_ms, to_ms, to_tuple

from vibetuner.redis.connection import Connection
from vibetuner.redis.functions import Functions
from vibetuner.tasks.fast.due import DueClock
from vibetuner.tasks.fast.ends import (
    FAILURE,
    HAND_BACK,
    RETRY,
    SUCCESS,
    SUPERSEDED,
    End,
    Outcome,
)
from vibetuner.tasks.fast.flow import Flow
from vibetuner.tasks.fast.queue import FastQueue
from vibetuner.tasks.fast.reader import Reader
from vibetuner.tasks.fast.slots import Begun
from vibetuner.tasks.fast.trial import Trial
from vibetuner.tasks.try_end import TryEnd

__all__ = ["FastWorker"]

logger = logging.getLogger(__name__)

UNRUN_RESULT_SECONDS = 300
LOOK_SECONDS = 0.5


class FastWorker(FastQueue):
    """Begins and finishes tasks by functions of its own on the server; else as streaq does."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: where dead letters are kept, and where each task's is; before it is entered
        self.letter_keys = ("", "")
        self._letters: dict[str, str] = {}
        self._flow: Flow | None = None
        self._group: TaskGroup | None = None
        self._errors: list[BaseException] = []
        self._stop_producing: CancelScope | None = None
        self._trial = Trial(self)

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
        while True:
            count = await flow.room()
            if await flow.read(count):
                continue
            if not self.burst:
                await self._wait(flow, count)
            elif flow.is_empty:
                scope.cancel("No tasks left for worker with --burst")
                return
            else:
                await flow.change()

    async def _wait(self, flow: Flow, count: int) -> None:
        """Take what comes as long as that is little, and what others have lost only now and then.

        To look for it each time would have the newest wait.
        """
        until = current_time() + LOOK_SECONDS
        while await flow.wait(count) < count and current_time() < until:
            count = await flow.room()

    async def _stop(self, flow: Flow) -> None:
        try:
            await flow.stop()
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
        address = self._library.connection.address
        self._errors, self._stop_producing = [], produce_scope
        try:
            async with Connection(address) as listener:
                self._flow = self._make_flow(self._library, listener)
                # Their end is the flow's, so that none of them is cut short while it records.
                with CancelScope(shield=True):
                    async with create_task_group() as self._group:
                        for _ in range(self.concurrency):
                            self._group.start_soon(self._consume, self._flow, produce_scope)
                        task_status.started(CapacityLimiter(self.concurrency))
                if self._errors:
                    raise self._errors[0]
        finally:
            self._flow = self._group = None
            renew_scope.cancel()

    def _make_flow(self, library: Functions, listener: Connection) -> Flow:
        reader = Reader(
            library,
            listener,
            prefix=self.prefix,
            consumer=self.id,
            priorities=self.priorities,
            idle_ms=self.idle_timeout,
        )
        # The engine's own number has those in it that run.
        prefetch = self.prefetch - self.concurrency
        return Flow(
            library, reader, slots=self.concurrency, prefetch=prefetch, letters=self.letter_keys
        )

    async def _consume(self, flow: Flow, scope: CancelScope) -> None:
        while (begun := await flow.next()) is not None:
            try:
                if scope.cancel_called:
                    await self._give_back(flow, begun)
                elif await self._trial.run(begun):
                    continue  # whoever hears that its end is recorded tells the flow
            except Exception as error:  # noqa: BLE001 - raised when the others have ended
                self._break(error)
            flow.done(begun.message)
        await flow.ends.settled()

    def _break(self, error: BaseException) -> None:
        self._errors.append(error)
        if self._stop_producing is not None:
            self._stop_producing.cancel("A task's end could not be recorded")

    async def _give_back(self, flow: Flow, begun: Begun) -> None:
        if begun.tries:
            await flow.ends.record(End.without_run(HAND_BACK, begun.message))

    def begin_try(self, message: StreamMessage, payload: bytes | None) -> None:
        """Hear that a message is looked at; what runs in this context is about it from now on."""

    def may_start(self) -> bool:
        """Whether a function may still be called; what may not is handed back at no cost."""
        return True

    def try_started(self, run: TaskContext, *, silent: bool) -> None:
        """Hear that a task's function is called."""

    def try_failed(self, run: TaskContext, retry: StreaqRetry, *, silent: bool) -> None:
        """Hear that a try has failed, and that there will be another."""

    async def settle_try(self, end: TryEnd) -> None:
        """Have a last word about the end of a try, before it is recorded."""

    def try_recorded(self, end: TryEnd) -> None:
        """Hear that the end of a try is recorded."""

    async def finish_try(self, end: TryEnd) -> None:
        """Have the end of a try recorded, and go on; the slot of its task is free at once."""
        flow = self._flow
        assert flow is not None  # noqa: S101 - it is what has begun the task
        await self.settle_try(end)
        recorded = await self._as_recorded(end)
        flow.ends.add(recorded, partial(self._take_recorded, flow, end))

    async def _as_recorded(self, end: TryEnd) -> End:
        message = end.message
        place = (message.priority, message.message_id, message.task_id)
        letter = self._letters.pop(message.task_id, "")
        lock = end.lock_key or ""
        if not end.finish:
            if end.schedule is None:
                return End(HAND_BACK, *place, lock=lock)
            return End(RETRY, *place, end.schedule, lock=lock)
        result = await self.serialize(
            {
                "f": end.fn_name, "ct": end.created_time, "et": message.enqueue_time,
                "s": end.success, "r": end.return_value, "st": end.start_time,
                "ft": end.finish_time, "t": end.tries, "w": self.id,
            }
        )  # fmt: skip
        handed_on: str | bytes = ""
        if end.success and end.triggers:
            handed_on = await self.serialize(to_tuple(end.return_value))
        self.counters["completed" if end.success else "failed"] += 1
        return End(
            SUCCESS if end.success else FAILURE, *place, result, _lifetime(end.ttl), lock,
            handed_on, end.otherwise or "", letter,
        )  # fmt: skip

    def _take_recorded(
        self, flow: Flow, end: TryEnd, outcome: Outcome, error: BaseException | None
    ) -> None:
        if error is not None:
            self._break(error)
        elif outcome is SUPERSEDED:
            self._was_superseded(end)
        else:
            self._tell_recorded(end)
            if self._group is not None and _has_failed_others(end, outcome):
                self._group.start_soon(self._fail_others, flow, end, outcome)
                return
        flow.done(end.message)

    def _tell_recorded(self, end: TryEnd) -> None:
        try:
            self.try_recorded(end)
        except Exception as error:  # noqa: BLE001 - the others of its batch hear of theirs
            self._break(error)

    def _was_superseded(self, end: TryEnd) -> None:
        self.counters["superseded"] += 1
        logger.warning(
            "%s was taken over by another worker; its run here is void",
            end.fn_name,
            extra={"task_id": end.message.task_id},
        )

    async def _fail_others(self, flow: Flow, end: TryEnd, outcome: list[bytes]) -> None:
        try:
            names = [name.decode() for name in outcome]
            await self.fail_task_dependents(names, end.otherwise or None)
        except Exception as error:  # noqa: BLE001 - raised when the tasks have ended
            self._break(error)
        finally:
            flow.done(end.message)

    async def finish_failed_task(  # noqa: PLR0913, PLR0917 - the engine's own parameters
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
        end = TryEnd(
            message=msg, fn_name=fn_name, tries=tries, return_value=exc, success=False,
            start_time=now, finish_time=now, created_time=created_time, silent=True, ttl=ttl,
            otherwise=otherwise,
        )  # fmt: skip
        outcome = await self._flow.ends.record(await self._as_recorded(end))
        if outcome is SUPERSEDED:
            self._was_superseded(end)
        elif _has_failed_others(end, outcome):
            await self.fail_task_dependents([name.decode() for name in outcome], otherwise)

    def keep_with_end(self, task_id: str, letter: str) -> bool:
        """Keep a dead letter in the step that records its task's end; False if there is none."""
        if self._flow is None:
            return False
        self._letters[task_id] = letter
        return True


def _has_failed_others(end: TryEnd, outcome: list[bytes]) -> bool:
    return end.finish and not end.success and bool(outcome or end.otherwise)


def _lifetime(ttl: timedelta | int | None) -> str | int:
    """In milliseconds; empty is for ever, as the engine has it."""
    return "" if ttl is None else to_ms(ttl)
