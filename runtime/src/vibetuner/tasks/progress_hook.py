"""What the worker does for progress: says for whom a task reports, and tells how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from streaq import Worker
from streaq.types import StreaqCancelled

from vibetuner.config import get_settings
from vibetuner.sse.history import History, history_of
from vibetuner.tasks import progress_store
from vibetuner.tasks.progress_state import ProgressStatus

__all__ = ["Ends", "Reporting", "reporting", "status_of"]


class Report(Protocol):
    """What a task has told, and perhaps not sent yet."""

    async def settle(self, *, again: bool) -> None:
        """Send what is left; ``again`` when another try follows."""
        ...


@dataclass(frozen=True, slots=True)
class Reporting:
    """The task that runs, and what it reports with."""

    task_id: str
    history: History
    reports: list[Report] = field(default_factory=list)


reporting: ContextVar[Reporting | None] = ContextVar("reporting", default=None)


class Ends:
    """Tells how the tasks of one worker end, to those who watch them."""

    def __init__(self, worker: Worker[Any]) -> None:
        self._worker = worker

    @contextmanager
    def reporting(self, task_id: str) -> Iterator[None]:
        """Let the task that runs inside report."""
        token = reporting.set(Reporting(task_id, self._history()))
        try:
            yield
        finally:
            reporting.reset(token)

    async def settle(self, *, again: bool) -> None:
        """Send what the task that runs has told and not sent."""
        current = reporting.get()
        for report in current.reports if current else ():
            await report.settle(again=again)

    async def tell(self, task_id: str, outcome: object, *, success: bool = False) -> None:
        """Send the closing event of a task that has ended with ``outcome``."""
        await progress_store.end(self._history(), task_id, status_of(outcome, success=success))

    def _history(self) -> History:
        return history_of(self._worker.redis, get_settings())


def status_of(outcome: object, *, success: bool) -> ProgressStatus:
    """How a task has ended."""
    if success:
        return ProgressStatus.COMPLETE
    aborted = isinstance(outcome, StreaqCancelled)
    return ProgressStatus.ABORTED if aborted else ProgressStatus.FAILED
