"""The run of a worker: assembles its parts, and shuts them down when it stops."""

from __future__ import annotations

import asyncio
import decimal
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from anyio import CancelScope
from coredis.exceptions import RedisError

from vibetuner.errors import ServiceUnavailable, counted, first_few
from vibetuner.hooks import Hooks
from vibetuner.redis.connection import Connection
from vibetuner.sse.history import History
from vibetuner.tasks.attempt import Attempt, Cut
from vibetuner.tasks.observers import Observer, Observers
from vibetuner.tasks.observers.hooks import HookObserver
from vibetuner.tasks.observers.journal import JournalObserver
from vibetuner.tasks.observers.letters import LetterWriter
from vibetuner.tasks.observers.log import LogObserver
from vibetuner.tasks.observers.progress import ProgressObserver
from vibetuner.tasks.queues import ReadOrder
from vibetuner.tasks.run.delayed import Cron, DelayedQueue, sweep
from vibetuner.tasks.run.dispatcher import Dispatcher
from vibetuner.tasks.run.execute import Executor
from vibetuner.tasks.run.finisher import Finisher
from vibetuner.tasks.run.outage import Outage
from vibetuner.tasks.run.stop import Stop

if TYPE_CHECKING:
    from streaq import Worker

    from vibetuner.app import VibetunerApp
    from vibetuner.config import Settings
    from vibetuner.tasks.client.queue import QueueClient

logger = logging.getLogger(__name__)

# After a second signal, functions that were cancelled have this long to clean up.
HURRY_SECONDS = 1.5
# After the first one, they have the ten seconds of Attempt.cut, and a little more.
CLEANUP_SECONDS = 12.0
RECORD_SECONDS = 5.0
NAMED = 5


class EndsNotRecorded(ServiceUnavailable):
    """A worker has stopped, and Redis did not record the ends of its last tasks."""

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        names = [f"{one.fn_name} {one.task_id[:8]} ({one.end})" for one in attempts]
        tasks = counted(len(names), "task")
        super().__init__(
            f"Redis does not answer, so the ends of {tasks} were not recorded: "
            f"{first_few(names, NAMED)}. They run again after WORKER_IDLE_TIMEOUT; look at "
            "what they have done already"
        )


