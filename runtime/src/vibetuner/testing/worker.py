"""A real worker that runs when the test tells it to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any

from streaq import TaskStatus
from streaq.task import RegisteredTask, Task, TaskResult

from vibetuner.errors import counted
from vibetuner.redis.connection import server_ms
from vibetuner.tasks.dead_letters import DeadLetter, list_letters
from vibetuner.tasks.lifespan import worker_lifespan
from vibetuner.tasks.worker import TaskWorker, get_worker
from vibetuner.testing.clock import QueueClock, cron_tasks
from vibetuner.testing.enqueued import check_count, check_enqueued
from vibetuner.testing.leaks import lasting_keys

logger = logging.getLogger(__name__)

IDLE_SECONDS = 30.0
# A wait for a result has no end if nothing has run the worker for so long.
QUIET_SECONDS = 2
MOST_LETTERS = MOST_RESULTS = 1000
# The most times at which tasks may fall due in one advance; each takes about a tenth of a second.
MOST_MOMENTS = 1000
# A time that was "now" when the test computed it is not the past.
SLACK = timedelta(minutes=1)

# Whether the worker runs this code; it will run the tasks enqueued here by itself.
_in_worker: ContextVar[bool] = ContextVar("in_worker", default=False)


class ManualWorker:
    """The process's worker on a real queue, and the queue's clock.

    Nothing runs by itself: neither enqueued tasks, nor delayed ones, nor cron. Cron tasks are only
    scheduled once a test moves the clock.

    Attributes:
        dead_letters: the dead letters of the last run, in the order of the failures.
    """

    def __init__(self, engine: TaskWorker, context: Any, clock: QueueClock) -> None:
        self.dead_letters: list[DeadLetter] = []
        self._engine = engine
        self._context = context
        self._clock = clock
        self._enqueued: list[Task[Any, Any]] = []
        self._allowed: list[str] = []
        # Whether the next runs of cron tasks are in the queue.
        self._cron = False
        self._advances = 0  # under way
        self._lock = asyncio.Lock()

    @property
    def now(self) -> datetime:
        """The time by the queue's clock, UTC."""
        return self._clock.now

    async def run_until_idle(self, *, limit: float = IDLE_SECONDS) -> None:
        """Run due tasks, and those that they enqueue, until there is nothing left to run.

        Tasks that are scheduled for later, such as retries, wait for the clock: see
        :meth:`advance`.

        Raises:
            AssertionError: a task still runs after ``limit`` seconds; it is aborted.
            ValueError: ``limit`` is not a number above 0.
        """
        _check_limit(limit)
        await self._run_until_idle(limit)
        self.dead_letters = await _letters()

    async def advance(self, *, cron: bool = True, most: int = MOST_MOMENTS, **time: float) -> None:
        """Move the clock forward, and run the tasks that fall due, each at its time.

        ``advance(minutes=5)``; the names are those of :class:`datetime.timedelta`.

        Args:
            cron: also run cron tasks; leaving them out saves their time.
            most: the most times at which tasks may fall due.
            time: how far to move the clock.

        Raises:
            AssertionError: tasks fall due at more times than that.
            TypeError: no time is given, or its unit is unknown.
            ValueError: the time is negative or not a number, or ``most`` is not a whole number.
        """
        now = self.now
        await self._advance_since(now, now + _span(time), cron, most)

    async def advance_to(
        self, moment: datetime, *, cron: bool = True, most: int = MOST_MOMENTS
    ) -> None:
        """Like :meth:`advance`, to a time with a time zone."""
        await self._advance_since(self.now, moment, cron, most)

    async def _advance_since(
        self, since: datetime, moment: datetime, cron: bool, most: int
    ) -> None:
        # Time goes on meanwhile: a cron run that was due just after `since` must not be skipped.
        _check_moment(moment, since)
        check_count("most", most)
        if cron:
            self._check_cron(since, moment, most)
        self._advances += 1
        try:
            await self._schedule_cron(cron, since)
            moments = await self._run_due(moment, most)
        finally:
            self._advances -= 1
        self.dead_letters = await _letters()
        logger.info(
            "moved the queue's clock by %s; tasks fell due at %s%s",
            timedelta(seconds=round((moment - since).total_seconds())),
            counted(moments, "moment"),
            "" if cron else ", cron left out",
        )

    async def _run_due(self, moment: datetime, most: int) -> int:
        moments = 0
        await self.run_until_idle()
        while (due := await self._clock.next_due()) and due <= moment:
            if (moments := moments + 1) > most:
                raise AssertionError(
                    f"Before {due:%Y-%m-%d %H:%M:%S} UTC, tasks fell due at {most:,} moments, and "
                    "more are due. Look for a task that enqueues itself, or pass most="
                )
            await self._clock.move_to(due)
            await self._run_until_idle()
        await self._clock.move_to(moment)
        return moments

    async def skip(self, *, cron: bool = True, **time: float) -> None:
        """Move the clock forward while no worker runs, as in an outage.

        Args:
            cron: let cron tasks miss their time, and run late when a worker runs again.
            time: how far to move the clock, as in :meth:`advance`.
        """
        now = self.now
        await self._schedule_cron(cron, now)
        await self._clock.move_to(now + _span(time))

    @property
    def enqueued(self) -> list[Task[Any, Any]]:
        """The calls that this test has enqueued, in order; each has ``args`` and ``kwargs``."""
        return list(self._enqueued)

    async def results(self) -> list[TaskResult[Any]]:
        """Return the results of this test's tasks, including cron's, the latest first."""
        return await self._engine.get_tasks_by_status(TaskStatus.DONE, limit=MOST_RESULTS)

    def assert_enqueued(
        self,
        task: RegisteredTask,
        args: Sequence[Any] | Mapping[str, Any] | None = None,
        times: int | None = None,
    ) -> None:
        """Fail unless ``task`` was enqueued.

        A call ``within()`` a session counts once the session is committed; a call under a key that
        a task already has does not count.

        Args:
            task: the task.
            args: exactly these arguments, in order or by name; by default, any.
            times: exactly this often; by default, once or more.

        Raises:
            AssertionError: it was not; the message lists the calls.
            TypeError: ``task`` is not a task, or ``args`` is one argument instead of all.
            ValueError: ``times`` is not a whole number.
        """
        check_enqueued(self._enqueued, task, args, times)

    @asynccontextmanager
    async def inline(self) -> AsyncIterator[None]:
        """In the block, ``await task.enqueue()`` returns when the task has run.

        Tasks that the task enqueues have run by then, too. Calls that are enqueued by a commit have
        run at the end of the block.
        """
        self._engine.after_enqueue = self._run_enqueued
        try:
            yield
        finally:
            self._engine.after_enqueue = None
        await self.run_until_idle()

    def allow_keys(self, *patterns: str) -> None:
        """Allow keys without an expiry in Redis: ``allow_keys("shop:prices:*")``."""
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise TypeError(f"allow_keys takes patterns such as 'shop:*', not {pattern!r}")
        self._allowed += patterns

    async def check_keys(self) -> None:
        """Raise AssertionError if the test left a key in Redis that would stay for ever."""
        if keys := await lasting_keys(self._engine, self._allowed):
            raise AssertionError(
                f"Left in Redis without a time to live: {', '.join(keys)}. Set one (EXPIRE), or "
                "allow the keys:  vibetuner_worker.allow_keys(...)"
            )

    def hear(self, task: Task[Any, Any]) -> None:
        """Record a task that was enqueued in this process."""
        self._enqueued.append(task)

    async def wait(self, task_id: str) -> TaskResult[Any]:
        """Return a task's result once a run of the worker has ended the task.

        Raises:
            AssertionError: there is no result, and nothing runs the worker.
        """
        while True:
            was_running = self._runs
            with suppress(TimeoutError):
                return await self._engine.result_by_id(task_id, timeout=QUIET_SECONDS)
            if not (was_running or self._runs):
                status = (await self._engine.status_by_id(task_id)).value
                raise AssertionError(
                    f"{task_id} is {status}, and nothing runs the worker, so it gets no result. "
                    "Call run_until_idle() first, or advance() for a delay or the next try; why a "
                    "try failed is in the log"
                )

    @property
    def _runs(self) -> bool:
        return self._lock.locked() or self._advances > 0

    async def _run_enqueued(self) -> None:
        if not _in_worker.get():  # else the worker that runs this code runs its tasks, too
            await self.run_until_idle()

    def _check_cron(self, since: datetime, until: datetime, most: int) -> None:
        """Refuse, before anything runs, a wait that would take minutes."""
        counts = self._clock.count_cron_runs(since, until, most)
        if sum(counts.values()) <= most:
            return
        name = max(counts, key=lambda one: counts[one])
        raise AssertionError(
            f"Until {until:%Y-%m-%d %H:%M:%S} UTC cron tasks would run more than {most:,} times, "
            f"most of all {name}. Pass cron=False to leave them out, or most= to allow more"
        )

    async def _schedule_cron(self, wanted: bool, since: datetime) -> None:
        self._cron = wanted
        await (self._clock.start_cron(since) if wanted else self._clock.stop_cron())

    async def _run_until_idle(self, limit: float = IDLE_SECONDS) -> None:
        _check_clocks()
        async with self._lock:
            token = _in_worker.set(True)
            try:
                await self._run(asyncio.get_running_loop().time() + limit)
            finally:
                _in_worker.reset(token)

    async def _run(self, deadline: float) -> None:
        while await self._has_work():
            with nullcontext() if self._cron else _without_cron(self._engine):
                await self._run_once(deadline)

    async def _run_once(self, deadline: float) -> None:
        run = asyncio.create_task(self._engine.run_async(lifespan=nullcontext(self._context)))
        try:
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait({run}, timeout=max(0, left))
        finally:
            stuck = [] if run.done() else await self._abort()
            await run
        if stuck:
            raise AssertionError(f"{' and '.join(stuck)} did not end in time; aborted")

    async def _has_work(self) -> bool:
        await self._engine.courier.hand_on_all()
        await self._engine.queue_due()
        return await self._engine.queue_size(include_scheduled=False) > 0

    async def _abort(self) -> list[str]:
        running = await self._engine.get_tasks_by_status(TaskStatus.RUNNING)
        self._engine.abort_tasks({task.task_id for task in running})
        self._engine.stop()
        return [f"{task.fn_name} {task.task_id}" for task in running] or ["The worker"]


