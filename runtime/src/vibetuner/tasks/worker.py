"""The worker that a process has: registers tasks at import, connects when used."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from datetime import datetime, timedelta
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from anyio import (
    TASK_STATUS_IGNORED,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    WouldBlock,
)
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream
from coredis import Redis, RedisCluster
from crontab import CronTab
from streaq import StreaqError, StreaqRetry
from streaq.constants import REDIS_GROUP
from streaq.task import RegisteredTask, Task
from streaq.types import StreamMessage, StreaqCancelled
from streaq.utils import now_ms, to_ms

from vibetuner.config import REDIS_MISSING, Settings, get_settings
from vibetuner.embedded import open_services
from vibetuner.errors import NotConfigured, ServiceUnavailable
from vibetuner.logs import current_task
from vibetuner.resources.redis import check, make_client, ungrouped
from vibetuner.state import Slot
from vibetuner.tasks.dead_letters.burial import Burial
from vibetuner.tasks.dead_letters.letter import Cause, DeadLetter, cause_of
from vibetuner.tasks.dead_letters.stream import letter_keys
from vibetuner.tasks.depends import inject, running_context
from vibetuner.tasks.fast import FastWorker
from vibetuner.tasks.guard import guard_of, queued_at
from vibetuner.tasks.journal.recorder import Recorder, payload_of_run
from vibetuner.tasks.lifespan import worker_lifespan
from vibetuner.tasks.payload import dump, read, signing_keys
from vibetuner.tasks.progress_hook import Ends
from vibetuner.tasks.report import Reporter, hit_the_engines_limit

__all__ = ["TaskWorker", "get_worker", "open_queue", "using_worker"]

logger = logging.getLogger(__name__)

# In development a reload should not wait; what is cut short is handed back at no cost.
DEVELOPMENT_GRACE_SECONDS = 3

# How long a result waits to be another task's arguments; the engine's five minutes are less than
# a backlog or a backoff.
HANDED_ON_TIME = timedelta(days=7)


# Gets the task and the request that sends it; returns what the enqueuer awaits.
OnEnqueue = Callable[[Task[Any, Any], Any], Any]


class ArgumentsGone(StreaqError):  # noqa: N818 - as the engine's own kin
    """The result that was to be a task's arguments is not there any more."""


_override: Slot[TaskWorker] = Slot(lambda: LookupError("no override"))


def get_worker() -> TaskWorker:
    """The process's worker: decorate with ``@worker.task()`` and ``@worker.cron()``.

    Needs no Redis and no project; what needs Redis fails when it is used, and says what is
    missing.
    """
    return _override.peek() or _process_worker()


@contextmanager
def using_worker(worker: TaskWorker) -> Iterator[TaskWorker]:
    """Make :func:`get_worker` return ``worker`` for the length of the block."""
    with _override.hold(worker):
        yield worker


@cache
def _process_worker() -> TaskWorker:
    return TaskWorker(get_settings())


@asynccontextmanager
async def open_queue() -> AsyncIterator[TaskWorker]:
    """Connect to the queue for the length of the block, for scripts that enqueue."""
    async with get_worker() as worker:
        yield worker


