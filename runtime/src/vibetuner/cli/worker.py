"""One worker process."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import anyio
from anyio import move_on_after, open_signal_receiver
from coredis.exceptions import RedisError

from vibetuner.cli.complaint import find_known
from vibetuner.cli.event_loop import run_in_loop
from vibetuner.cli.loading import loading
from vibetuner.cli.monitor import monitored
from vibetuner.cli.schema import make_schema
from vibetuner.config import get_settings
from vibetuner.embedded import open_services
from vibetuner.errors import ServiceUnavailable
from vibetuner.loader import load_project
from vibetuner.project import project_info
from vibetuner.redis.client import check
from vibetuner.tasks.registry import check_tasks, import_tasks
from vibetuner.tasks.watchdog import watching
from vibetuner.tasks.worker import TaskWorker, get_worker

__all__ = ["serve_worker"]

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = (0.2, 0.5, 1, 2)


def serve_worker(*, monitor: tuple[str, int] | None, schema: bool = False) -> None:
    """Run the project's worker until a signal comes, with its page at the address ``monitor``.

    Once Redis has answered, an outside system that goes away is waited for.

    Raises:
        VibetunerError: the project is broken, its tasks are not those of tune.py, or Redis does
            not answer at the start.
    """
    run_in_loop(_serve_worker, monitor, schema)


async def _serve_worker(monitor: tuple[str, int] | None, schema: bool) -> None:
    with loading():
        project, app, worker = project_info(), load_project(), get_worker()
        import_tasks(project)
    check_tasks(app, worker)
    async with open_services(get_settings()) as settings:
        await check(settings)
        if schema:
            await make_schema()
        with monitored(worker.id, monitor):
            async with watching(settings.worker_watchdog_timeout):
                await _run_and_return(worker)
    logger.info("worker stopped")


async def _run_and_return(worker: TaskWorker) -> None:
    """Run, and come back when what broke the run has passed; returns after a signal."""
    failures = 0
    while True:
        try:
            async with anyio.create_task_group() as group:
                await group.start(worker.run_async)
                failures = 0
                logger.info(
                    "worker ready: queue %s, %d tasks, %d at a time",
                    worker.queue_name,
                    len(worker.registry),
                    worker.concurrency,
                )
        except Exception as error:
            outage = _outage(error)
            if outage is None:
                raise
            level = logging.DEBUG if failures else logging.WARNING  # said once, until it is over
            logger.log(level, "%s; trying again", outage)
            if await _signal_within(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]):
                return
            failures += 1
        else:
            return


def _outage(error: Exception) -> str | None:
    """What a passing outage says in one line; None for an error that waiting won't mend."""
    known = find_known(error)
    if isinstance(known, ServiceUnavailable):
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


async def _signal_within(seconds: float) -> bool:
    with (
        open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
        move_on_after(seconds) as scope,
    ):
        await anext(signals)
    return not scope.cancelled_caught
