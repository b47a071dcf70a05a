"""The private parts of streaq 7.2 that we use; no other module uses any.

streaq's tasks, decorators, keys and formats stay as they are, so that its own clients and workers
can share a queue with ours. Its run loop is not used.
"""

from __future__ import annotations

from contextvars import ContextVar
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

from streaq.task import Task, _task_context
from streaq.worker import Worker, _deterministic_id, _worker_context

if TYPE_CHECKING:
    from coredis import Redis

Following = TypeVar("Following", bound=Task[Any, Any])

#: The attempt of this context, read by ``task.context`` and ``middleware.context``.
running_attempt = cast("ContextVar[Any]", _task_context)

#: The context that the worker's lifespan yielded, read by ``worker.context``.
worker_context: ContextVar[Any] = _worker_context


def is_open(worker: Worker[Any]) -> bool:
    """Return whether the worker is connected."""
    return worker._initialized  # noqa: SLF001


def open_client(worker: Worker[Any], client: Redis[str]) -> None:
    """Set the client that ``worker.redis`` returns while the worker is open."""
    worker._redis = client  # noqa: SLF001


def set_open(worker: Worker[Any], *, is_open: bool, is_running: bool = False) -> None:
    """Set whether the worker is connected, and whether it runs tasks."""
    worker._initialized, worker._running = is_open, is_running  # noqa: SLF001


def follows_another(task: Task[Any, Any]) -> bool:
    """Return whether a call follows another in a chain."""
    return task._after is not None  # noqa: SLF001


def is_chained(task: Task[Any, Any]) -> bool:
    """Return whether a call is part of a chain."""
    return task._after is not None or task._triggers is not None  # noqa: SLF001


def put_after(first: Task[Any, Any], following: Following) -> Following:
    """Make ``following`` the call that follows ``first``, in place of an earlier one."""
    first._triggers = following  # noqa: SLF001
    return following


def link_chain(last: Task[Any, Any]) -> list[Task[Any, Any]]:
    """Return the calls of a chain, the first one first, each made to wait for the one before it.

    The chain is linked as streaq links it: a task takes the result of the one before it. If that is
    a fallback (``otherwise``), the task takes the result that the fallback would have replaced.
    """
    calls = [last]
    while (first := calls[-1]._after) is not None:  # noqa: SLF001
        calls.append(first)
    calls.reverse()
    for first, following in pairwise(calls):
        if first.id not in following.after:
            following.after.append(first.id)
        following._prev_source = (  # noqa: SLF001
            first._prev_source if first._fails_over else first.id  # noqa: SLF001
        )
    return calls


def call_data(task: Task[Any, Any], enqueued_at: int) -> dict[str, Any]:
    """Return the data of a call, with those of streaq's names that tie it to others of a chain."""
    parent: Any = task.parent
    data = {"f": parent.fn_name, "a": task.args, "k": task.kwargs, "t": enqueued_at}
    before, following = task._after, task._triggers  # noqa: SLF001
    if task._prev_source:  # noqa: SLF001
        data["A"] = task._prev_source  # noqa: SLF001
    if before is not None and before._fails_over:  # noqa: SLF001
        data["F"] = before.id
    if following is not None:
        data["O" if task._fails_over else "T"] = following.id  # noqa: SLF001
    return data


def cron_id(name: str, moment: int) -> str:
    """Return the id of a cron task's run at a time, in milliseconds."""
    return _deterministic_id(f"{name}{moment}")
