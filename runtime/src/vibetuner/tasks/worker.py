"""The worker that a process has: registers tasks at import, connects when used."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from datetime import datetime, timedelta
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from anyio import TASK_STATUS_IGNORED, CancelScope
from anyio.abc import TaskStatus
from coredis import Redis, RedisCluster
from crontab import CronTab
from streaq.task import Task
from streaq.types import StreamMessage

from vibetuner.config import Settings, get_settings
from vibetuner.embedded import open_services
from vibetuner.errors import NotConfigured, ServiceUnavailable
from vibetuner.logs import current_task
from vibetuner.redis import REDIS_MISSING
from vibetuner.redis.client import check, make_client, ungrouped
from vibetuner.state import Slot
from vibetuner.tasks.accounting import AccountingWorker
from vibetuner.tasks.dead_letters.stream import letter_keys
from vibetuner.tasks.depends import inject, running_context
from vibetuner.tasks.journal.recorder import payload_of_run
from vibetuner.tasks.lifespan import worker_lifespan
from vibetuner.tasks.payload import ArgumentsGone, dump, read, sign, signing_keys

__all__ = ["TaskWorker", "get_worker", "open_queue", "using_worker"]

logger = logging.getLogger(__name__)

# In development a reload should not wait; what is cut short is handed back at no cost.
DEVELOPMENT_GRACE_SECONDS = 3

# Gets the task and the request that sends it; returns what the enqueuer awaits.
OnEnqueue = Callable[[Task[Any, Any], Any], Any]


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


class TaskWorker(AccountingWorker):
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
        )
        self._keys: list[bytes] = []
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
        await super().run_async(task_status=task_status)

    async def serialize(self, data: Any) -> bytes:
        """Store data, signed; raises PayloadError, which names what can't be stored."""
        body = dump(data)
        return body + sign(self._keys[0], body)

    async def deserialize(self, data: Any) -> Any:
        """Read stored data; raises StreaqError when its signature is none of ours."""
        if payload_of_run.get(b"") is None:
            payload_of_run.set(data.encode() if isinstance(data, str) else data)
        if data is None:  # only asked for where a task gets its arguments from another's result
            raise ArgumentsGone("Dependency failed, or its result was not kept so long!")
        return read(data.encode() if isinstance(data, str) else bytes(data), self._keys)

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

    def begin_try(self, message: StreamMessage, payload: bytes | None) -> None:
        """From now on this context is a task's: its id is in every log line."""
        current_task.set(message.task_id)
        running_context.set(self.context)
        super().begin_try(message, payload)

    async def run_task(self, msg: StreamMessage) -> None:
        """Run one task as the engine does."""
        self.begin_try(msg, None)
        try:
            # The try is counted before the function begins, and a stop in between would burn it.
            with CancelScope(shield=True):
                await super().run_task(msg)
        except ArgumentsGone as error:
            tries = int(await self.redis.get(self._retry_key + msg.task_id) or 0)
            await self.finish_failed_task(msg, error, tries, 0)

    def _next_datetime(self, tab: str) -> datetime:
        """When a crontab line is next due, by the clock."""
        calendar = datetime.now(self.tz) + self.ahead
        due: datetime = CronTab(tab).next(now=calendar, return_datetime=True)
        return due - self.ahead


def _send(_task: Task[Any, Any], request: Any) -> Any:
    return request


def _grace_period(settings: Settings) -> int:
    if settings.environment == "production":
        return round(settings.worker_grace_period)
    return min(round(settings.worker_grace_period), DEVELOPMENT_GRACE_SECONDS)
