"""Sends the closing event of watched tasks."""

from __future__ import annotations

import asyncio
import logging

from coredis.exceptions import ResponseError

from vibetuner.redis.functions import Functions
from vibetuner.sse.history import OUTAGES, History
from vibetuner.tasks.attempt import Attempt, End
from vibetuner.tasks.observers import Observer
from vibetuner.tasks.progress.state import ProgressStatus, find_known, finish_progress

logger = logging.getLogger(__name__)

# Seconds to collect ends before publishing them, and the pauses of retries while Redis is away.
PAUSES = (0.05, 0.2, 0.5, 1, 2, 5, 10)
FLUSH_SECONDS = 2

STATUSES = {
    End.DONE: ProgressStatus.COMPLETE,
    End.FAILED: ProgressStatus.FAILED,
    End.ABORTED: ProgressStatus.ABORTED,
}


class ProgressObserver(Observer):
    """Publishes the ends of tasks to their watchers.

    One call for many tasks finds out which of them are watched, at most twenty times a second; no
    task waits for it.
    """

    def __init__(self, functions: Functions, history: History) -> None:
        self._functions = functions
        self._history = history
        self._ended: dict[str, ProgressStatus] = {}
        self._publishing: asyncio.Task[None] | None = None

    def ended(self, attempt: Attempt) -> None:
        """Publish the closing event soon, if the task is watched."""
        if attempt.end is not None and (status := STATUSES.get(attempt.end)):
            self.publish(attempt.task_id, status)

    def publish(self, task_id: str, status: ProgressStatus) -> None:
        """Publish soon how a task ended, if it is watched."""
        self._ended[task_id] = status
        if self._publishing is None or self._publishing.done():
            self._publishing = asyncio.create_task(self._publish_all())

    async def flush(self) -> None:
        """Wait until everything is published, for at most two seconds."""
        if self._publishing is not None:
            await asyncio.wait([self._publishing], timeout=FLUSH_SECONDS)

    async def _publish_all(self) -> None:
        failures = 0
        while self._ended:
            await asyncio.sleep(PAUSES[failures])
            ended, self._ended = self._ended, {}
            try:
                await self._publish(ended)
            except Exception as error:  # noqa: BLE001 - of whatever kind, the tasks have ended
                failures += 1
                if not isinstance(error, OUTAGES) or failures == len(PAUSES):
                    _log_failure(next(iter(ended)), error)
                    return
                self._ended = ended | self._ended
            else:
                failures = 0

    async def _publish(self, ended: dict[str, ProgressStatus]) -> None:
        watched = await find_known(self._functions, self._history, list(ended))
        for task_id in watched:
            try:
                await finish_progress(self._history, task_id, ended[task_id])
            except (ResponseError, ValueError, TypeError) as error:
                _log_failure(task_id, error)  # somebody else uses this key; publish the others


def _log_failure(task_id: str, error: Exception) -> None:
    logger.warning("could not publish progress of %s: %s", task_id, type(error).__name__)
