"""What the worker does for progress: says for whom a task reports, and tells how it ended."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from coredis.exceptions import ResponseError
from streaq.types import StreaqCancelled

from vibetuner.config import get_settings
from vibetuner.sse.history import OUTAGES, History, history_of
from vibetuner.tasks import progress_store
from vibetuner.tasks.fast.queue import FastQueue
from vibetuner.tasks.progress_state import ProgressStatus

__all__ = ["Ends", "Reporting", "reporting", "status_of"]

logger = logging.getLogger(__name__)

# How long ends are collected before they are told; and when Redis is away, until the next try.
PAUSES = (0.05, 0.2, 0.5, 1, 2, 5, 10)
FLUSH_SECONDS = 2


class Report(Protocol):
    """What a task has told, and perhaps not sent yet."""

    async def settle(self, *, again: bool) -> None:
        """Send what is left; ``again`` when another try follows."""
        ...


@dataclass(frozen=True, slots=True)
class Reporting:
    """The task that runs, and what it reports with."""

    task_id: str
    ends: Ends
    reports: list[Report] = field(default_factory=list)

    @property
    def history(self) -> History:
        """Where it is told."""
        return self.ends.history


reporting: ContextVar[Reporting | None] = ContextVar("reporting", default=None)


class Ends:
    """Tells how the tasks of one worker end, to those who watch them.

    Whatever goes wrong here is logged, and keeps no task from being finished.
    """

    def __init__(self, worker: FastQueue) -> None:
        self._worker = worker
        self._untold: dict[str, ProgressStatus] = {}
        self._teller: asyncio.Task[None] | None = None

    async def settle(self, *, again: bool) -> None:
        """Send what the task that runs has told and not sent."""
        current = reporting.get()
        for report in current.reports if current else ():
            try:
                await report.settle(again=again)
            except Exception as error:  # noqa: BLE001 - of whatever kind, the task has ended
                _complain(error)

    def tell(self, task_id: str, outcome: object, *, success: bool = False) -> None:
        """Send soon the closing event of a task that has ended with ``outcome``, if it is watched.

        Who watches is asked for many tasks at once and beside their way: a task waits for nothing,
        and twenty requests a second are the most there are, however many tasks end.
        """
        self._untold[task_id] = status_of(outcome, success=success)
        if self._teller is None or self._teller.done():
            self._teller = asyncio.create_task(self._tell_all())

    async def flush(self) -> None:
        """Wait until everything is told, for two seconds at the most."""
        teller, self._teller = self._teller, None  # the next one may be of another loop
        if teller is not None:
            await asyncio.wait([teller], timeout=FLUSH_SECONDS)

    async def _tell_all(self) -> None:
        failures = 0
        while self._untold:
            await asyncio.sleep(PAUSES[failures])
            ended, self._untold = self._untold, {}
            try:
                await self._tell_now(ended)
            except Exception as error:  # noqa: BLE001 - as above
                failures += 1
                if not isinstance(error, OUTAGES) or failures == len(PAUSES):
                    _complain(error)
                    return
                self._untold = ended | self._untold
            else:
                failures = 0

    async def _tell_now(self, ended: dict[str, ProgressStatus]) -> None:
        history = self.history
        for task_id in await progress_store.known_of(self._worker.scripts, history, list(ended)):
            try:
                await progress_store.end(history, task_id, ended[task_id])
            except (ResponseError, ValueError, TypeError) as error:
                _complain(error)  # what is kept there is not ours; the others are told

    @property
    def history(self) -> History:
        """Where the worker's tasks are told of."""
        return history_of(self._worker.redis, get_settings())


def _complain(error: Exception) -> None:
    logger.warning("progress is not told: %s", type(error).__name__)


def status_of(outcome: object, *, success: bool) -> ProgressStatus:
    """How a task has ended."""
    if success:
        return ProgressStatus.COMPLETE
    aborted = isinstance(outcome, StreaqCancelled)
    return ProgressStatus.ABORTED if aborted else ProgressStatus.FAILED
