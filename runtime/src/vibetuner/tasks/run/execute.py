"""The steps of an attempt: load, check, lock, call, judge."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from coredis.exceptions import RedisError
from streaq import StreaqError, StreaqRetry
from streaq.types import StreaqCancelled
from streaq.utils import datetime_ms, to_ms, to_seconds

from vibetuner.errors import GiveUp
from vibetuner.redis.keys import GROUP, Keys
from vibetuner.tasks.attempt import Attempt, Cause, Cut, End, moment
from vibetuner.tasks.client.queue import QueueClient
from vibetuner.tasks.engine import running_attempt
from vibetuner.tasks.observers import Observers
from vibetuner.tasks.payload import ArgumentsGone, Codec, Kind
from vibetuner.tasks.retry import ErrorRules, named_wait, unique_of, wanted_arguments
from vibetuner.tasks.run.finisher import fresh_ms

logger = logging.getLogger(__name__)

ON_FAILURE_SECONDS = 30.0
REPORT_SECONDS = 2.0
# The keys of every call; others name the calls that it is tied to.
PLAIN = ("f", "t", "a", "k")
UNTIED = ("", "", "", "")
# Errors that may give up even if the task has no rules.
RULED = (GiveUp, BaseExceptionGroup)

Runner = Callable[..., Coroutine[Any, Any, Any]]


class Rejected(Exception):  # noqa: N818 - not an error of the program
    """The task must not run; ``error`` becomes its result."""

    def __init__(self, error: Exception, cause: Cause | None) -> None:
        super().__init__(error)
        self.error = error
        self.cause = cause


class Executor:
    """Runs attempts to their recorded end.

    Args:
        middlewares: wrap each function, the first one outermost.
        finish: receives an attempt that has ended, or that has no end because it waits in line.
        worker_id: the worker, which is the consumer of its messages.
        idle_ms: how long the lock of a lost worker outlives the worker.
    """

    def __init__(  # noqa: PLR0913 - one collaborator of each kind
        self,
        registry: dict[str, Any],
        middlewares: Sequence[Callable[[Any], Any]],
        *,
        client: QueueClient,
        observers: Observers,
        finish: Callable[[Attempt], None],
        worker_id: str,
        idle_ms: int,
    ) -> None:
        self._registry = registry
        self._middlewares = middlewares
        self._codec = client.codec
        self._functions = client.functions
        self._connection = client.functions.connection
        self._keys = client.keys
        self._observers = observers
        self._finish = finish
        self._idle_ms = idle_ms
        self._consumer = (GROUP, worker_id, fresh_ms(idle_ms))

    async def execute(self, attempt: Attempt) -> None:
        """Run one attempt to its recorded end; any error becomes its end."""
        running_attempt.set(attempt)
        try:
            load(attempt, self._codec, self._registry, self._keys)
            task = attempt.task
            assert task is not None  # noqa: S101 - loading rejects unknown tasks
            # Before the checks, so that no newer call replaces one whose failure is being reported.
            if task.unique and _has_line(attempt) and not await self._hold(attempt):
                self._finish(attempt)
                return
            check(attempt)
            if task.expire is not None:
                self._keep_payload(attempt)
            if attempt.must_fail:
                await self._reject_for_another(attempt)
            if attempt.lock:
                await self._lock(attempt)
            if attempt.arguments_from or attempt.fallback_of:
                await self._load_passed_on(attempt)
            if attempt.end is None:
                await self._call(task, attempt)
        except Rejected as rejection:
            attempt.error, attempt.cause = rejection.error, rejection.cause
        except BaseException as error:  # noqa: BLE001 - SystemExit and the like end the task only
            attempt.error = error
        attempt.finished = time.time_ns() // 1_000_000
        if attempt.cut_again is not None:
            attempt.cut_again.cancel()
        judge(attempt, random.random)
        attempt.cut_by = attempt.cut_again = None  # a stop may still cut what follows
        if attempt.reports:
            await self._settle_reports(attempt)
        if attempt.end is End.FAILED:
            await self.give_up(attempt)
        self._finish(attempt)

    async def give_up(self, attempt: Attempt) -> None:
        """Prepare the end of a task that will not be tried again, and call its ``on_failure``."""
        if attempt.arguments_from and attempt.policy is not None and not attempt.args:
            with suppress(Exception):  # a letter without arguments is better than none
                attempt.args = await self._previous_result(attempt)
        if attempt.policy is None or attempt.policy.on_failure is None:
            return
        notice = asyncio.ensure_future(_notify(attempt, attempt.policy.on_failure))
        with suppress(asyncio.CancelledError):  # during a stop, the end is recorded all the same
            await asyncio.wait({notice}, timeout=ON_FAILURE_SECONDS)
        if not notice.done():
            notice.cancel()
            if attempt.cut_by is None:
                logger.error("on_failure of %s did not return in time", attempt.fn_name)
            else:
                logger.error("on_failure of %s was cut short by a stop", attempt.fn_name)

    def _keep_payload(self, attempt: Attempt) -> None:
        """Let a task that has begun in time not expire before its retry, or if its worker dies."""
        assert attempt.payload is not None  # noqa: S101 - it was loaded
        # XX: if another worker has taken the task over and ended it, the payload stays deleted.
        key = self._keys.data(attempt.task_id)
        kept = self._connection.call("SET", key, attempt.payload, "XX")
        kept.add_done_callback(lambda done: done.cancelled() or done.exception())  # in an outage

    async def _reject_for_another(self, attempt: Attempt) -> None:
        """Reject a task because one that it was to follow has failed."""
        blamed = await self._connection.call("GET", self._keys.blamed(attempt.task_id))
        attempt.tries = 0
        raise Rejected(StreaqError(_failed_dependency(blamed)), Cause.FAILED_DEPENDENCY)

    async def _lock(self, attempt: Attempt) -> None:
        """Take the lock of a unique task, which the worker renews for as long as the task runs."""
        holder: bytes = await self._functions.call(
            "lock", (attempt.lock,), [attempt.task_id, self._idle_ms]
        )
        if holder.decode() != attempt.task_id:
            raise Rejected(
                StreaqError(
                    "Task is unique and another instance of the same task is already running!"
                ),
                Cause.UNIQUE_CLASH,
            )

    async def _hold(self, attempt: Attempt) -> bool:
        """Begin a unique task; return False if it must not run now."""
        values = [
            _group(attempt), attempt.task_id, attempt.priority, attempt.message_id, attempt.claimed,
            *self._consumer,
        ]  # fmt: skip
        return await self._functions.call("hold", (self._keys.queue,), values) is not None

    async def _load_passed_on(self, attempt: Attempt) -> None:
        """Take the previous task's result as arguments, or as the result of a fallback."""
        if attempt.fallback_of:
            stored = await self._connection.call("GET", self._keys.fallback(attempt.task_id))
            if stored is not None:
                attempt.started = time.time_ns() // 1_000_000
                result = self._codec.load(stored, Kind.RESULT, attempt.fallback_of)
                attempt.value, attempt.end = result["r"], End.DONE
                return
        if attempt.arguments_from:
            try:
                attempt.args = await self._previous_result(attempt)
            except ArgumentsGone as error:
                attempt.tries = 0
                raise Rejected(error, Cause.FAILED_DEPENDENCY) from None

    async def _previous_result(self, attempt: Attempt) -> Sequence[Any]:
        first = attempt.arguments_from
        stored = await self._connection.call("GET", self._keys.previous(first))
        if stored is None:
            # The fallback of a task that failed with the one before it: nothing was passed on.
            if name := await self._connection.call("GET", self._keys.failed(first)):
                raise ArgumentsGone(_failed_dependency(name + f" {first}".encode()))
            raise ArgumentsGone("Dependency failed, or its result was not kept so long!")
        arguments: Sequence[Any] = self._codec.load(stored, Kind.ARGUMENTS, first)
        return arguments

    async def _call(self, task: Any, attempt: Attempt) -> None:
        attempt.started = time.time_ns() // 1_000_000
        self._observers.started(attempt)
        run: Runner = task.runner
        for middleware in reversed(self._middlewares):
            run = middleware(run)
        if task.timeout is None:
            attempt.value = await run(*attempt.args, **attempt.kwargs)
            return
        limit = to_seconds(task.timeout) or 0
        timer = asyncio.get_running_loop().call_later(limit, attempt.cut, Cut.TIME_LIMIT)
        try:
            attempt.value = await run(*attempt.args, **attempt.kwargs)
        finally:
            timer.cancel()

    async def _settle_reports(self, attempt: Attempt) -> None:
        """Send the last reported progress, within two seconds."""
        again = attempt.end in {End.RETRYING, End.REQUEUED}
        sending = [asyncio.ensure_future(report.settle(again=again)) for report in attempt.reports]
        with suppress(asyncio.CancelledError):
            await asyncio.wait(sending, timeout=REPORT_SECONDS)
        for sent in sending:
            if not sent.done():
                sent.cancel()
            elif not sent.cancelled() and (error := sent.exception()):
                name = type(error).__name__
                logger.warning("could not publish progress of %s: %s", attempt.task_id, name)