class TaskWorker(FastWorker):
    """streaq's worker on a fast path: connects at use, injects contexts, reports in one line each.

    Raises, when it is entered: NotConfigured without REDIS_URL; ServiceUnavailable when Redis
    does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            queue_name=settings.queue_name,
            concurrency=settings.worker_concurrency,
            grace_period=_grace_period(settings),
            idle_timeout=settings.worker_idle_timeout,
            serializer=dump,
        )
        self.middleware(self._begin_nothing_late)
        self._recorder = Recorder(self)
        self._reporter = Reporter(self, self._recorder)
        self.burial = Burial(self)
        self._ends = Ends(self)
        self._keys: list[bytes] = []
        self._run_scope: CancelScope | None = None
        self._inner_entries = 0
        # What a test kit sets: who hears of each task that is enqueued here, and how far the
        # calendar that cron goes by is ahead of the clock.
        self.on_enqueue: OnEnqueue = _send
        self.ahead = timedelta(0)

    if not TYPE_CHECKING:  # the engine's own overloads say it all to a type checker

        def task(self, function=None, **options):  # noqa: ANN001, ANN003, ANN201
            """As the engine's ``task``; parameters with ``WorkerDepends()`` are filled in."""
            if function is not None:
                return super().task(inject(function), **options)
            register = super().task(**options)
            return lambda function: register(inject(function))

        def cron(self, tab, **options):  # noqa: ANN001, ANN003, ANN201
            """As the engine's ``cron``; parameters with ``WorkerDepends()`` are filled in."""
            register = super().cron(tab, **options)
            return lambda function: register(inject(function))

    async def __aenter__(self) -> Self:  # type: ignore[misc]  # anyio's refuses a block in a block
        """Connect; inside a block that has done so, use its connection, which must outlast this."""
        if self._initialized:
            self._inner_entries += 1
        else:
            await super().__aenter__()
        return self

    async def __aexit__(  # type: ignore[misc]  # as above
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Disconnect, at the end of the outermost block."""
        if not self._inner_entries:
            return await super().__aexit__(kind, error, trace)
        self._inner_entries -= 1
        return None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[Self]:
        async with AsyncExitStack() as stack:
            stack.enter_context(ungrouped())
            settings = await stack.enter_async_context(open_services(get_settings()))
            await check(settings)
            self._redis = make_client(settings)
            self._keys = signing_keys(settings)
            self.signing_secret = self._keys[0]
            self.letter_keys = letter_keys(settings.redis_key_prefix)
            stack.callback(setattr, self, "_initialized", False)
            yield await stack.enter_async_context(super().__asynccontextmanager__())

    async def run_async(
        self,
        *,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
        lifespan: AbstractAsyncContextManager[Any] | None = None,
    ) -> None:
        """Run tasks until a signal or a cancellation ends it; may be called again afterwards.

        Around it is ``lifespan``, else the project's own.
        """
        self.lifespan = lifespan or worker_lifespan()
        self._forget_last_run()
        try:
            await super().run_async(task_status=task_status)
        finally:
            with CancelScope(shield=True):
                await self._ends.flush()

    async def serialize(self, data: Any) -> str | bytes:
        """Store data; raises PayloadError, which names what can't be stored."""
        try:
            return await super().serialize(data)
        except StreaqError as error:
            # The engine's own message would show the arguments' values.
            raise error.__cause__ or error from None

    async def deserialize(self, data: Any) -> Any:
        """Read stored data; raises StreaqError when its signature is none of ours."""
        if payload_of_run.get(b"") is None:
            payload_of_run.set(data)
        if data is None:  # only asked for where a task gets its arguments from another's result
            raise ArgumentsGone("Dependency failed, or its result was not kept so long!")
        return read(data.encode() if isinstance(data, str) else bytes(data), self._keys)

    def stop(self) -> None:
        """End :meth:`run_async` as a signal does: nothing new begins, what runs is handed back."""
        if self._run_scope is not None:
            self._run_scope.cancel("stop() was called")

    async def signal_handler(self, scope: CancelScope) -> None:
        """Wait for SIGINT or SIGTERM; remembers what they end, for :meth:`stop`."""
        self._run_scope = scope
        if self.handle_signals:
            await super().signal_handler(scope)

    async def run_consumers(
        self, receive: MemoryObjectReceiveStream[StreamMessage], *args: Any, **kwargs: Any
    ) -> None:
        """Run the consumers; at the end hand back at once what none of them has begun."""
        with receive:
            async with self._recorder.recording():
                try:
                    await super().run_consumers(receive, *args, **kwargs)
                finally:
                    with CancelScope(shield=True):
                        await self._hand_back(receive)

    @property
    def redis(self) -> Redis[str] | RedisCluster[str]:
        """The open connection; raises NotConfigured or ServiceUnavailable when there is none."""
        if self._initialized:
            return super().redis
        if not get_settings().redis_url:
            raise NotConfigured(REDIS_MISSING)
        raise ServiceUnavailable(
            "The queue is not open here. In a script:  async with open_queue(): "
            "(from vibetuner.tasks.worker)"
        )

    def publish_task(self, pipe: Any, task: Task[Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Enqueue a task, and say so to :attr:`on_enqueue`."""
        return self.on_enqueue(task, super().publish_task(pipe, task, *args, **kwargs))

    async def run_task(self, msg: StreamMessage) -> None:
        """Run one task; its id is in every log line that it writes."""
        task_token = current_task.set(msg.task_id)
        context_token = running_context.set(self.context)
        queued_token = queued_at.set(msg.enqueue_time)
        payload_token = payload_of_run.set(None)
        try:
            # The try is counted before the function begins, and a stop in between would burn it.
            with CancelScope(shield=True), self._ends.reporting(msg.task_id):
                await super().run_task(msg)
        except ArgumentsGone as error:
            tries = int(await self.redis.get(self._retry_key + msg.task_id) or 0)
            await self.finish_failed_task(msg, error, tries, 0)
        finally:
            payload_of_run.reset(payload_token)
            queued_at.reset(queued_token)
            running_context.reset(context_token)
            current_task.reset(task_token)

    def _begin_nothing_late(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """A middleware: once a stop was asked for, what has not begun is handed back at no cost."""

        async def begin(*args: Any, **kwargs: Any) -> Any:
            if self._run_scope is not None and self._run_scope.cancel_called:
                # To the engine a deadline that was moved means the end of the grace period.
                self._cancel_scopes[current_task.get() or ""].deadline = -math.inf
                await checkpoint()
            return await run(*args, **kwargs)

        return begin

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
        """Record the end of tasks whose dependency has failed."""
        error = StreaqError("Dependency failed, not running task!")
        for task_id in dependents:
            if letter := await self._bury(task_id, error, 0, None, with_end=False):
                self._recorder.not_run(task_id, error, letter.task_name, 0, letter.payload)
        await super().fail_task_dependents(dependents, otherwise)
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
        letter = await self.burial.bury(task_id, error, cause, begun, with_end=with_end)
        guard = guard or guard_of(self.registry.get(letter.task_name))
        if guard is not None:
            await guard.notify(letter, error)
        return letter

    async def _hand_back(self, receive: MemoryObjectReceiveStream[StreamMessage]) -> None:
        """Make messages that were fetched and not begun available to other workers at once."""
        waiting: defaultdict[str, list[str]] = defaultdict(list)
        with suppress(WouldBlock, EndOfStream, ClosedResourceError):
            while True:
                message = receive.receive_nowait()
                waiting[self.stream_key + message.priority].append(message.message_id)
        for stream, ids in waiting.items():
            await self.redis.xclaim(
                stream, REDIS_GROUP, self.id, 0, ids, justid=True, idle=self.idle_timeout
            )

    def _next_datetime(self, tab: str) -> datetime:
        """When a crontab line is next due, by the clock."""
        calendar = datetime.now(self.tz) + self.ahead
        due: datetime = CronTab(tab).next(now=calendar, return_datetime=True)
        return due - self.ahead

    def _forget_last_run(self) -> None:
        self._run_scope = None
        self._count = 0
        self._running = self._stream_empty = False
        self._running_tasks.clear()
        self._cancel_scopes.clear()


def _send(_task: Task[Any, Any], request: Any) -> Any:
    return request


def _grace_period(settings: Settings) -> int:
    if settings.environment == "production":
        return round(settings.worker_grace_period)
    return min(round(settings.worker_grace_period), DEVELOPMENT_GRACE_SECONDS)
