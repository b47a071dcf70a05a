"""One worker process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import anyio
from coredis.exceptions import RedisError

from vibetuner.cli.complaint import find_known, leave_soon, run_in_loop
from vibetuner.cli.loading import loading
from vibetuner.cli.monitor import monitored
from vibetuner.cli.schema import make_schema
from vibetuner.config import get_settings
from vibetuner.embedded import open_services
from vibetuner.errors import ServiceUnavailable, counted
from vibetuner.loader import load_project
from vibetuner.project import project_info
from vibetuner.redis.client import open_resource
from vibetuner.redis.rights import RightsMissing
from vibetuner.tasks.queues import ReadOrder
from vibetuner.tasks.registry import check_tasks, import_tasks
from vibetuner.tasks.run.runner import EndsNotRecorded
from vibetuner.tasks.run.stop import Stop
from vibetuner.tasks.watchdog import watching
from vibetuner.tasks.worker import TaskWorker, get_worker
from vibetuner.timing import backoff

logger = logging.getLogger(__name__)


def serve_worker(
    *,
    monitor: tuple[str, int] | None,
    dev: bool = False,
    warn: bool = True,
    queues: str | None = None,
) -> None:
    """Run the project's worker until a signal comes, with its monitor at the address ``monitor``.

    With ``dev``, it first brings the SQL tables up to date; ``warn`` is for their differences.
    It reads ``queues``, in the form of ``--queues``; by default, all queues of the project. Once
    Redis has answered, the worker waits for outside systems that go away.

    Raises VibetunerError if the project is broken, its tasks are not those of tune.py, Redis does
    not answer at the start, or it did not record the ends of the last tasks.
    """
    # Before the event loop, which would take Ctrl-C, and let no module run one of its own.
    with loading():
        project, app, worker = project_info(), load_project(), get_worker()
        import_tasks(project)
    check_tasks(app, worker)
    if queues is not None:
        worker.order = ReadOrder.parse(queues)
        worker.order.check(worker.priorities)
        logger.info("worker reads these queues only: %s", worker.order)
    run_in_loop(_serve_worker, worker, monitor, dev, warn)


async def _serve_worker(
    worker: TaskWorker, monitor: tuple[str, int] | None, dev: bool, warn: bool
) -> None:
    stop = Stop()
    with stop.on_signals(is_last=True):
        serving = asyncio.create_task(_serve(worker, stop, monitor, dev=dev, warn=warn))
        requested = asyncio.create_task(stop.requested.wait())
        await asyncio.wait({serving, requested}, return_when=asyncio.FIRST_COMPLETED)
        if not worker.is_running:
            serving.cancel()  # it waits for something at its start
        requested.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await serving
        except BaseException:
            if stop.requested.is_set():
                leave_soon(1)
            raise
    logger.info("worker stopped")


async def _serve(
    worker: TaskWorker, stop: Stop, monitor: tuple[str, int] | None, *, dev: bool, warn: bool
) -> None:
    async with open_services(get_settings()) as settings, open_resource(settings):
        if dev:
            await make_schema(warn=warn)
        with monitored(worker.id, monitor):
            async with watching(settings.worker_watchdog_timeout):
                await _run_and_return(worker, stop)


async def _run_and_return(worker: TaskWorker, stop: Stop) -> None:
    """Run, and return once the outage that broke the start is over, or after a stop."""
    failures, was_ready = 0, False
    while not stop.requested.is_set():
        try:
            async with anyio.create_task_group() as group:
                await group.start(partial(worker.run_async, stop=stop))
                failures, was_ready = 0, True
                logger.info(
                    "worker ready: queue %s, %s, %d at a time",
                    worker.queue_name,
                    counted(len(worker.registry), "task"),
                    worker.concurrency,
                )
        except Exception as error:
            outage = _outage(error)
            known = find_known(error)
            if outage is None or isinstance(known, EndsNotRecorded):
                if was_ready and known is None:  # it happens once, and DEBUG would come too late
                    logger.critical("the worker ends by an error of its own", exc_info=error)
                raise
            level = logging.DEBUG if failures else logging.WARNING  # a warning once in an outage
            logger.log(level, "%s; trying again", outage)
            failures += 1
            await asyncio.sleep(backoff(failures, 0.2, 2))
        else:
            return


def _outage(error: Exception) -> str | None:
    """Describe a passing outage in one line; None for an error that waiting won't cure."""
    known = find_known(error)
    if isinstance(known, ServiceUnavailable) and not isinstance(known, RightsMissing):
        return str(known)
    leaves = list(_leaves(error))
    if leaves and all(isinstance(leaf, RedisError | OSError) for leaf in leaves):
        return f"lost Redis ({leaves[0]})"
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
