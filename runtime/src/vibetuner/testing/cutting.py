"""Runs a coroutine step by step, and cancels it at one of its awaits."""

from __future__ import annotations

import asyncio
import linecache
from collections.abc import Coroutine, Generator
from pathlib import Path
from types import FrameType
from typing import Any

from vibetuner.logs import is_machinery


class Cut:
    """The await at which to cancel a run, and the one at which it was cancelled.

    Attributes:
        at: the number of the await, counted from 1; None for none.
        awaits: how often the run has waited.
        place: file, line and text of the await at which it was cancelled, or None.
    """

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.awaits = 0
        self.place: str | None = None


async def run_cut(coroutine: Coroutine[Any, Any, Any], cut: Cut) -> Any:
    """Run ``coroutine``, and cancel it once its await number ``cut.at`` is done.

    Its cleanup runs to the end, including awaits.
    """
    return await _Steps(coroutine, cut)


class _Steps:
    def __init__(self, coroutine: Coroutine[Any, Any, Any], cut: Cut) -> None:
        self._coroutine = coroutine
        self._cut = cut

    def __await__(self) -> Generator[Any, Any, Any]:
        # Like `yield from`, with a check at each step.
        error: BaseException | None = None
        while True:
            try:
                waits_for = self._step(error)
            except StopIteration as end:
                return end.value
            self._cut.awaits += 1
            try:
                yield waits_for
                error = None
                if self._cut.awaits == self._cut.at:
                    self._cut.place = _place(self._coroutine)
                    _current_task().cancel()
                    yield
            except BaseException as raised:  # noqa: BLE001 - the coroutine's to handle
                error = raised

    def _step(self, error: BaseException | None) -> Any:
        if error is None:
            return self._coroutine.send(None)
        return self._coroutine.throw(error)


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - run_cut is awaited in one
    return task


def _place(coroutine: Any) -> str:
    """Return the innermost line of the project that ``coroutine`` waits at."""
    frame = None
    while coroutine is not None:
        found: FrameType | None = getattr(coroutine, "cr_frame", None) or getattr(
            coroutine, "gi_frame", None
        )
        if found is not None and (frame is None or _is_the_projects(found)):
            frame = found
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    if frame is None:
        return "somewhere"
    file, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(file, line).strip()
    return f"{_short(file)}:{line} in {frame.f_code.co_name}: {text}"


def _is_the_projects(frame: FrameType) -> bool:
    return "site-packages" not in frame.f_code.co_filename and not is_machinery(frame)


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
