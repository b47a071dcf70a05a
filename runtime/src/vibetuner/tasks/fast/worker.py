"""The running half of the fast path: one step on the server where the engine takes fifteen."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from anyio import TASK_STATUS_IGNORED, CancelScope, CapacityLimiter, create_task_group
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from coredis.exceptions import RedisError
from streaq.constants import REDIS_GROUP
from streaq.types import StreamMessage
from streaq.utils import now_ms, to_ms, to_tuple

from vibetuner.resources.wire import Address, Wire
from vibetuner.tasks.fast.due import DueClock
from vibetuner.tasks.fast.ends import SUPERSEDED, End
from vibetuner.tasks.fast.flow import Flow
from vibetuner.tasks.fast.library import Library
from vibetuner.tasks.fast.queue import FastQueue
from vibetuner.tasks.fast.trial import Trial
from vibetuner.tasks.fast.waves import Begun

__all__ = ["FastWorker"]

logger = logging.getLogger(__name__)

UNRUN_RESULT_SECONDS = 300


class FastWorker(FastQueue):
    """Begins and finishes tasks by functions of its own on the server; else as streaq does."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: where dead letters are kept, and where each task's is; before it is entered
        self.letter_keys = ("", "")
        self._letters: dict[str, str] = {}
        self._begun: dict[str, Begun] = {}
        self._flow: Flow | None = None
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


def _lifetime(ttl: timedelta | int | None) -> str | int:
    """In milliseconds; empty is for ever, as the engine has it."""
    return "" if ttl is None else to_ms(ttl)
