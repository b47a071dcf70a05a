"""Publishes the progress of a worker's tasks when an attempt ends."""

from __future__ import annotations

import asyncio
import logging

from coredis.exceptions import ResponseError

from vibetuner.config import get_settings
from vibetuner.sse.history import OUTAGES, History, history_of
from vibetuner.tasks.fast.queue import FastQueue
from vibetuner.tasks.progress.report import Reporting, reporting
from vibetuner.tasks.progress.state import ProgressStatus, find_known, finish_progress
from vibetuner.tasks.progress.watch import status_of

__all__ = ["Ends", "Reporting", "reporting", "status_of"]

logger = logging.getLogger(__name__)

# How long ends are collected before they are published; after an outage, until the next attempt.
PAUSES = (0.05, 0.2, 0.5, 1, 2, 5, 10)
FLUSH_SECONDS = 2


class Ends:
    """Publishes the ends of one worker's tasks to those who watch them.

    An error here is logged, and keeps no task from being finished.
    """

    def __init__(self, worker: FastQueue) -> None:
        self._worker = worker
        self._pending: dict[str, ProgressStatus] = {}
        self._publisher: asyncio.Task[None] | None = None

    async def settle(self, *, again: bool) -> None:
        """Publish the last state that the running task reported."""
        current = reporting.get()
        for report in current.reports if current else ():
            try:
                await report.settle(again=again)
            except Exception as error:  # noqa: BLE001 - of whatever kind, the task has ended
                _warn(report.task_id, error)

    def tell(self, task_id: str, outcome: object, *, success: bool = False) -> None:
        """Publish soon the closing event of a task that ended with ``outcome``, if it is watched.

        The worker asks for many tasks at once, and beside their way, which of them are watched:
        no task waits for it, and there are at most twenty requests a second.
        """
        self._pending[task_id] = status_of(outcome, success=success)
        if self._publisher is None or self._publisher.done():
            self._publisher = asyncio.create_task(self._publish_all())

    async def flush(self) -> None:
        """Wait until everything is published, for at most two seconds."""
        publisher, self._publisher = self._publisher, None  # the next may run in another loop
        if publisher is not None:
            await asyncio.wait([publisher], timeout=FLUSH_SECONDS)

    async def _publish_all(self) -> None:
        failures = 0
        while self._pending:
            await asyncio.sleep(PAUSES[failures])
            ended, self._pending = self._pending, {}
            try:
                await self._publish(ended)
            except Exception as error:  # noqa: BLE001 - as above
                failures += 1
                if not isinstance(error, OUTAGES) or failures == len(PAUSES):
                    _warn(next(iter(ended)), error)
                    return
                self._pending = ended | self._pending
            else:
                failures = 0

    async def _publish(self, ended: dict[str, ProgressStatus]) -> None:
        history = self.history
        for task_id in await find_known(self._worker.scripts, history, list(ended)):
            try:
                await finish_progress(history, task_id, ended[task_id])
            except (ResponseError, ValueError, TypeError) as error:
                _warn(task_id, error)  # the key holds something else; go on with the others

    @property
    def history(self) -> History:
        """The history of the worker's channels."""
        return history_of(self._worker.redis, get_settings())


def _warn(task_id: str, error: Exception) -> None:
    logger.warning("could not publish progress of %s: %s", task_id, type(error).__name__)
