"""One try of a task that has begun: whether it may run, its run, and what becomes of it."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyio import CancelScope
from coredis import PureToken
from streaq import StreaqError, StreaqRetry
from streaq.constants import REDIS_PREVIOUS, REDIS_UNIQUE
from streaq.task import RegisteredTask, _task_context
from streaq.types import StreamMessage, StreaqCancelled
from streaq.utils import datetime_ms, now_ms, to_ms, to_seconds

from vibetuner.tasks.dead_letters.burial import Unburied
from vibetuner.tasks.fast.waves import Begun

if TYPE_CHECKING:
    from vibetuner.tasks.fast.worker import FastWorker

__all__ = ["Trial"]

logger = logging.getLogger(__name__)


class _Refused(Exception):  # noqa: N818 - no error of the program's
    """The task is not to be run; holds what its result is to say."""

    def __init__(self, error: StreaqError) -> None:
        super().__init__(error)
        self.error = error


@dataclass(slots=True)
class _Outcome:
    """What a run has come to: finished or not, and when it is to be tried again."""

    success: bool = True
    finished: bool = True
    schedule: int | None = None
    value: Any = None


class Trial:
    """Runs tasks as streaq 7.2 does, in the same order of checks and with the same words."""

    def __init__(self, worker: FastWorker) -> None:
        self._worker = worker

    async def run(self, begun: Begun) -> None:
        """Run one try to its recorded end."""
        worker, message, tries = self._worker, begun.message, begun.tries
        if not tries:
            worker.counters["relinquished"] += 1
            logger.debug("%s is another worker's now", message.task_id)
            return
        if begun.payload is None:
            await worker.finish_failed_task(message, StreaqError("Task expired!"), tries, 0)
            return
        try:
            data: dict[str, Any] = await worker.deserialize(begun.payload)
        except StreaqError as error:
            await worker.finish_failed_task(message, error, tries, 0)
            return
        name = data["f"]
        task = worker.registry.get(name)
        try:
            if task is None:
                raise _Refused(StreaqError(f"Missing function {name}!"))  # noqa: TRY301
            _check_limits(task, begun)
            lock = await self._lock(task, message) if task.unique else None
        except _Refused as refusal:
            options = {} if task is None else {"ttl": task.ttl}
            await worker.finish_failed_task(
                message, refusal.error, tries, data["t"], fn_name=name,
                otherwise=data.get("O"), **options,
            )  # fmt: skip
            return
        assert task is not None  # noqa: S101 - refused above
        await self._run(task, begun, data, lock)

    async def _run(
        self, task: RegisteredTask, begun: Begun, data: dict[str, Any], lock: str | None
    ) -> None:
        worker, message = self._worker, begun.message
        start_time, silent = now_ms(), task.silent
        if data.get("F") and (stands_in := await self._result_of_first(message)):
            outcome, silent = _Outcome(value=stands_in["r"]), True
        else:
            arguments = await self._arguments(data)
            start_time = now_ms()
            outcome = await self._attempt(task, begun, arguments, data["k"])
        await worker.finish_task(
            message, finish=outcome.finished, schedule=outcome.schedule,
            return_value=outcome.value, start_time=start_time, finish_time=now_ms(),
            created_time=data["t"], fn_name=data["f"], success=outcome.success, silent=silent,
            ttl=task.ttl, triggers=data.get("T"), lock_key=lock, tries=begun.tries,
            otherwise=data.get("O"),
        )  # fmt: skip

    async def _attempt(
        self, task: Any, begun: Begun, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Outcome:
        worker, message = self._worker, begun.message
        run = task.runner
        for middleware in reversed(worker.middlewares):
            run = middleware(run)
        limit = to_seconds(task.timeout)
        deadline = math.inf if limit is None else asyncio.get_running_loop().time() + limit
        running = worker._running_tasks[message.priority]  # noqa: SLF001 - the base class's
        running.add(message.message_id)
        token = _task_context.set(task.build_context(message.task_id, begun.tries))
        scope = worker._cancel_scopes[message.task_id] = CancelScope(  # noqa: SLF001 - as above
            deadline=deadline, shield=True
        )
        outcome = _Outcome()
        try:
            with scope:
                outcome.value = await run(*args, **kwargs)
        except StreaqRetry as retry:
            worker.counters["retried"] += 1
            outcome = _Outcome(False, False, _next_try(retry, begun.tries))
        except Unburied:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the task's end
            outcome = _Outcome(False, value=error)
        else:
            if scope.cancelled_caught:
                outcome = self._cut_short(task, begun, scope.deadline == deadline)
        finally:
            worker._cancel_scopes.pop(message.task_id, None)  # noqa: SLF001 - as above
            _task_context.reset(token)
            running.discard(message.message_id)
        return outcome

    def _cut_short(self, task: RegisteredTask, begun: Begun, on_its_own_time: bool) -> _Outcome:
        counters = self._worker.counters
        if begun.message.task_id not in self._worker._cancel_scopes:  # noqa: SLF001 - as above
            counters["aborted"] += 1
            counters["failed"] -= 1  # recording its end adds it
            return _Outcome(False, value=StreaqCancelled("Task aborted by user!"))
        if not on_its_own_time:
            counters["relinquished"] += 1
            return _Outcome(False, False)
        if task.retry_timeouts:
            counters["retried"] += 1
            return _Outcome(False, False, now_ms() + begun.tries**2 * 1000)
        return _Outcome(False, value=TimeoutError("Task timed out!"))

    async def _lock(self, task: RegisteredTask, message: StreamMessage) -> str:
        worker = self._worker
        lock = worker.prefix + REDIS_UNIQUE + task.fn_name
        time = None if task.timeout is None else worker.idle_timeout + to_ms(task.timeout)
        holder = await worker.redis.set(
            lock, message.task_id, get=True, condition=PureToken.NX, px=time
        )
        if holder and holder != message.task_id:
            raise _Refused(
                StreaqError(
                    "Task is unique and another instance of the same task is already running!"
                )
            )
        return lock

    async def _result_of_first(self, message: StreamMessage) -> dict[str, Any] | None:
        """The result of the task that this one would have stood in for."""
        worker = self._worker
        raw = await worker.redis.get(worker._fallback_key + message.task_id)  # noqa: SLF001 - as above
        return await worker.deserialize(raw) if raw else None

    async def _arguments(self, data: dict[str, Any]) -> tuple[Any, ...]:
        worker = self._worker
        if source := data.get("A"):
            handed_on = await worker.redis.get(worker.prefix + REDIS_PREVIOUS + source)
            return await worker.deserialize(handed_on)  # type: ignore[no-any-return]
        return data["a"]  # type: ignore[no-any-return]


def _check_limits(task: RegisteredTask, begun: Begun) -> None:
    if begun.aborted:
        raise _Refused(StreaqCancelled("Task aborted prior to run!"))
    if task.max_tries and begun.tries > task.max_tries:
        raise _Refused(StreaqError("Max retry attempts reached for task!"))
    drift = task.max_schedule_drift
    if drift is not None and now_ms() - begun.message.enqueue_time > to_ms(drift):
        raise _Refused(StreaqError("Cron task exceeded max schedule drift!"))


def _next_try(retry: StreaqRetry, tries: int) -> int:
    if retry.schedule:
        return datetime_ms(retry.schedule)
    return now_ms() + (to_ms(retry.delay) if retry.delay is not None else tries**2 * 1000)
