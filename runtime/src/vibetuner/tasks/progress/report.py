"""Reports progress from inside a task."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sized
from dataclasses import asdict
from operator import index
from typing import Any, TypeVar

from vibetuner.errors import shorten
from vibetuner.sse.broadcast import broadcast, storable
from vibetuner.sse.event import check_channel
from vibetuner.sse.history import OUTAGES
from vibetuner.tasks.attempt import current_attempt, current_task_id
from vibetuner.tasks.progress.state import PROGRESS, ProgressState, ProgressStatus, write_progress

logger = logging.getLogger(__name__)

T = TypeVar("T")

MESSAGE_LENGTH = 2000
# The shortest time between two events, however often a task advances.
INTERVAL_SECONDS = 0.25
RATE_SECONDS = 10.0
MOST = 2**63
# A task waits at most this long for Redis to take an event, and as long before the next attempt.
ANSWER_SECONDS = 5.0


class Progress:
    """Reports the progress of the task that creates it.

    Outside a worker, as in a test that calls a task's function, it only counts steps, and publishes
    them on ``channel`` if one is given. While Redis is away, nothing is published.

    Args:
        total: the number of steps; None if unknown.
        channel: a channel that also gets the events, besides the one named by the task's id.
        message: the current activity, in words for people; its first 2,000 characters are sent.

    Raises:
        TypeError: the total is not a whole number, or the message is not a text.
        ValueError: the channel's name can't be used, or the total is negative or too large.
    """

    def __init__(
        self, total: int | None = None, *, channel: str | None = None, message: str = ""
    ) -> None:
        self.done = 0
        self.total = None if total is None else _count("total", total)
        self.message = _text(message)
        self._channel = None if channel is None else check_channel(channel)
        self._attempt = current_attempt()
        self.task_id = current_task_id()
        self._meter = RateMeter()
        self._due = 0.0
        self._is_new = True
        self._is_sent = True
        self._failing = False
        self._busy = False
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        self._late: asyncio.Task[None] | None = None
        if self._attempt is not None:
            self._attempt.reports.append(self)
        self._meter.rate(time.monotonic(), 0)

    async def advance(self, steps: int = 1) -> None:
        """Count ``steps`` more steps as done.

        Raises:
            TypeError: ``steps`` is not a whole number.
            ValueError: ``done`` would be negative or too large.
        """
        self.done = _count("done", self.done + _whole("steps", steps))
        await self._report()

    async def update(
        self, *, message: str | None = None, done: int | None = None, total: int | None = None
    ) -> None:
        """Replace the given values.

        Raises:
            TypeError: ``done`` or ``total`` is not a whole number, or ``message`` is not a text.
            ValueError: ``done`` or ``total`` is negative or too large.
        """
        new_message = self.message if message is None else _text(message)
        new_done = self.done if done is None else _count("done", done)
        self.total = self.total if total is None else _count("total", total)
        self.message, self.done = new_message, new_done
        await self._report()

    async def track(self, rows: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
        """Yield the rows; each counts as a finished step when the next one is requested.

        If ``rows`` has a length and no total was given, the length is the total.
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
        """Publish the last state; the worker calls it at the end of an attempt.

        Args:
            again: the task waits for another attempt.
        """
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._late is not None:
            await self._late
        if again:
            await self._send(ProgressStatus.QUEUED)
        elif not self._is_sent:
            await self._send(ProgressStatus.RUNNING)

    async def _report(self) -> None:
        self._is_sent = False
        if self._due <= time.monotonic() and not self._busy:
            await self._send(ProgressStatus.RUNNING)
        else:
            self._send_soon()

    def _send_soon(self) -> None:
        """Publish the last state once that is due, unless the task reports another one by then."""
        if self._timer is None and self._attempt is not None and not self._over:
            wait = max(self._due - time.monotonic(), INTERVAL_SECONDS / 2)
            self._timer = asyncio.get_running_loop().call_later(wait, self._send_late)

    def _send_late(self) -> None:
        """Publish the last state of a task that reports nothing for a while."""
        self._timer = None
        if not self._is_sent and not self._busy and not self._over:
            self._late = asyncio.create_task(self._send(ProgressStatus.RUNNING))

    async def _send(self, status: ProgressStatus) -> None:
        self._busy, self._is_sent = True, True
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._send_now(self._state(status))
        except (*OUTAGES, TypeError, ValueError) as error:
            if not self._failing:
                logger.warning(
                    "could not publish progress of %s: %s", self.task_id, type(error).__name__
                )
            self._failing, self._is_sent = True, False
        else:
            self._failing, self._is_new = False, False
        finally:
            self._busy = False
            # A task must not wait at every step for a Redis that does not answer.
            pause = ANSWER_SECONDS if self._failing else INTERVAL_SECONDS
            self._due = time.monotonic() + pause
            if not self._is_sent:  # it failed, or the task has reported another state meanwhile
                self._send_soon()

    async def _send_now(self, state: ProgressState) -> None:
        if self._attempt is not None:
            await write_progress(
                self._attempt.history,
                state,
                channel=self._channel,
                anew=self._is_new and state.status is ProgressStatus.RUNNING,
            )
        elif self._channel is not None:
            await broadcast(self._channel, PROGRESS, asdict(state))

    def _state(self, status: ProgressStatus) -> ProgressState:
        rate = self._meter.rate(time.monotonic(), self.done)
        return ProgressState(
            task_id=self.task_id,
            status=status,
            done=self.done,
            total=self.total,
            message=storable(self.message[:MESSAGE_LENGTH]),
            rate=rate,
            eta=remaining(self.done, self.total, rate),
        )


def _count(name: str, value: Any) -> int:
    if 0 <= (number := _whole(name, value)) < MOST:
        return number
    raise ValueError(f"Progress({name}=) takes 0 to 2**63 - 1, not {shorten(number)}")


def _whole(name: str, value: Any) -> int:
    try:
        return index(value)
    except TypeError:
        raise TypeError(
            f"Progress({name}=) takes a whole number, not {shorten(value)} of type "
            f"{type(value).__name__}. Round it with int()"
        ) from None


def _text(message: Any) -> str:
    if isinstance(message, str):
        return message
    raise TypeError(
        f"Progress(message=) takes text, not {shorten(message)} of type {type(message).__name__}. "
        "Convert it with str()"
    )


class RateMeter:
    """Measures steps a second over the last seconds.

    >>> meter = RateMeter()
    >>> [meter.rate(at, done) for at, done in ((0, 0), (1, 10), (2, 30), (20, 30))]
    [None, 10.0, 15.0, 0.0]
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def rate(self, now: float, done: int) -> float | None:
        """Add a sample and return the rate; None for the first one, also after a step back."""
        samples = self._samples
        if samples and done < samples[-1][1]:
            samples.clear()
        samples.append((now, done))
        # The last sample before the span is kept, so that the whole span is covered.
        while len(samples) > 2 and samples[1][0] <= now - RATE_SECONDS:
            samples.popleft()
        began, first = samples[0]
        return (done - first) / (now - began) if now > began else None


def remaining(done: int, total: int | None, rate: float | None) -> float | None:
    """Return the seconds that are left; None if they can't be estimated.

    >>> remaining(50, 100, 5), remaining(50, None, 5), remaining(50, 100, 0)
    (10.0, None, None)
    """
    return max(0, total - done) / rate if total is not None and rate else None
