"""What a worker keeps of each task: log lines, journal, dead letter, and who watches it."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import Any

from anyio import CancelScope, sleep
from coredis.exceptions import RedisError
from streaq import StreaqError, StreaqRetry
from streaq.task import RegisteredTask
from streaq.types import StreamMessage, StreaqCancelled
from streaq.utils import now_ms, to_ms

from vibetuner.tasks.dead_letters.burial import Burial, Unburied
from vibetuner.tasks.dead_letters.letter import Cause, DeadLetter, cause_of
from vibetuner.tasks.guard import guard_of
from vibetuner.tasks.journal.recorder import Recorder, payload_of_run
from vibetuner.tasks.progress_hook import Ends, Reporting, reporting
from vibetuner.tasks.report import Reporter, hit_the_engines_limit
from vibetuner.tasks.stopping import StoppableWorker

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
        self._reporter = Reporter(self, self._recorder)
        self._ends = Ends(self)

    async def run_consumers(self, *args: Any, **kwargs: Any) -> None:
        """Run the consumers, and write down what happens; at the end everything is told."""
        async with self._recorder.recording():
            try:
                await super().run_consumers(*args, **kwargs)
            finally:
                with CancelScope(shield=True):
                    await self._ends.flush()

    async def run_task(self, msg: StreamMessage) -> None:
        """Run one task, which may report its progress."""
        token = reporting.set(Reporting(msg.task_id, self._ends))
        try:
            await super().run_task(msg)
        finally:
            reporting.reset(token)

    async def finish_task(self, msg: StreamMessage, *args: Any, **kwargs: Any) -> bool:  # type: ignore[override]
        """Record the end of a try, and report it; False when it was another worker's by then."""
        late = hit_the_engines_limit(kwargs["return_value"], finish=kwargs["finish"])
        if late and not kwargs["success"]:
            kwargs |= await self._judge_late(msg, kwargs["fn_name"], kwargs["tries"])
        if not kwargs["finish"] and kwargs["schedule"] is None and not self.is_fast:
            # Cut short by a planned stop, which is no fault of the task's: this try is not counted.
            await self.redis.decr(self._retry_key + msg.task_id)
        await self._ends.settle(again=not kwargs["finish"])
        if not await super().finish_task(msg, *args, **kwargs):
            return False
        if kwargs["finish"]:
            self._ends.tell(msg.task_id, kwargs["return_value"], success=kwargs["success"])
        if kwargs["success"] and kwargs["triggers"] and not self.is_fast:
            await self.redis.expire(self._previous_key + msg.task_id, HANDED_ON_TIME)
        self._reporter.finished(**kwargs)
        self._recorder.finished(msg, **kwargs)
        return True

    async def _judge_late(self, msg: StreamMessage, fn_name: str, tries: int) -> dict[str, Any]:
        """What becomes of a robust task that the engine has ended, and not our own limit.

        Both limits are over when a worker comes back that was stopped in between, or whose loop
        was blocked, and the engine's then speaks first.
        """
        task = self.registry[fn_name]
        guard = guard_of(task)
        if guard is None:
            return {}
        verdict = await guard.judge_late(task, task.build_context(msg.task_id, tries))
        if not isinstance(verdict, StreaqRetry):
            return {"return_value": verdict}
        self.counters["retried"] += 1
        schedule = now_ms() + to_ms(verdict.delay or 0)
        return {"finish": False, "schedule": schedule, "return_value": None}

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