def load(attempt: Attempt, codec: Codec, registry: dict[str, Any], keys: Keys) -> None:
    """Read the payload, once, and find the task.

    Raises Rejected if the payload is gone, forged, unreadable or not a call; or the task is unknown
    here.
    """
    if attempt.payload is None:
        if attempt.task_id == f"message-{attempt.message_id}":
            raise Rejected(StreaqError("A message that names no task!"), Cause.UNREADABLE_PAYLOAD)
        raise Rejected(StreaqError("Task expired!"), Cause.EXPIRED)
    if not attempt.payload:
        raise Rejected(
            StreaqError("An empty call, or one of more than 32 MB!"), Cause.UNREADABLE_PAYLOAD
        )
    try:
        data = codec.load(attempt.payload, Kind.CALL, attempt.task_id)
    except StreaqError as error:
        raise Rejected(error, Cause.UNREADABLE_PAYLOAD) from error
    try:
        name, created = _text(data["f"]), moment(data["t"])
        ties = _ties(data) if len(data) > len(PLAIN) else UNTIED
        args, kwargs = tuple(data["a"]), {_text(key): value for key, value in data["k"].items()}
        attempt.name_task(name, registry.get(name))
        attempt.created, attempt.args, attempt.kwargs = created, args, kwargs
        attempt.triggers, attempt.otherwise, attempt.arguments_from, attempt.fallback_of = ties
    except Exception as error:
        problem = f"Failed to deserialize data ({type(error).__name__})!"
        raise Rejected(StreaqError(problem), Cause.UNREADABLE_PAYLOAD) from error
    if attempt.task is None:
        raise Rejected(StreaqError(f"Missing function {name}!"), Cause.UNKNOWN_FUNCTION)
    if attempt.task.unique:
        unique = unique_of(attempt.task)
        if unique is None or not unique.has_line:
            attempt.lock = keys.lock(_group(attempt))