class Run:
    """The parts of a worker while it runs.

    Args:
        app: what the project declares; observers are added for its hooks.
    """

    def __init__(  # noqa: PLR0913 - one collaborator of each kind
        self,
        worker: Worker[Any],
        client: QueueClient,
        *,
        order: ReadOrder,
        queue_of: Callable[[str], str],
        app: VibetunerApp,
        settings: Settings,
        context: Any,
        stop: Stop,
    ) -> None:
        functions = client.functions
        self._worker = worker
        self._client = client
        self._listener = Connection(functions.connection.address)  # for blocking reads
        self._stop = stop
        self._outage = Outage()
        self._context = context
        self._base: Context = copy_context()
        # Only if somebody has set it, as reading it would set it.
        has_decimal = any(variable.name == "decimal_context" for variable in self._base)
        self._decimal = decimal.getcontext() if has_decimal else None
        self._log = LogObserver()
        self._journal = JournalObserver(functions, worker, client.keys.journal, queues=order.names)
        self._history = History(worker.redis, settings)
        self._progress = ProgressObserver(functions, self._history)
        letters = LetterWriter(client.codec, worker_id=worker.id, queue=worker.queue_name)
        heard: list[Observer] = [letters, self._journal, self._log, self._progress]
        self._hooks = Hooks() if app.on_error or app.on_failure else None
        if self._hooks is not None:
            heard.append(HookObserver(app, self._hooks))
        observers = Observers(heard)
        self._finisher = Finisher(
            client,
            worker_id=worker.id,
            idle_ms=worker.idle_timeout,
            observers=observers,
            counters=worker.counters,
            outage=self._outage,
        )
        self._dispatcher = Dispatcher(
            client,
            self._listener,
            order=order,
            slots=worker.concurrency,
            begin=self._begin,
            prepare=self.prepare,
            finisher=self._finisher,
            outage=self._outage,
        )
        if worker.burst:
            self._dispatcher.on_idle = lambda: self._finisher.is_settled
        self._executor = Executor(
            worker.registry,
            worker.middlewares,
            client=client,
            observers=observers,
            finish=self._finish,
            worker_id=worker.id,
            idle_ms=worker.idle_timeout,
        )
        self._cron = Cron(client, queue_of=queue_of, next_run=worker.next_run, queues=order.names)
        self._delayed = DelayedQueue(client, worker.priorities, self._outage)

    @property
    def running(self) -> Iterable[Attempt]:
        """Return the attempts in flight."""
        return self._dispatcher.running.values()

    def abort(self, task_ids: set[str]) -> None:
        """Cancel those of the tasks that run here."""
        for attempt in tuple(self.running):
            if attempt.task_id in task_ids and not attempt.must_fail:
                attempt.cut(Cut.ABORT)

    async def prepare(self) -> None:
        """Create the streams, and schedule the cron tasks."""
        await self._dispatcher.make_groups()
        for task in self._worker.registry.values():
            if task.crontab:
                await self._cron.declare(task)

    async def serve(self) -> None:
        """Run tasks until a stop is requested, then finish those that run.

        Raises EndsNotRecorded if Redis did not record the ends of the last ones.
        """
        work = (
            self._renew(),
            self._delayed.run(),
            self._delayed.listen(),
            sweep(self._client, self._cron, abort=self.abort, outage=self._outage),
            self._announce(),
            self._journal.run(self._dispatcher.running.values()),
        )
        loops = [asyncio.create_task(one) for one in work]
        reading = asyncio.create_task(self._dispatcher.run())
        requested = asyncio.create_task(self._stop.requested.wait())
        try:
            await asyncio.wait([*loops, reading, requested], return_when=asyncio.FIRST_COMPLETED)
        finally:
            requested.cancel()
            with CancelScope(shield=True):
                unrecorded = await self._leave(reading, loops)
        for task in (*loops, reading):
            if not task.cancelled() and (error := task.exception()):
                raise error
        if unrecorded:
            raise EndsNotRecorded(unrecorded)

    async def _leave(
        self, reading: asyncio.Task[None], loops: list[asyncio.Task[None]]
    ) -> list[Attempt]:
        """Claim no more, let running tasks end, record them; return the unrecorded ones."""
        self._dispatcher.stop()
        await self._listener.close()
        await asyncio.wait([reading], timeout=HURRY_SECONDS)
        requeueing = asyncio.create_task(self._dispatcher.requeue_unbegun())
        await self._finish_running()
        seconds = HURRY_SECONDS if self._stop.hurried.is_set() else RECORD_SECONDS
        is_requeued = False
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                is_requeued = await requeueing
                await self._finisher.settled()
                await self._progress.flush()
        if self._hooks is not None:
            await self._hooks.close(at_once=self._stop.hurried.is_set())
        unrecorded = self._finisher.close()
        if not (is_requeued or unrecorded):
            logger.warning(
                "Redis does not answer; what this worker has claimed and not begun is taken over "
                "after %g s", self._worker.idle_timeout / 1000,
            )  # fmt: skip
        for task in (*loops, reading):
            task.cancel()
        await asyncio.wait([*loops, reading])
        return unrecorded

    async def _finish_running(self) -> None:
        """Wait for running tasks within the grace period; requeue the rest."""
        if not self._dispatcher.running:
            return
        grace = self._worker.grace_period
        if grace and not self._stop.hurried.is_set():
            tasks = counted(len(self._dispatcher.running), "running task")
            logger.info("waiting up to %d s for %s", grace, tasks)
            await self._wait_for_running(grace)
        for attempt in tuple(self.running):
            attempt.cut(Cut.STOP)
        await self._wait_for_running(CLEANUP_SECONDS)
        if self._stop.hurried.is_set() and (handles := self._handles()):
            await asyncio.wait(handles, timeout=HURRY_SECONDS)
        for attempt in tuple(self.running):
            self._abandon(attempt)

    async def _wait_for_running(self, seconds: float) -> None:
        """Wait until all have ended, the time is up, or a second stop is requested."""
        if not (handles := self._handles()):
            return
        ended = asyncio.create_task(asyncio.wait(handles))
        hurried = asyncio.create_task(self._stop.hurried.wait())
        try:
            await asyncio.wait(
                {ended, hurried}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            ended.cancel()
            hurried.cancel()

    def _handles(self) -> list[asyncio.Task[None]]:
        return [one.handle for one in self.running if one.handle is not None]

    def _abandon(self, attempt: Attempt) -> None:
        """Requeue a task whose function does not end."""
        logger.warning(
            "%s does not end; requeued while it still runs", attempt.fn_name,
            extra={"task_id": attempt.task_id},
        )  # fmt: skip
        self._dispatcher.running.pop(attempt.source, None)
        self._finisher.abandon(attempt)

    def _begin(self, attempt: Attempt) -> None:
        attempt.context, attempt.history = self._context, self._history
        # Each task has a context of its own, so that no task sees what another sets. An existing
        # decimal context must be copied, as it is an object that tasks would share.
        context = self._base.copy()
        if self._decimal is not None:
            context.run(decimal.setcontext, self._decimal.copy())
        attempt.handle = asyncio.get_running_loop().create_task(
            self._executor.execute(attempt), context=context
        )

    def _finish(self, attempt: Attempt) -> None:
        if attempt.source in self._dispatcher.running:
            if attempt.end is not None:  # otherwise it waits in line, and has left the stream
                self._finisher.add(attempt)
            self._dispatcher.release(attempt)

    async def _renew(self) -> None:
        """Renew claims, at a third of their expiry time, and streaq's mark of a live worker."""
        functions, keys, idle = self._client.functions, self._client.keys, self._worker.idle_timeout
        while True:
            try:
                kept = await self._dispatcher.renew(str(self._worker))
                holding = (one for one in kept if one.lock and one.started and one in self.running)
                locks = [text for one in holding for text in (one.lock, one.task_id)]
                if locks:
                    await functions.call("renew_locks", (keys.queue,), [idle, *locks])
            except (RedisError, OSError) as error:
                await self._outage.wait(error, self)
            else:
                self._outage.over(self)
                await asyncio.sleep(idle / 3000)

    async def _announce(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._log.sweep(tuple(self.running), time.time_ns() // 1_000_000)
