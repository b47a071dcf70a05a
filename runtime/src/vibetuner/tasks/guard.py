"""What stands around each try of a robust task."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from datetime import timedelta
from functools import wraps
from typing import Any

from anyio import move_on_after
from streaq import StreaqError, StreaqRetry, TaskContext
from streaq.task import RegisteredTask
from streaq.types import StreaqCancelled

from vibetuner.tasks.journal.recorder import payload_of_run
from vibetuner.tasks.letters.burial import Burial, notify
from vibetuner.tasks.letters.letter import Cause, DeadLetter
from vibetuner.tasks.retry import RetryPolicy

__all__ = ["Guard", "OnFailure", "guard_of", "queued_at"]

OnFailure = Callable[[str, str, Exception], Any]
Runner = Callable[..., Coroutine[Any, Any, Any]]

ON_FAILURE_SECONDS = 30.0

# When the try that runs was put into the queue, in milliseconds.
queued_at: ContextVar[int] = ContextVar("queued_at", default=0)


class Guard:
    """Decides what follows a failed try of one task."""

    def __init__(
        self,
        policy: RetryPolicy,
        limit: timedelta | None,
        on_failure: OnFailure | None,
        expire: timedelta | None = None,
    ) -> None:
        self.policy = policy
        self.limit = limit
        self.expire = expire
        self._on_failure = on_failure

    def wrap(self, task: Any) -> Runner:
        """The task's runner, with its failures judged."""
        run: Runner = task.runner
        seconds = None if self.limit is None else self.limit.total_seconds()

        @wraps(run)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            context: TaskContext = task.context
            if self._has_expired(context):
                expired = StreaqError("Task expired!")
                raise await self._give_up(task, context, expired, Cause.EXPIRED)
            try:
                if seconds is None:
                    return await run(*args, **kwargs)
                with move_on_after(seconds):
                    return await run(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - any failure is judged
                verdict = await self._judge(task, context, error, Cause.EXCEPTION)
                raise verdict from verdict.__cause__
            raise await self.judge_late(task, context)

        guarded.guard = self  # type: ignore[attr-defined]
        return guarded

    async def notify(self, letter: DeadLetter, error: BaseException) -> None:
        """Call ``on_failure``, if there is one."""
        if self._on_failure is not None:
            await notify(self._on_failure, letter, error, ON_FAILURE_SECONDS)

    async def judge_late(self, task: RegisteredTask, run: TaskContext) -> Exception:
        """What follows a try that took longer than the limit: a StreaqRetry, or the end."""
        seconds = self.limit.total_seconds() if self.limit else 0
        late = TimeoutError(f"{task.fn_name} took longer than {seconds:g} s")
        return await self._judge(task, run, late, Cause.TIMEOUT)

    async def _judge(
        self, task: RegisteredTask, run: TaskContext, error: Exception, cause: Cause
    ) -> Exception:
        """What to raise: that which makes the engine try again, or, once buried, the error."""
        if isinstance(error, StreaqCancelled):
            return error
        if self.policy.allows_another(tries=run.tries):
            if isinstance(error, StreaqRetry):
                return error
            delay = self.policy.delay(tries=run.tries, chance=random.random())  # noqa: S311
            retry = StreaqRetry(delay=delay)
            retry.__cause__ = error
            return retry
        return await self._give_up(task, run, _final(error), cause)

    async def _give_up(
        self, task: RegisteredTask, run: TaskContext, error: Exception, cause: Cause
    ) -> Exception:
        burial: Burial = task.worker.burial  # type: ignore[attr-defined]
        payload = payload_of_run.get(None)
        letter = await burial.bury(run.task_id, error, cause, run.tries, payload=payload)
        await self.notify(letter, error)
        return error

    def _has_expired(self, run: TaskContext) -> bool:
        if self.expire is None or run.tries > 1:
            return False
        return time.time() * 1000 - queued_at.get() > self.expire / timedelta(milliseconds=1)


def guard_of(task: RegisteredTask | None) -> Guard | None:
    """The guard of a robust task; None for any other."""
    return getattr(getattr(task, "runner", None), "guard", None)


def _final(error: Exception) -> Exception:
    """The error of a last try; a StreaqRetry itself would make the engine try again."""
    if not isinstance(error, StreaqRetry):
        return error
    if isinstance(error.__cause__, Exception):
        return error.__cause__
    return StreaqError(f"It asked for another try, and none was left: {error}")
