"""Tests that a task may safely run twice: cancels it at each of its awaits, and runs it again."""

from __future__ import annotations

import asyncio
import linecache
from collections.abc import Awaitable, Callable, Coroutine, Generator
from copy import deepcopy
from dataclasses import dataclass
from inspect import isawaitable, iscoroutinefunction
from pathlib import Path
from types import FrameType
from typing import Any, cast
from uuid import uuid4

from streaq.task import RegisteredTask

from vibetuner.logs import is_machinery, task_id_source
from vibetuner.tasks.attempt import current_task_id
from vibetuner.tasks.engine import running_attempt
from vibetuner.testing.enqueued import check_count

Observe = Callable[[], Any]


async def replay_fuzz(
    task: RegisteredTask,
    *args: Any,
    observe: Observe,
    reset: Callable[[], Any] | None = None,
    cuts: int = 200,
    **kwargs: Any,
) -> None:
    """Cancel a task at each of its awaits, run it again, and compare with a complete run.

    The task is run to its end once. Then, for each of its awaits, it is run again and cancelled
    there, as by a stopping worker or a timeout: the awaited operation is done, but the task doesn't
    learn of it. It is run again to its end, and ``observe`` must return the same as after the first
    run. Last, it is run twice completely, as when a worker is lost just before it records the end.

    Args:
        task: an async task; it is called directly, as tries of one enqueued task.
        args: its arguments; ``kwargs`` likewise.
        observe: returns the part of the outcome that matters: rows, files, messages that were sent.
            Sync or async; two of its values are compared with ``==``.
        reset: restores the state before the task, before each trial. Sync or async. Without it,
            each trial starts from the results of the ones before, so that only repetitions of the
            task are tested, and not its first run.
        cuts: the most cuts; if there are more awaits, the cuts are spread evenly.

    Raises:
        AssertionError: a cut leads to a difference; the message names the await.
        TypeError: the task is not async, or ``observe`` or ``reset`` is not a function.
        ValueError: ``cuts`` is not a whole number above 0.
    """
    _check(task)
    for name, function in (("observe", observe), ("reset", reset or observe)):
        if not callable(function):
            raise TypeError(f"{name} takes a function, such as lambda: rows, not {function!r}")
    check_count("cuts", cuts, least=1)
    trial = _Trial(task, args, kwargs, observe, reset)
    whole, awaits = await trial.whole()
    for number in _spread(awaits, cuts):
        await trial.cut_off(number, whole, awaits)
    await trial.twice(whole)


@dataclass(slots=True)
class _Trial:
    _task: RegisteredTask
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]
    _observe: Observe
    _reset: Callable[[], Any] | None
    _id: str = ""

    async def whole(self) -> tuple[Any, int]:
        """Run the task once to its end; return the observed value, and the number of its awaits."""
        await self._begin()
        cut = await self._run(1, at=None)
        return deepcopy(await _called(self._observe)), cut.awaits

    async def cut_off(self, number: int, whole: Any, awaits: int) -> None:
        await self._begin()
        cut = await self._run(1, at=number)
        if cut.place is None:
            return  # this run had fewer awaits than the first one
        at = f"at await {number} of {awaits}, {cut.place},"
        await self._again(f"is cut off {at} and tried anew", whole)

    async def twice(self, whole: Any) -> None:
        await self._begin()
        await self._run(1, at=None)
        await self._again("is run twice", whole)

    async def _begin(self) -> None:
        self._id = uuid4().hex
        if self._reset is not None:
            await _called(self._reset)

    async def _again(self, how: str, whole: Any) -> None:
        name = self._task.fn_name
        try:
            await self._run(2, at=None)
        except Exception as error:
            raise AssertionError(
                f"{name} fails when it {how}: {type(error).__name__}: {error}"
            ) from error
        seen = await _called(self._observe)
        if seen != whole:
            raise AssertionError(
                f"{name} leaves a difference when it {how}.\n"
                f"  run once: {whole!r}\n"
                f"  this way: {seen!r}"
            )

    async def _run(self, tries: int, at: int | None) -> Cut:
        """Run one try, in an asyncio task with the context that a worker would set."""
        function: Any = self._task.fn  # type: ignore[attr-defined]
        cut = Cut(function(*self._args, **self._kwargs), at)
        running = asyncio.create_task(self._in_context(cut, tries))
        try:
            await asyncio.wait({running})
        finally:
            running.cancel()
        if cut.place is None:
            running.result()
        elif not running.cancelled():
            running.exception()  # the outcome of a cancelled try does not matter
        return cut

    async def _in_context(self, run: Awaitable[Any], tries: int) -> None:
        running_attempt.set(cast("Any", self._task.build_context(self._id, tries)))
        task_id_source.set(current_task_id)
        await run


def _check(task: RegisteredTask) -> None:
    if not isinstance(task, RegisteredTask):
        raise TypeError(f"replay_fuzz takes a task, not {task!r}")
    if not iscoroutinefunction(task.fn):  # type: ignore[attr-defined]
        raise TypeError(f"{task.fn_name} is not async, so that there is no await to cut it off at")


def _spread(awaits: int, cuts: int) -> list[int]:
    """Return the awaits to cut at, counted from 1.

    >>> _spread(3, 200), _spread(9, 3)
    ([1, 2, 3], [1, 5, 9])
    """
    if awaits <= cuts:
        return list(range(1, awaits + 1))
    step = (awaits - 1) / max(1, cuts - 1)
    return [1 + round(number * step) for number in range(cuts)]


async def _called(function: Callable[[], Any]) -> Any:
    value = function()
    return await value if isawaitable(value) else value


class Cut:
    """Runs a coroutine when it is awaited, and cancels it once its await number ``at`` is done.

    The coroutine's cleanup runs to the end, including awaits.

    Attributes:
        awaits: how often the run has waited.
        place: file, line and text of the await at which it was cancelled, or None.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int | None) -> None:
        self.awaits = 0
        self.place: str | None = None
        self._coroutine = coroutine
        self._at = at

    def __await__(self) -> Generator[Any, Any, Any]:
        # Like `yield from`, with a check at each step.
        error: BaseException | None = None
        while True:
            try:
                waits_for = (
                    self._coroutine.send(None) if error is None else self._coroutine.throw(error)
                )
            except StopIteration as end:
                return end.value
            self.awaits += 1
            try:
                yield waits_for
                error = None
                if self.awaits == self._at:
                    self.place = _place(self._coroutine)
                    _current_task().cancel()
                    yield
            except BaseException as raised:  # noqa: BLE001 - the coroutine's to handle
                error = raised


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - it is awaited in one
    return task


def _place(coroutine: Any) -> str:
    """Return the innermost line of the project that ``coroutine`` waits at."""
    frame = None
    while coroutine is not None:
        found: FrameType | None = getattr(coroutine, "cr_frame", None) or getattr(
            coroutine, "gi_frame", None
        )
        if found is not None and (
            frame is None
            or not ("site-packages" in found.f_code.co_filename or is_machinery(found))
        ):
            frame = found
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    if frame is None:
        return "somewhere"
    file, line = frame.f_code.co_filename, frame.f_lineno
    text, path, here = linecache.getline(file, line).strip(), Path(file), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else file
    return f"{shown}:{line} in {frame.f_code.co_name}: {text}"
