"""Turns "a task may run twice" into a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import deepcopy
from inspect import isawaitable, iscoroutinefunction
from typing import Any, cast
from uuid import uuid4

from streaq.task import RegisteredTask

from vibetuner.logs import task_id_source
from vibetuner.tasks.attempt import current_task_id
from vibetuner.tasks.engine import running_attempt
from vibetuner.testing.cutting import Cut, run_cut

__all__ = ["replay_fuzz"]

Observe = Callable[[], Any]


async def replay_fuzz(
    task: RegisteredTask,
    *args: Any,
    observe: Observe,
    reset: Callable[[], Any] | None = None,
    cuts: int = 200,
    **kwargs: Any,
) -> None:
    """Cut a task off at each of its awaits, try it anew, and compare with a run that was whole.

    The task is run to its end once. Then, for each await on its way, it is cut off there, as by a
    worker that stops or a timeout: what it waits for is done, and the task does not get to know.
    It is run anew to its end, and ``observe`` must see what it saw after the first run. Last, it
    is run twice as a whole, as when a worker is lost before it has said that it was done.

    Args:
        task: an asynchronous task; it is called directly, as tries of one enqueued task.
        args: its arguments; so are ``kwargs``.
        observe: tells what counts of the outcome: rows, files, messages that were sent. Sync or
            async; two of its values are compared with ``==``.
        reset: puts everything back to where the task begins, before each time. Sync or async.
            Without it a run finds what the ones before have left, so that only a task's repetition
            is tried, and not its first run.
        cuts: how often it is cut off at the most; of more awaits, these are spread evenly.

    Raises:
        AssertionError: a cut leaves a difference; the message names the await.
        TypeError: the task is not asynchronous.
    """
    _check(task)
    trial = _Trial(task, args, kwargs, observe, reset)
    whole, awaits = await trial.whole()
    for number in _spread(awaits, cuts):
        await trial.cut_off(number, whole, awaits)
    await trial.twice(whole)


class _Trial:
    def __init__(
        self,
        task: RegisteredTask,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        observe: Observe,
        reset: Callable[[], Any] | None,
    ) -> None:
        self._task = task
        self._args = args
        self._kwargs = kwargs
        self._observe = observe
        self._reset = reset

    async def whole(self) -> tuple[Any, int]:
        """Run it once, as a whole; returns what is seen then, and the number of its awaits."""
        await self._begin()
        cut = await self._run(1, at=None)
        return deepcopy(await _called(self._observe)), cut.awaits

    async def cut_off(self, number: int, whole: Any, awaits: int) -> None:
        await self._begin()
        cut = await self._run(1, at=number)
        if cut.place is None:
            return  # it took a shorter way than the first time
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
        """One try, in a task of its own, which sees the context that a worker would give it."""
        cut = Cut(at)
        function: Any = self._task.fn  # type: ignore[attr-defined]
        coroutine = function(*self._args, **self._kwargs)
        running = asyncio.create_task(self._in_context(run_cut(coroutine, cut), tries))
        try:
            await asyncio.wait({running})
        finally:
            running.cancel()
        if cut.place is None:
            running.result()
        elif not running.cancelled():
            running.exception()  # how a try ends that is cut off does not matter
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
    """Which awaits to cut at, counted from 1.

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