def _failed_dependency(blamed: bytes | None) -> str:
    text = "Dependency failed, not running task!"
    return f"{text} It was to follow {blamed.decode('utf-8', 'replace')}" if blamed else text


def _has_line(attempt: Attempt) -> bool:
    """Return whether a unique task begins as the holder of its group; an abort waits in no line."""
    return not (attempt.lock or attempt.is_aborted or attempt.must_fail or attempt.cut_by)


def _group(attempt: Attempt) -> str:
    """Return the group of a unique task's call."""
    task: Any = attempt.task
    if (unique := unique_of(task)) is None:
        return attempt.fn_name
    return unique.group(task.fn, attempt.fn_name, attempt.args, attempt.kwargs)


def _ties(data: dict[str, Any]) -> Sequence[str]:
    return [_text(tie) if (tie := data.get(at)) else "" for at in ("T", "O", "A", "F")]


def _text(value: object) -> str:
    """Return a name or an id; raise TypeError or UnicodeError if Redis would not accept it."""
    if not isinstance(value, str):
        raise TypeError(f"not a text: {type(value).__name__}")
    value.encode()
    return value


def check(attempt: Attempt) -> None:
    """Raise Rejected if the task must not run: aborted, out of attempts, or too late."""
    task, policy = attempt.task, attempt.policy
    assert task is not None  # noqa: S101 - loading rejects unknown tasks
    if attempt.cut_by is not None:  # before its first step
        raise asyncio.CancelledError
    if attempt.is_aborted:
        raise Rejected(StreaqCancelled("Task aborted prior to run!"), None)
    if task.max_tries and attempt.tries > task.max_tries:
        raise Rejected(StreaqError("Max retry attempts reached for task!"), Cause.CRASHED)
    if attempt.has_begun:
        return
    waited = (attempt.claimed or time.time_ns() // 1_000_000) - attempt.queued  # the server's clock
    if task.max_schedule_drift is not None and waited > to_ms(task.max_schedule_drift):
        raise Rejected(StreaqError("Cron task exceeded max schedule drift!"), Cause.CRON_DRIFT)
    limit = None if policy is None else policy.expire
    if limit is not None and waited > limit / timedelta(milliseconds=1):
        raise Rejected(StreaqError("Task expired!"), Cause.EXPIRED)


def judge(attempt: Attempt, chance: Callable[[], float]) -> None:
    """Decide how an attempt ended: from its result, its exception, or the reason of its cut."""
    error = attempt.error
    if error is None:
        attempt.end = End.DONE
        return
    match attempt.cut_by:
        case Cut.STOP:
            attempt.end = End.REQUEUED
            return
        case Cut.ABORT:
            attempt.end, attempt.error = End.ABORTED, StreaqCancelled("Task aborted by user!")
            return
        case Cut.TIME_LIMIT:
            attempt.error = _timed_out(attempt, error)
            attempt.cause = Cause.TIMEOUT
            _judge_failure(attempt, chance, may_retry=_retries_timeouts(attempt))
            return
    if isinstance(error, StreaqCancelled):
        attempt.end = End.ABORTED
    elif attempt.cause is not None:
        attempt.end = End.FAILED
    elif attempt.started == 0 and isinstance(error, RedisError | OSError):
        attempt.end = End.REQUEUED  # Redis went away between the claim and the call
    else:
        attempt.cause = Cause.EXCEPTION
        asked, policy = isinstance(error, StreaqRetry), attempt.policy
        if policy is not None and (policy.errors or isinstance(error, RULED)):
            rules = policy.errors or ErrorRules()
            if rules.gives_up(error):
                attempt.end, attempt.cause = End.FAILED, Cause.GAVE_UP
                return
        _judge_failure(attempt, chance, may_retry=asked or attempt.policy is not None)


def _judge_failure(attempt: Attempt, chance: Callable[[], float], *, may_retry: bool) -> None:
    error, policy = attempt.error, attempt.policy
    assert error is not None  # noqa: S101 - it has failed
    if policy is not None:
        may_retry = policy.retry.allows_another(tries=attempt.tries)
    if not may_retry:
        attempt.end = End.FAILED
        if isinstance(error, StreaqRetry):  # not an error, only a request for another attempt
            attempt.error = error.__cause__ or StreaqError(
                f"It asked for another try, and none was left: {error}"
            )
        return
    attempt.end = End.RETRYING
    delay: timedelta | float = attempt.tries**2
    if isinstance(error, StreaqRetry):
        attempt.error = error.__cause__ or error
        with suppress(Exception):  # as if it named no time, if that can't be used
            if error.schedule:
                attempt.retry_at = moment(datetime_ms(error.schedule))
                return
            if error.delay is not None:
                attempt.retry_at = moment(attempt.finished + to_ms(error.delay))
                return
    elif policy is not None:
        named = named_wait(error, datetime.now(UTC))
        delay = policy.retry.delay(tries=attempt.tries, chance=chance()) if named is None else named
    attempt.retry_at = attempt.finished + to_ms(delay)


def _retries_timeouts(attempt: Attempt) -> bool:
    return attempt.policy is not None or (attempt.task is not None and attempt.task.retry_timeouts)


def _timed_out(attempt: Attempt, error: BaseException) -> TimeoutError:
    """Return the error of an attempt that was cut at its limit; its traceback shows where."""
    limit = to_seconds(attempt.timeout) or 0
    text = "Task timed out!"
    if attempt.policy is not None:
        text = f"{attempt.fn_name} took longer than {limit:g} s"
    return TimeoutError(text).with_traceback(error.__traceback__)


async def _notify(attempt: Attempt, on_failure: Callable[..., Any]) -> None:
    try:
        arguments = wanted_arguments(on_failure, attempt.args, attempt.kwargs)
        outcome = on_failure(attempt.fn_name, attempt.task_id, attempt.error, **arguments)
        if hasattr(outcome, "__await__"):
            await outcome
    except BaseException:
        logger.exception(
            "on_failure of %s failed", attempt.fn_name, extra={"task_id": attempt.task_id}
        )
