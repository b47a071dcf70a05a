"""Waits for conditions in tests: they end with the event, or fail with what was awaited."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

__all__ = ["eventually", "wait_until"]

T = TypeVar("T")
What = Callable[[], str]


async def eventually(
    condition: Callable[[], Awaitable[T] | T],
    seconds: float = 60,
    *,
    what: What = lambda: "a condition",
) -> T:
    """Return what ``condition`` returns or awaits once it is true; fail after ``seconds``."""
    for pause in _pauses(seconds, what):
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(pause)
    raise AssertionError  # never reached: the pauses end with an error


def wait_until(
    condition: Callable[[], T],
    *,
    seconds: float = 60,
    pause: float = 0.05,
    what: What = lambda: "a condition",
) -> T:
    """Wait like :func:`eventually`, in a test without an event loop or in a thread."""
    for next_pause in _pauses(seconds, what, longest=pause):
        if found := condition():
            return found
        time.sleep(next_pause)
    raise AssertionError  # never reached: the pauses end with an error


def _pauses(seconds: float, what: What, longest: float = 0.05) -> Iterator[float]:
    """Yield the pauses between two checks: short at first, since most events are near."""
    deadline, pause = time.monotonic() + seconds, min(0.001, longest)
    while True:
        yield pause
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what()}"
        pause = min(longest, pause * 1.5)
