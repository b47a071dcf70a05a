"""One try of a task that has begun: whether it may run, its run, and what becomes of it."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any

from anyio import CancelScope
from coredis import PureToken
from streaq import StreaqError, StreaqRetry
from streaq.constants import REDIS_PREVIOUS, REDIS_UNIQUE
from streaq.task import RegisteredTask, _task_context
from streaq.types import StreamMessage, StreaqCancelled
from streaq.utils import datetime_ms, now_ms, to_ms, to_seconds

from vibetuner.tasks.fast.slots import Begun
from vibetuner.tasks.letters.burial import Unburied
from vibetuner.tasks.payload import ArgumentsGone
from vibetuner.tasks.try_end import TryEnd

if TYPE_CHECKING:
    from vibetuner.tasks.fast.worker import FastWorker

__all__ = ["Trial"]

logger = logging.getLogger(__name__)


class _Refused(Exception):  # noqa: N818 - no error of the program's
    """The task is not to be run; holds what its result is to say."""

    def __init__(self, error: StreaqError) -> None:
        super().__init__(error)
        self.error = error


class Trial:
    """Runs tasks as streaq 7.2 does, in the same order of checks and with the same words."""

    def __init__(self, worker: FastWorker) -> None:
        self._worker = worker

    async def run(self, begun: Begun) -> bool:
        """Run one try; whether its end is being recorded, and not done with."""
        worker, message, tries = self._worker, begun.message, begun.tries
        if not tries:
            worker.counters["relinquished"] += 1
            logger.debug("%s is another worker's now", message.task_id)
            return False
        worker.begin_try(message, begun.payload)
        if begun.payload is None:
            await worker.finish_failed_task(message, StreaqError("Task expired!"), tries, 0)
            return False
        try:
            data: dict[str, Any] = await worker.deserialize(begun.payload)
        except StreaqError as error:
            await worker.finish_failed_task(message, error, tries, 0)
            return False
        name = data["f"]
        task = worker.registry.get(name)
        try:
            if task is None:
                raise _Refused(StreaqError(f"Missing function {name}!"))  # noqa: TRY301
            _check_limits(task, begun)
            lock = await self._lock(task, message) if task.unique else None
            stands_in = await self._result_of_first(message) if data.get("F") else None
            args = () if stands_in else await self._arguments(data)
        except _Refused as refusal:
            options = {} if task is None else {"ttl": task.ttl}
            await worker.finish_failed_task(
                message, refusal.error, tries, data["t"], fn_name=name,
                otherwise=data.get("O"), **options,
            )  # fmt: skip
            return False
        assert task is not None  # noqa: S101 - refused above
        end = TryEnd(
            message=message, payload=begun.payload, fn_name=name, tries=tries,
            start_time=now_ms(), created_time=data["t"], silent=task.silent, ttl=task.ttl,
            triggers=data.get("T"), lock_key=lock, otherwise=data.get("O"),
        )  # fmt: skip
        if stands_in:
            end.return_value, end.silent = stands_in["r"], True
        else:
            await self._attempt(task, end, args, data["k"])
        end.finish_time = now_ms()
        await worker.finish_try(end)
        return True

    async def _attempt(
        self, task: Any, end: TryEnd, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        worker, message = self._worker, end.message
        task_id = message.task_id
        run = task.runner
        for middleware in reversed(worker.middlewares):
            run = middleware(run)
        if not worker.may_start():
            self._hand_back(end)
            return
        limit = to_seconds(task.timeout)
        deadline = math.inf if limit is None else asyncio.get_running_loop().time() + limit
        context = task.build_context(task_id, end.tries)
        scopes = worker._cancel_scopes  # noqa: SLF001 - the base class's
        running = worker._running_tasks[message.priority]  # noqa: SLF001 - as above
        running.add(message.message_id)
        token = _task_context.set(context)
        scope = scopes[task_id] = CancelScope(deadline=deadline, shield=True)
        worker.try_started(context, silent=task.silent)
        try:
            with scope:
                end.return_value = await run(*args, **kwargs)
        except StreaqRetry as retry:
            worker.try_failed(context, retry, silent=task.silent)
            worker.counters["retried"] += 1
            end.success, end.finish, end.schedule = False, False, _next_try(retry, end.tries)
        except Unburied:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the task's end
            end.success, end.return_value = False, error
        else:
            if scope.cancelled_caught:
                self._cut_short(task, end, on_its_own_time=scope.deadline == deadline)
        finally:
            scopes.pop(task_id, None)
            _task_context.reset(token)
            running.discard(message.message_id)

    def _cut_short(self, task: RegisteredTask, end: TryEnd, *, on_its_own_time: bool) -> None:
        counters = self._worker.counters
        end.success = False
        if end.message.task_id not in self._worker._cancel_scopes:  # noqa: SLF001 - as above
            counters["aborted"] += 1
            counters["failed"] -= 1  # recording its end adds it
            end.return_value = StreaqCancelled("Task aborted by user!")
        elif not on_its_own_time:
            self._hand_back(end)
        elif task.retry_timeouts:
            counters["retried"] += 1
            end.finish, end.schedule = False, now_ms() + end.tries**2 * 1000
        else:
            end.return_value = TimeoutError("Task timed out!")

    def _hand_back(self, end: TryEnd) -> None:
        self._worker.counters["relinquished"] += 1
        end.success = end.finish = False

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
            try:
                return await worker.deserialize(handed_on)  # type: ignore[no-any-return]
            except ArgumentsGone as error:
                raise _Refused(error) from None
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
