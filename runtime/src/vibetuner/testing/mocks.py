"""Fake tasks that only record calls."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from functools import partial
from inspect import signature
from typing import Any, Self
from unittest.mock import AsyncMock, MagicMock
from uuid import uuid4

from vibetuner.tasks.call import TaskCall

METHODS: tuple[Any, ...] = (
    TaskCall.start, TaskCall.once, TaskCall.within, TaskCall.then, TaskCall.otherwise
)  # fmt: skip


class MockTasks:
    """Replaces tasks: every attribute is a fake task whose ``enqueue`` is recorded.

    >>> tasks = MockTasks()
    >>> tasks.send_report is tasks.send_report
    True
    >>> tasks.send_report.enqueue.called
    False
    """

    def __getattr__(self, name: str) -> MagicMock:
        if name.startswith("__"):
            raise AttributeError(name)
        task = MagicMock(name=name)
        task.enqueue = _Enqueue(name=f"{name}.enqueue", side_effect=_enqueued)
        setattr(self, name, task)
        return task


class _Enqueue(AsyncMock):
    """``await enqueue(...)`` and ``await enqueue(...).start(delay=60)``, like a real task's."""

    def __call__(self, *args: Any, **kwargs: Any) -> _Pending:
        return _Pending(super().__call__(*args, **kwargs))


class _Pending:
    """A call that accepts the arguments of a real task's methods, and does nothing with them."""

    def __init__(self, call: Coroutine[Any, Any, MagicMock]) -> None:
        self.id = uuid4().hex
        self._call = call
        for method in METHODS:
            setattr(self, method.__name__, partial(self._accept, method))

    def __or__(self, task: object) -> Self:
        return self

    __xor__ = __or__

    def _accept(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Self:
        """Return the call; raise TypeError if the real method has no such arguments."""
        try:
            signature(method).bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{method.__name__}() {error}") from None
        return self

    def __await__(self) -> Generator[Any, None, MagicMock]:
        task = yield from self._call.__await__()
        if task.id is None:
            task.id = self.id
        return task


def _enqueued(*_: Any, **__: Any) -> MagicMock:
    return MagicMock(TaskCall, name="enqueued task", id=None)  # its methods can be awaited
