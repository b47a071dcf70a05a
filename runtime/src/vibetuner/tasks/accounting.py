"""What a worker keeps of each task: log lines, journal, dead letter, and who watches it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from anyio import CancelScope, sleep
from coredis.exceptions import RedisError
from streaq import StreaqError, StreaqRetry, TaskContext
from streaq.task import RegisteredTask, _task_context
from streaq.types import StreamMessage, StreaqCancelled
from streaq.utils import now_ms, to_ms

from vibetuner.tasks.guard import guard_of, queued_at
from vibetuner.tasks.journal.recorder import Recorder, payload_of_run
from vibetuner.tasks.letters.burial import Burial, Unburied
from vibetuner.tasks.letters.letter import Cause, DeadLetter, cause_of
from vibetuner.tasks.progress_hook import Ends, Reporting, reporting
from vibetuner.tasks.report import Reporter, hit_the_engines_limit
from vibetuner.tasks.stopping import StoppableWorker
from vibetuner.tasks.try_end import TryEnd

__all__ = ["AccountingWorker"]

# How long a result waits to be another task's arguments; the engine's five minutes are less than
# a backlog or a backoff.
HANDED_ON_TIME = timedelta(days=7)

# A server that restarts is waited for this long.
PATIENCE_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 5, 5, 10, 10)


class AccountingWorker(StoppableWorker):
    """A worker that accounts for each of its tasks, whatever becomes of it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.burial = Burial(self)
        self._recorder = Recorder(self)
        self._reporter = Reporter(self)
        self._ends = Ends(self)
        self.own_middlewares.append(self._announce)

    async def run_consumers(self, *args: Any, **kwargs: Any) -> None:
        """Run the consumers, and write down what happens; at the end everything is told."""
        async with self._recorder.recording():
            try:
                await super().run_consumers(*args, **kwargs)
            finally:
                with CancelScope(shield=True):
                    await self._ends.flush()

    def begin_try(self, message: StreamMessage, payload: bytes | None) -> None:
        """From now on what this context reports is of the message's task."""
        super().begin_try(message, payload)
        reporting.set(Reporting(message.task_id, self._ends))
        payload_of_run.set(payload)
        queued_at.set(message.enqueue_time)

    def try_started(self, run: TaskContext, *, silent: bool) -> None:
        """Write down that a try has begun."""
        self._recorder.started(run, queued_at.get())
        if not silent:
            self._reporter.started(run)

    def try_failed(self, run: TaskContext, retry: StreaqRetry, *, silent: bool) -> None:
        """Write down why there will be another try."""
        cause = retry.__cause__ or retry
        self._recorder.failing(run.task_id, cause)
        if not silent:
            self._reporter.failed(run, cause)

    async def settle_try(self, end: TryEnd) -> None:
        """Judge a try that took too long, and send what its task has reported."""
        if not end.success and hit_the_engines_limit(end.return_value, finish=end.finish):
            await self._judge_late(end)
        await self._ends.settle(again=not end.finish)

    def try_recorded(self, end: TryEnd) -> None:
        """Tell of the end of a try, and write it down."""
        if end.finish:
            self._ends.tell(end.message.task_id, end.return_value, success=end.success)
        self._reporter.finished(end)
        self._recorder.finished(end)

    async def finish_task(self, msg: StreamMessage, *args: Any, **kwargs: Any) -> None:
        """Record the end of a try as the engine does, and account for it."""
        end = TryEnd(message=msg, payload=payload_of_run.get(None), **kwargs)
        await self.settle_try(end)
        kwargs |= {name: getattr(end, name) for name in ("finish", "schedule", "return_value")}
        if not end.finish and end.schedule is None:
            # Cut short by a planned stop, which is no fault of the task's: this try is not counted.
            await self.redis.decr(self._retry_key + msg.task_id)
        await super().finish_task(msg, *args, **kwargs)
        if end.success and end.triggers:
            await self.redis.expire(self._previous_key + msg.task_id, HANDED_ON_TIME)
        self.try_recorded(end)

    def _announce(
        self, run: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """A middleware: what the fast path tells by itself."""

        async def announced(*args: Any, **kwargs: Any) -> Any:
            context = _task_context.get()
            silent = self.registry[context.fn_name].silent
            self.try_started(context, silent=silent)
            try:
                return await run(*args, **kwargs)
            except StreaqRetry as retry:
                self.try_failed(context, retry, silent=silent)
                raise

        return announced

    async def _judge_late(self, end: TryEnd) -> None:
        """What becomes of a robust task that the engine has ended, and not our own limit.

        Both limits are over when a worker comes back that was stopped in between, or whose loop
        was blocked, and the engine's then speaks first.
        """
        task = self.registry[end.fn_name]
        guard = guard_of(task)
        if guard is None:
            return
        verdict = await guard.judge_late(task, task.build_context(end.message.task_id, end.tries))
        if not isinstance(verdict, StreaqRetry):
            end.return_value = verdict
            return
        self.counters["retried"] += 1
        end.finish, end.return_value = False, None
        end.schedule = now_ms() + to_ms(verdict.delay or 0)

    async def finish_failed_task(
        self, msg: StreamMessage, exc: BaseException, tries: int, *args: Any, **kwargs: Any
    ) -> None:
        """Record the end of a task that could not be run, and report it."""
        fn_name = kwargs.get("fn_name", "unknown task")
        if not isinstance(exc, StreaqCancelled):
            await self._bury(msg.task_id, exc, tries, self.registry.get(fn_name))
        await super().finish_failed_task(msg, exc, tries, *args, **kwargs)
        self._ends.tell(msg.task_id, exc)
        self._reporter.not_run(exc, fn_name)
        self._recorder.not_run(msg.task_id, exc, fn_name, tries, queued=msg.enqueue_time)

    async def fail_task_dependents(self, dependents: list[str], otherwise: str | None) -> None:
        """Record the end of tasks whose dependency has failed; nobody else knows of them by now."""
        error = StreaqError("Dependency failed, not running task!")
        left = deque(dependents)
        for pause in (*PATIENCE_SECONDS, None):
            try:
                while left:
                    letter = await self._bury(left[0], error, 0, None, with_end=False)
                    task_id = left.popleft()
                    if letter is not None:
                        self._recorder.not_run(task_id, error, letter.task_name, 0, letter.payload)
                await super().fail_task_dependents(dependents, otherwise)
                break
            except (Unburied, RedisError, OSError):
                if pause is None:
                    raise
                await sleep(pause)
        for task_id in dependents:
            self._ends.tell(task_id, error)

    async def abort_by_id(self, task_id: str, timeout: timedelta | int | None = 5) -> bool:  # noqa: ASYNC109
        """End a task; one that no worker has begun is told to have ended here."""
        aborted = await super().abort_by_id(task_id, timeout)
        if aborted:
            self._ends.tell(task_id, StreaqCancelled("Task aborted!"))
            await self._ends.flush()
        return aborted

    async def _bury(
        self,
        task_id: str,
        error: BaseException,
        tries: int,
        task: RegisteredTask | None,
        *,
        with_end: bool = True,
    ) -> DeadLetter | None:
        """Keep a letter of a robust task, or of one that can't be told any more."""
        guard = guard_of(task)
        if task is not None and guard is None:
            return None
        cause = cause_of(error)
        # The try that finds the limit reached did not run.
        begun = tries - 1 if cause is Cause.CRASHED else tries
        payload = payload_of_run.get(None) if with_end else None
        letter = await self.burial.bury(
            task_id, error, cause, begun, payload=payload, with_end=with_end
        )
        guard = guard or guard_of(self.registry.get(letter.task_name))
        if guard is not None:
            await guard.notify(letter, error)
        return letter