@asynccontextmanager
async def open_manual_worker() -> AsyncIterator[ManualWorker]:
    """Yield the process's worker on the server of REDIS_URL; empty the server before and after."""
    engine = get_worker()
    async with AsyncExitStack() as stack:
        stack.enter_context(_prepared(engine))
        await stack.enter_async_context(engine)
        await engine.redis.flushall()
        stack.push_async_callback(engine.redis.flushall)
        async with worker_lifespan() as context:
            now = server_ms(await engine.client.functions.connection.call("TIME"))
            worker = ManualWorker(engine, context, QueueClock(engine, now / 1000))
            engine.on_enqueue, engine.on_endless_wait = worker.hear, worker.wait
            # A first run, with nothing to do, creates the streams.
            with _without_cron(engine):
                await engine.run_async(lifespan=nullcontext(context))
            yield worker
        await worker.check_keys()


@contextmanager
def _prepared(engine: TaskWorker) -> Iterator[None]:
    """Make the worker stop when there is nothing to do; restore it afterwards."""
    as_it_was = {
        name: getattr(engine, name)
        for name in (
            "burst",
            "handle_signals",
            "on_enqueue",
            "after_enqueue",
            "on_endless_wait",
            "ahead",
        )
    }
    engine.burst, engine.handle_signals = True, False
    chatter = logging.getLogger("streaq")
    level = chatter.level
    # As in a worker's process: streaq's lines would repeat ours.
    chatter.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        chatter.setLevel(level)
        for name, value in as_it_was.items():
            setattr(engine, name, value)
        _forget_local_tasks(engine)


