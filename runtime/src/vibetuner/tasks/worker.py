"""The worker of a process: registers tasks at import, and connects when it is used."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import cache, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast, overload

from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from coredis import Redis, RedisCluster
from crontab import CronTab
from streaq import TaskStatus as State
from streaq import Worker
from streaq.task import Task, TaskInfo, TaskResult
from streaq.types import AsyncTask as AsyncFunction
from streaq.types import P, R
from streaq.types import SyncTask as SyncFunction
from streaq.utils import datetime_ms

from vibetuner.app import VibetunerApp
from vibetuner.config import Settings, get_settings
from vibetuner.crontab import check_crontab
from vibetuner.embedded import open_services
from vibetuner.errors import ServiceUnavailable, WrongEventLoop
from vibetuner.loader import find_project
from vibetuner.logs import task_id_source
from vibetuner.redis.client import answering, open_resource, ungrouped
from vibetuner.redis.keys import Keys
from vibetuner.redis.url import parse_url
from vibetuner.resources.slots import no_queue, task_queue
from vibetuner.sse.history import History
from vibetuner.state import Place, Slot, running_loop
from vibetuner.tasks.attempt import current_task_id
from vibetuner.tasks.call import AsyncTask, SyncTask, TaskCall, TaskDecorator, define
from vibetuner.tasks.client.queue import QueueClient, open_queue_client
from vibetuner.tasks.depends import inject
from vibetuner.tasks.engine import cron_id, is_open, open_client, set_open, worker_context
from vibetuner.tasks.enqueuing import Enqueuer
from vibetuner.tasks.lifespan import worker_lifespan
from vibetuner.tasks.limits import check_options, check_wait
from vibetuner.tasks.observers.progress import ProgressObserver
from vibetuner.tasks.payload import Codec, Kind, dump, signing_keys
from vibetuner.tasks.progress.state import ProgressStatus
from vibetuner.tasks.queues import USUAL, ReadOrder, declared_queue, default_queue
from vibetuner.tasks.registry import check_name
from vibetuner.tasks.run.delayed import Cron, DelayedQueue
from vibetuner.tasks.run.outage import Outage
from vibetuner.tasks.run.runner import Run
from vibetuner.tasks.run.stop import Stop

__all__ = ["TaskWorker", "enqueue_sync", "get_worker", "open_queue", "using_worker"]

# In development a reload should not wait; interrupted tasks are requeued at no cost.
DEVELOPMENT_GRACE_SECONDS = 3

# A sync function waits at most this long for the event loop that has the connection.
SYNC_SECONDS = 30

# The raw values that were read for streaq's own functions, in order.
_read: ContextVar[list[bytes]] = ContextVar("read")

_override: Slot[TaskWorker] = Slot(lambda: LookupError("no override"))


def get_worker() -> TaskWorker:
    """Return the process's worker: decorate with ``@worker.task()`` and ``@worker.cron()``.

    This needs neither Redis nor a project. Functions that need them fail when they are called, and
    name the missing setting.
    """
    return _override.peek() or _process_worker()


def using_worker(worker: TaskWorker) -> AbstractContextManager[TaskWorker]:
    """Make :func:`get_worker` return ``worker`` for the length of the block."""
    return _override.hold(worker)


def enqueue_sync(call: Task[P, R]) -> Task[P, R]:
    """Enqueue a call from a sync function: ``enqueue_sync(charge.enqueue(7))``.

    It is for ``def`` tasks and routes, whose event loop runs in another thread, and for scripts and
    tests without one; those connect for each call. The call may be delayed, or a chain.

    Raises:
        WrongEventLoop: an event loop runs in this thread, so await the call instead; or this
            process was forked from one that has the queue open.
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: Redis or the event loop does not answer within 30 seconds.
        RedisFull: Redis has no memory left.
        TaskExists: the id of the call is taken.
        TaskError: the call can't be enqueued like this.
        NotDurable: the call is durable, and there is no confirmation in time.
        StreaqError: an argument can't be stored; its cause, a PayloadError, names it.
    """
    worker = cast("TaskWorker", call.worker)
    return worker.enqueue_from_thread(call)


@cache
def _process_worker() -> TaskWorker:
    return TaskWorker(get_settings(), lambda: find_project() or VibetunerApp())


@asynccontextmanager
async def open_queue() -> AsyncIterator[TaskWorker]:
    """Connect to the queue for the length of the block, for scripts that enqueue.

    Raises:
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: Redis does not answer.
    """
    async with get_worker() as worker:
        yield worker


class TaskWorker(Worker[Any]):
    """streaq's tasks and queue, run by an engine of our own.

    It registers tasks, and connects to Redis to enqueue and run them.

    Args:
        settings: the process's settings.
        find_project: returns what tune.py declares; called when queues or hooks are needed, as
            tune.py imports the tasks before it declares them.

    Entering it raises NotConfigured without REDIS_URL, and ServiceUnavailable if Redis does not
    answer, or refuses functions and scripts.
    """

    def __init__(
        self, settings: Settings, find_project: Callable[[], VibetunerApp] = VibetunerApp
    ) -> None:
        self._priorities: list[str] = []
        self._find_project = find_project
        self.order: ReadOrder | None = None  # None means all queues, highest first
        grace_period = round(settings.worker_grace_period)
        if settings.environment != "production":
            grace_period = min(grace_period, DEVELOPMENT_GRACE_SECONDS)
        super().__init__(
            queue_name=settings.queue_name,
            concurrency=settings.worker_concurrency,
            grace_period=grace_period,
            idle_timeout=settings.worker_idle_timeout,
        )
        self._client: QueueClient | None = None
        self._run: Run | None = None
        self._stop: Stop | None = None
        self._inner_entries = 0
        self._connecting = threading.Lock()
        self._priorities = []  # streaq has set its default
        self.enqueuer = Enqueuer(self, durably=settings.enqueue_durable)
        self.courier = self.enqueuer.courier
        self._place = Place()
        # Set by the test kit: functions called for each task that was enqueued here, before the
        # enqueue returns, and in place of a wait without a limit; and how far the clock of cron is
        # ahead.
        self.on_enqueue: Callable[[Task[Any, Any]], None] | None = None
        self.after_enqueue: Callable[[], Awaitable[None]] | None = None
        self.on_endless_wait: Callable[[str], Awaitable[TaskResult[Any]]] | None = None
        self.ahead = timedelta(0)

    if TYPE_CHECKING:

        @overload
        def task(self, fn: AsyncFunction[P, R], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]

        @overload
        def task(self, fn: SyncFunction[P, R], /) -> SyncTask[P, R]: ...

        @overload
        def task(
            self,
            *,
            expire: timedelta | int | None = None,
            max_tries: int | None = 3,
            name: str | None = None,
            queue: str | None = None,
            retry_timeouts: bool = False,
            silent: bool = False,
            timeout: timedelta | int | None = None,
            ttl: timedelta | int | None = timedelta(minutes=5),
            unique: bool = False,
        ) -> TaskDecorator: ...

        def task(self, fn: Any = None, **_: Any) -> Any: ...

    else:

        def task(self, function=None, **options):  # noqa: ANN001, ANN003, ANN201
            """Register a task like streaq's ``task``; fill in ``WorkerDepends()``."""
            decorate = self._decorator(super().task, options)
            return decorate if function is None else decorate(function)

        def cron(self, tab, **options):  # noqa: ANN001, ANN003, ANN201
            """Register a cron task like streaq's ``cron``; fill in ``WorkerDepends()``."""
            check_crontab(tab)
            return self._decorator(partial(super().cron, tab), options)

        def _decorator(self, make, options):  # noqa: ANN001, ANN202
            check_options(**options)
            queue = options.pop("queue", None)
            register = make(**options)

            def decorate(function):  # noqa: ANN001, ANN202
                check_name(self, options.get("name") or function.__qualname__, function)
                task = define(register(inject(function)))
                if queue is not None:
                    task.queue = queue
                return task

            return decorate

        @property
        def priorities(self):  # noqa: ANN201
            """The project's queues, highest first."""
            if not self._priorities:
                self._priorities = list(self._find_project().queues) or list(USUAL)
            return self._priorities

        @priorities.setter
        def priorities(self, names) -> None:  # noqa: ANN001
            self._priorities = names

    @property
    def client(self) -> QueueClient:
        """The open queue; raises NotConfigured or ServiceUnavailable if there is none."""
        if self._client is None:
            raise no_queue()
        self._place.check("The queue")
        return self._client

    def signing_client(self) -> QueueClient:
        """Return the open queue, or else one that signs calls and can't send them."""
        if self._client is not None:
            return self.client
        settings = get_settings()
        keys = Keys(settings.redis_key_prefix, self.queue_name)
        return QueueClient(None, None, keys, _codec(settings, keys))  # type: ignore[arg-type]

    @property
    def is_connected(self) -> bool:
        """Return whether the queue is open here, on this event loop."""
        return self._client is not None and self._place.loop is running_loop()

    @property
    def redis(self) -> Redis[str] | RedisCluster[str]:
        """The open connection; raises NotConfigured or ServiceUnavailable if there is none."""
        if not is_open(self):
            raise no_queue()
        self._place.check("The queue")
        return super().redis

    @property
    def is_running(self) -> bool:
        """Return whether tasks run here, or are being finished."""
        return self._run is not None

    async def __aenter__(self) -> Self:  # type: ignore[misc]  # anyio's refuses a block in a block
        """Connect; inside another block, share its connection, which must outlast this block."""
        if is_open(self):
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
            client = await stack.enter_async_context(open_resource(settings))
            address = parse_url(settings.redis_url or "", settings.redis_key_prefix)
            keys = Keys(settings.redis_key_prefix, self.queue_name)
            codec = _codec(settings, keys)
            async with answering(settings, None):
                open_client(self, client)
                opening = open_queue_client(address, keys, codec, self.courier.fetch)
                self._client = await stack.enter_async_context(opening)
            self._place = Place()
            stack.callback(self._close)
            stack.push_async_callback(self.courier.close)
            stack.enter_context(task_queue.hold(self))
            set_open(self, is_open=True)
            yield self

    def _close(self) -> None:
        self._client = None
        set_open(self, is_open=False)

    async def run_async(
        self,
        *,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
        lifespan: AbstractAsyncContextManager[Any] | None = None,
        stop: Stop | None = None,
    ) -> None:
        """Run tasks until a stop is requested; may be called again afterwards.

        Args:
            task_status: notified when the worker is ready.
            lifespan: used instead of the project's own.
            stop: the request to stop, of a process that handles its signals itself.

        Raises:
            ServiceUnavailable: Redis did not record the ends of the last tasks.
        """
        async with AsyncExitStack() as stack:
            self._stop = stop or Stop()
            if stop is None and self.handle_signals:
                stack.enter_context(self._stop.on_signals())
            await stack.enter_async_context(self)
            context = await stack.enter_async_context(lifespan or worker_lifespan())
            worker_context.set(context)
            task_id_source.set(current_task_id)
            run = self._make_run(context)
            await run.prepare()  # until then, a stop has nothing to wait for
            self._run = run
            stack.callback(self._forget_run)
            set_open(self, is_open=True, is_running=True)
            await stack.enter_async_context(self.courier.relaying())
            task_status.started()
            await run.serve()

    def _make_run(self, context: Any) -> Run:
        order = self.order or ReadOrder(self.priorities)
        order.check(self.priorities)
        return Run(
            self,
            self.client,
            order=order,
            queue_of=self.queue_of,
            app=self._find_project(),
            settings=get_settings(),
            context=context,
            stop=self._stop or Stop(),
        )

    def _forget_run(self) -> None:
        self._run = None
        set_open(self, is_open=True)

    def stop(self) -> None:
        """Request a stop, like a signal; again, to requeue running tasks at once."""
        if self._stop is not None:
            self._stop.request()

    def running(self) -> int:
        """Return the number of tasks that run here."""
        return 0 if self._run is None else len(list(self._run.running))

    def abort_tasks(self, tasks: set[str]) -> None:
        """Cancel those of the tasks, by id, that run here."""
        if self._run is not None:
            self._run.abort(tasks)

    async def queue_due(self) -> None:
        """Enqueue delayed tasks and cron runs that are due, as a running worker does."""
        client = self.client
        await DelayedQueue(client, self.priorities, Outage()).queue_due()
        await Cron(client, queue_of=self.queue_of, next_run=self.next_run).schedule_due()

    @property
    def known_queues(self) -> Sequence[str]:
        """The project's queues, if they were looked up before; never loads the project."""
        return self._priorities

    def queue_of(self, name: str) -> str:
        """Return the queue that calls of the task of that name go into."""
        return declared_queue(self.registry.get(name)) or default_queue(self.priorities)

    async def unschedule_by_id(self, task_id: str) -> bool:
        """Stop scheduling a repeated task, and abort its next run; return whether there was one.

        Raises:
            NotConfigured: REDIS_URL is empty.
            ServiceUnavailable: the queue is not open here, or Redis does not answer.
        """
        client = self.client
        async with client.answering():
            call, keys = client.functions.connection.call, client.keys
            due, _ = await asyncio.gather(
                call("ZSCORE", keys.cron_schedule, task_id), call("HDEL", keys.cron_queues, task_id)
            )
            was_scheduled = await super().unschedule_by_id(task_id)
        # The first run of a repeated task has the task's own id.
        for run_id in (task_id, cron_id(task_id, int(due))) if due else ():
            if await self.status_by_id(run_id) is State.SCHEDULED:
                await self.abort_by_id(run_id, timeout=0)
        return was_scheduled

    async def queue_size(self, include_scheduled: bool = True) -> int:
        """Return how many tasks wait, including scheduled ones.

        Raises:
            NotConfigured: REDIS_URL is empty.
            ServiceUnavailable: the queue is not open here, or Redis does not answer.
        """
        async with self.client.answering():
            return await super().queue_size(include_scheduled)

    async def status_by_id(self, task_id: str) -> State:
        """Return the status of a task.

        Raises:
            NotConfigured: REDIS_URL is empty.
            ServiceUnavailable: the queue is not open here, or Redis does not answer.
        """
        keys, call = self.client.keys, self.client.functions.connection.call
        # The result is asked for last, so that a task which ends meanwhile is not missed.
        async with self.client.answering():
            exists, waits, runs, *delayed, has_ended = await asyncio.gather(
                call("EXISTS", keys.data(task_id)),
                call("EXISTS", keys.dependencies(task_id)),
                call("SISMEMBER", keys.running, task_id),
                *(call("ZSCORE", keys.delayed(name), task_id) for name in self.priorities),
                call("EXISTS", keys.result(task_id)),
            )
        if has_ended:
            return State.DONE
        if runs:
            return State.RUNNING
        if waits or any(score is not None for score in delayed):
            return State.SCHEDULED
        return State.QUEUED if exists else State.NOT_FOUND

    def enqueue_from_thread(self, call: Task[P, R]) -> Task[P, R]:
        """Enqueue a call in the loop that has the connection, or in a new one."""
        if running_loop() is not None:
            name = call.parent.fn_name
            raise WrongEventLoop(
                f"enqueue_sync() would stop the event loop that runs here, so {name} was not "
                f"enqueued. Write  await {name}.enqueue(...)"
            )
        if is_open(self):
            self._place.check("The queue")
        with self._connecting:  # one thread at a time
            loop = self._place.loop if is_open(self) else None
            if loop is None:
                return asyncio.run(self._connect_and(call))
        if not loop.is_running():  # as in a sync test with async fixtures
            return loop.run_until_complete(_awaited(call))
        sending = asyncio.run_coroutine_threadsafe(_awaited(call), loop)
        try:
            return sending.result(SYNC_SECONDS)
        except FutureTimeout:
            if sending.done():
                raise
            sending.cancel()
            raise ServiceUnavailable(
                f"{call.parent.fn_name} was not enqueued: the event loop did not answer within "
                f"{SYNC_SECONDS} s. Look for a task or route that blocks it"
            ) from None

    async def _connect_and(self, call: Task[P, R]) -> Task[P, R]:
        async with self:
            return await call

    async def serialize(self, data: Any) -> bytes:
        """Pickle data, which is signed where it is stored; raise PayloadError if that fails."""
        return dump(data)

    async def deserialize(self, data: Any) -> Any:
        """Read stored data; raise StreaqError if its signature is not ours.

        The data may have been signed for another task, except in :meth:`info_by_id` and
        :meth:`get_tasks_by_status`.
        """
        stored = data.encode() if isinstance(data, str) else bytes(data)
        if (read := _read.get(None)) is not None:
            read.append(stored)
        return self.client.codec.load(stored, None)

    def enqueue_unsafe(self, fn_name: str, *args: Any, **kwargs: Any) -> TaskCall[Any, Any]:
        """Return a call of a task that need not be known here, like streaq's own method."""
        task = super().enqueue_unsafe(fn_name, *args, **kwargs)
        return define(cast("AsyncTask[Any, Any]", task.parent)).enqueue(*args, **kwargs)

    async def enqueue_many(self, tasks: Iterable[Task[Any, Any]]) -> None:
        """Enqueue tasks for immediate execution, hundreds in one step.

        Each task with a key, and each one with the calls that it waits for, is enqueued in a step
        of its own.

        Raises:
            NotConfigured: REDIS_URL is empty.
            ServiceUnavailable: the queue is not open here, or Redis does not answer, or refuses;
                earlier tasks may have been enqueued.
            RedisFull: Redis has no memory left.
            TaskExists, TaskError: some calls could not be enqueued; all others were. If an item is
                no call, or has a wrong option, nothing was.
            NotDurable: no confirmation of the durable ones in time.
            StreaqError: an argument can't be stored; its cause, a PayloadError, names it. All other
                calls were enqueued.
        """
        await self.enqueuer.many(tasks)

    async def info_by_id(self, task_id: str) -> TaskInfo | None:
        """Return the information on an unfinished task.

        Raises:
            NotConfigured: REDIS_URL is empty.
            ServiceUnavailable: the queue is not open here, or Redis does not answer.
            StreaqError: the stored call is not signed by us for this task.
        """
        with _reading() as read:
            async with self.client.answering():
                info = await super().info_by_id(task_id)
        if info is not None:
            self.client.codec.open(read[0], Kind.CALL, task_id)
        return info

    if not TYPE_CHECKING:  # see above

        async def get_tasks_by_status(self, status, **options):  # noqa: ANN001, ANN003, ANN201
            """Return the tasks of a status, like streaq's own method.

            Raises:
                NotConfigured: REDIS_URL is empty.
                ServiceUnavailable: the queue is not open here, or Redis does not answer.
                StreaqError: a stored call is not signed by us for its task.
            """
            with _reading() as read:
                async with self.client.answering():
                    found = await super().get_tasks_by_status(status, **options)
            for one, stored in zip(found, read, strict=True):
                kind = Kind.RESULT if status is State.DONE else Kind.CALL
                self.client.codec.open(stored, kind, one.task_id)
            return found

    async def result_by_id(
        self,
        task_id: str,
        timeout: timedelta | int | None = None,  # noqa: ASYNC109 - streaq's own parameter
    ) -> TaskResult[Any]:
        """Wait for a task's result, ``timeout`` seconds at most.

        Raises:
            TypeError, ValueError: ``timeout`` is no number, or negative, infinite or NaN.
            TimeoutError: no result after ``timeout`` seconds.
            NotConfigured: REDIS_URL is empty.
            ServiceUnavailable: the queue is not open here, or Redis does not answer.
            StreaqError: the result is not signed by us for this task, or can't be read.
        """
        seconds = check_wait(timeout)
        if seconds is None and self.on_endless_wait is not None:
            return await self.on_endless_wait(task_id)
        return await self.client.result(task_id, seconds)

    async def abort_by_id(
        self,
        task_id: str,
        timeout: timedelta | int | None = 5,  # noqa: ASYNC109 - as above
    ) -> bool:
        """Abort a task; return whether that ended it within ``timeout`` seconds (0: don't wait).

        A task that waits in the outbox is handed on first.

        Raises:
            TypeError, ValueError: ``timeout`` is no number, or negative, infinite or NaN; nothing
                was aborted.
            NotConfigured: REDIS_URL is empty.
            ServiceUnavailable: the queue is not open here, or Redis does not answer.
            StreaqError: the result is not signed by us for this task.
        """
        seconds = check_wait(timeout)
        await self.courier.fetch(task_id)
        is_aborted, here = await self.client.abort(self, task_id, seconds)
        if here:
            progress = ProgressObserver(self.client.functions, History(self.redis, get_settings()))
            progress.publish(task_id, ProgressStatus.ABORTED)
            await progress.flush()
        return is_aborted

    def next_run(self, tab: str, offset: int = 0, *, since: datetime | None = None) -> int:
        """Return when a crontab line is next due, in milliseconds, by the worker's calendar.

        Args:
            tab: the line.
            offset: the milliseconds that the server's clock is ahead of this machine's.
            since: the time after which it is due; by default, now.
        """
        calendar = since or datetime.now(self.tz) + self.ahead + timedelta(milliseconds=offset)
        due: datetime = CronTab(tab).next(now=calendar, return_datetime=True)
        return datetime_ms(due - self.ahead)


async def _awaited(call: Task[P, R]) -> Task[P, R]:
    return await call


def _codec(settings: Settings, keys: Keys) -> Codec:
    accepts_unbound = settings.unbound_signatures
    return Codec(signing_keys(settings), keys.queue, accepts_unbound=accepts_unbound)


@contextmanager
def _reading() -> Iterator[list[bytes]]:
    token = _read.set([])
    try:
        yield _read.get()
    finally:
        _read.reset(token)
