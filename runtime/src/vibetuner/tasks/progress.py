"""Progress: what a task tells of itself, for a page or a terminal to show.

::

    @worker.task()
    async def import_rows(path: str) -> None:
        progress = Progress(message="reading")
        async for row in progress.track(read_rows(path)):
            ...

    @progress_endpoint("/imports/{task_id}/events", router=router)
    async def events(task_id: str) -> str:
        return task_id
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sized
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from vibetuner.sse.broadcast import broadcast
from vibetuner.sse.event import check_channel
from vibetuner.sse.history import OUTAGES
from vibetuner.tasks import progress_store
from vibetuner.tasks.attempt import current_attempt, current_task_id
from vibetuner.tasks.progress_state import ProgressState, ProgressStatus, RateMeter, remaining

if TYPE_CHECKING:
    from vibetuner.tasks.progress_stream import progress_endpoint, render_bar, watch_progress

__all__ = [
    "Progress",
    "ProgressState",
    "ProgressStatus",
    "progress_endpoint",
    "render_bar",
    "watch_progress",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")


def __getattr__(name: str) -> Any:
    # What watches needs the web framework, which a worker does without.
    if name not in {"progress_endpoint", "render_bar", "watch_progress"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("vibetuner.tasks.progress_stream"), name)


# However often a task advances, it is told so often at the most.
INTERVAL_SECONDS = 0.25


class Progress:
    """Reports how far the task that makes it has come.

    Outside a worker, as where a test calls the function of a task, it counts and tells nobody but
    the ``channel``, where one is given. While Redis is away nothing is told, and the task goes on.

    Args:
        total: how many steps there are; None when nobody knows.
        channel: another channel that is to hear of it, beside the one that is named by the
            task's id.
        message: what the task is at, in words for people.
    """

    def __init__(
        self, total: int | None = None, *, channel: str | None = None, message: str = ""
    ) -> None:
        self.done = 0
        self.total = total
        self.message = message
        self._channel = None if channel is None else check_channel(channel)
        self._attempt = current_attempt()
        self._task_id = current_task_id()
        self._meter = RateMeter()
        self._due = 0.0
        self._is_new = True
        self._is_told = True
        self._busy = False
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        self._late: asyncio.Task[None] | None = None
        if self._attempt is not None:
            self._attempt.reports.append(self)
        self._meter.rate(time.monotonic(), 0)

    async def advance(self, steps: int = 1) -> None:
        """So many steps more are done."""
        self.done += steps
        await self._tell()

    async def update(
        self, *, message: str | None = None, done: int | None = None, total: int | None = None
    ) -> None:
        """Correct what is given."""
        self.message = self.message if message is None else message
        self.done = self.done if done is None else done
        self.total = self.total if total is None else total
        await self._tell()

    async def track(self, rows: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
        """The rows, one step each, done when the next is asked for.

        Where ``rows`` have a length and no total was given, that is the total.
        """
        if self.total is None and isinstance(rows, Sized):
            self.total = len(rows)
        if isinstance(rows, AsyncIterable):
            async for row in rows:
                yield row
                await self.advance()
        else:
            for row in rows:
                yield row
                await self.advance()

    async def settle(self, *, again: bool) -> None:
        """Send what was told last; the worker calls it when a try has ended."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._late is not None:
            await self._late
        if again:
            await self._send(ProgressStatus.QUEUED)
        elif not self._is_told:
            await self._send(ProgressStatus.RUNNING)

    async def _tell(self) -> None:
        self._is_told = False
        wait = self._due - time.monotonic()
        if wait <= 0 and not self._busy:
            await self._send(ProgressStatus.RUNNING)
        elif self._timer is None and self._attempt is not None and not self._over:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(wait, INTERVAL_SECONDS / 2), self._tell_late)

    def _tell_late(self) -> None:
        """Nobody may advance for long: what was told last is sent all the same."""
        self._timer = None
        if not self._is_told and not self._busy and not self._over:
            self._late = asyncio.create_task(self._send(ProgressStatus.RUNNING))

    async def _send(self, status: ProgressStatus) -> None:
        self._busy, self._is_told = True, True
        try:
            await self._send_now(self._state(status))
        except OUTAGES as error:
            if self._is_new:
                logger.warning("could not publish progress: %s", type(error).__name__)
        finally:
            self._busy, self._is_new = False, False
            self._due = time.monotonic() + INTERVAL_SECONDS

    async def _send_now(self, state: ProgressState) -> None:
        if self._attempt is not None:
            await progress_store.write(
                self._attempt.history,
                state,
                channel=self._channel,
                anew=self._is_new and state.status is ProgressStatus.RUNNING,
            )
        elif self._channel is not None:
            await broadcast(self._channel, progress_store.PROGRESS, asdict(state))

    def _state(self, status: ProgressStatus) -> ProgressState:
        rate = self._meter.rate(time.monotonic(), self.done)
        return ProgressState(
            task_id=self._task_id,
            status=status,
            done=self.done,
            total=self.total,
            message=self.message,
            rate=rate,
            eta=remaining(self.done, self.total, rate),
        )