@contextmanager
def _without_cron(engine: TaskWorker) -> Iterator[None]:
    """Keep the engine from scheduling cron tasks at its start."""
    tasks = [(task, task.crontab) for task in cron_tasks(engine)]
    for task, _ in tasks:
        task.crontab = None
    try:
        yield
    finally:
        for task, tab in tasks:
            task.crontab = tab


def _forget_local_tasks(engine: TaskWorker) -> None:
    """Forget the tasks that were decorated in a test."""
    for name, task in list(engine.registry.items()):
        if "<locals>" in getattr(task.fn, "__qualname__", ""):
            del engine.registry[name]


def _check_clocks() -> None:
    if str(getattr(time.monotonic, "__module__", "")).startswith("freezegun"):
        raise AssertionError(
            "freezegun stops the clocks of the event loop and the queue, too, so that the test "
            "would wait for ever. Set the time with time-machine:  with time_machine.travel(...)"
        )


def _check_limit(limit: object) -> None:
    if not isinstance(limit, int | float) or not limit > 0:
        raise ValueError(f"limit takes seconds, such as 60, not {limit!r}")


def _check_moment(moment: object, now: datetime) -> None:
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError(f"advance_to takes a time with a time zone, not {moment!r}")
    if moment < now - SLACK:
        raise ValueError(f"The clock goes forward only, from {now} and not to {moment}")


def _span(time: dict[str, float]) -> timedelta:
    if not time:
        raise TypeError("The clock is moved by a span such as days=2, hours=1.5 or seconds=30")
    try:
        span = timedelta(**time)
    except (TypeError, ValueError, OverflowError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in time.items())
        raise type(error)(
            f"The clock is moved by a span such as days=2, hours=1.5 or seconds=30, not {given}"
        ) from None
    if span < timedelta(0):
        raise ValueError(f"The clock goes forward only, not by {span.total_seconds():g} s")
    return span


async def _letters() -> list[DeadLetter]:
    page = await list_letters(open_only=False, limit=MOST_LETTERS)
    return page.letters[::-1]
