"""The call that ``task.enqueue(...)`` returns, and the task that a decorator returns.

Both extend streaq's classes: a call also has ``once()`` and ``within()``, and its ``start()`` also
takes ``durable=``, and calls in ``after=``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import Enum
from hashlib import sha256
from os import urandom
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, overload

from streaq.task import AsyncRegisteredTask, RegisteredTask, SyncRegisteredTask, Task
from streaq.types import AsyncTask as AsyncFunction
from streaq.types import P, R
from streaq.types import SyncTask as SyncFunction

from vibetuner.errors import TaskError, shorten
from vibetuner.tasks.engine import is_chained, put_after
from vibetuner.tasks.unique import signature_of

LONGEST_KEY = 500
MOST_BEFORE = 5000
LONGEST_KEEP = timedelta(days=366)
SHORTEST_KEEP = timedelta(milliseconds=1)
#: An id that ``enqueue()`` makes; any other is the project's own, and may be taken.
MADE_ID = re.compile("[0-9a-f]{32}")
# Redis takes no half of a surrogate pair, and PostgreSQL no NUL.
UNSTORABLE = re.compile("[\\0\ud800-\udfff]")
DIGEST_LENGTH = 12

Defined = TypeVar("Defined", bound=RegisteredTask)


@dataclass(slots=True, eq=False)
class TaskCall(Task[P, R]):
    """A call of a task; await it to enqueue it."""

    #: Random hexadecimal digits; a UUID, as streaq uses, takes several times as long to make.
    id: str = field(default_factory=lambda: urandom(16).hex())
    after: list[str] = field(default_factory=list)  # as streaq's, and six times as fast to make
    #: The value that ``start()`` was given; None to follow ENQUEUE_DURABLE.
    durable: bool | timedelta | None = None
    #: The calls of ``after=``, which are enqueued together with this one.
    parts: tuple[TaskCall[Any, Any], ...] = ()

    if not TYPE_CHECKING:  # streaq's types don't know the methods below

        def then(self, task, *_, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN201
            """Append a task to the chain, as streaq's ``then`` does."""
            return self._chained(Task.then(self, _followed_by(self, task), **kwargs))

        def otherwise(self, task):  # noqa: ANN001, ANN201
            """Set the fallback, as streaq's ``otherwise`` does; also written ``^``."""
            return self._chained(Task.otherwise(self, _followed_by(self, task)))

        def __or__(self, other):  # noqa: ANN001, ANN204
            return self._chained(Task.__or__(self, _followed_by(self, other)))

        def __await__(self):  # noqa: ANN204
            return self.worker.enqueuer.call(self).__await__()

    if TYPE_CHECKING:

        def __await__(self) -> Generator[Any, None, Self]: ...

    def start(  # noqa: PLR0913 - streaq's parameters, and two more
        self,
        after: str | TaskCall[Any, Any] | Iterable[str | TaskCall[Any, Any]] | None = None,
        delay: timedelta | int | None = None,
        schedule: datetime | str | None = None,
        priority: str | None = None,
        durable: bool | timedelta | None = None,
        *,
        regardless: bool = False,
    ) -> Self:
        """Set when the task starts, in which queue, and how safely it is stored.

        Args:
            after: the tasks to wait for, as ids or calls, 5,000 at most. If one of them fails, this
                task fails, and so it does if one has failed before and its result is still kept. An
                id names a task that is enqueued elsewhere. A call, such as ``task.enqueue(7)``, is
                enqueued with this one, all or none. A call that was awaited before is not enqueued
                again, as long as its result is kept.
            delay: how long to wait before the start, in seconds or as a timedelta.
            schedule: the time of the start, or the crontab line that repeats the task. A call that
                is repeated already, under its id, gets the new line, arguments and queue.
            priority: the name of the queue; by default the task's own.
            durable: whether to return only once the task is on the server's disk, if it writes an
                append-only file, and on its replicas; a timedelta is the longest wait, instead of 5
                seconds. By default, follow ENQUEUE_DURABLE.
            regardless: start when the tasks of ``after`` have ended, even if some have failed.

        Raises:
            TaskNotFound: when the call is awaited, an id of ``after`` neither waits nor runs, and
                no result of it is kept; nothing was enqueued. In the outbox, such a call fails.
            TaskError: an argument has a wrong type, ``after`` has too many items, or ``regardless``
                is set without ``after``; or, when the call is awaited, one of ``after`` can't be
                enqueued with it, or a call with ``after`` is part of a chain.
            NotDurable: when the call is awaited, no confirmation arrives in time.
        """
        if not _is_durability(durable):
            raise TaskError(
                f"{self.parent.fn_name}: start() takes durable= as True, False or a timedelta "
                f"above 0, not {shorten(durable)}"
            )
        named: object = priority
        if named is not None and not (isinstance(named, str) and named):
            raise TaskError(
                f"{self.parent.fn_name}: start() takes the name of a queue as priority=, not "
                f"{shorten(priority)}"
            )
        before = self._before(after)
        if len(before) > MOST_BEFORE:
            raise TaskError(
                f"{self.parent.fn_name}: start() takes up to {MOST_BEFORE:,} ids or calls as "
                f"after=, not {len(before):,}. Let a task wait for each portion, and the last one "
                "for these"
            )
        if regardless and after is None:
            raise TaskError(
                f"{self.parent.fn_name}: regardless=True is for a task that waits for others. "
                "Add after=, or leave it out"
            )
        if self.after and (delay or schedule):  # streaq checks the arguments of one call only
            raise TaskError(
                f"{self.parent.fn_name}: start() was called with after= before, so the task starts "
                "once those have ended. Take delay= and schedule= out"
            )
        self.durable = durable
        mark = "~" if regardless else ""
        self.parts += tuple(one for one in before if not isinstance(one, str))
        ids = [mark + (one if isinstance(one, str) else one.id) for one in before]
        Task.start(self, ids, delay, schedule, priority)
        return self

    def _before(self, after: Any) -> list[str | TaskCall[Any, Any]]:
        """Return the tasks of ``after=`` as a list."""
        name = self.parent.fn_name
        listed = () if after is None else [after] if isinstance(after, str | TaskCall) else after
        if not isinstance(listed, Iterable):
            listed = [listed]
        before = list(listed)
        for one in before:
            if not isinstance(one, str | TaskCall) or one == "":
                raise TaskError(
                    f"{name}: start() takes ids and calls of tasks as after=, not {shorten(one)}"
                )
            if (one if isinstance(one, str) else one.id) == self.id:
                raise TaskError(f"{name}: a task can't wait for itself, as after={one!r} says")
        return before

    def once(self, key: str, *, keep: timedelta = timedelta(days=7)) -> ReliableCall[P, R]:
        """Enqueue the task unless one was enqueued under this key.

        In that case the call gets the id of that task, however it ended. When its dead letter is
        retried, the key moves to the new task.

        Args:
            key: the name of the event, such as ``"stripe:evt_123"``; keys are shared by all tasks
                of a queue.
            keep: how long the server remembers the key, at most 366 days.

        Raises:
            TaskError: ``key`` is empty or too long, or ``keep`` out of range; or, when the call is
                awaited, the key belongs to another task, or to this one with other arguments.
        """
        _check_key(self.parent.fn_name, key, keep)
        return replace(self._reliable(), key=key, keep=keep)

    def within(self, session: object) -> ReliableCall[P, R]:
        """Write the call in the session's transaction; the task is enqueued after the commit.

        The calls of its ``after=`` are written with it. Awaiting it needs no Redis.
        The process that commits enqueues the task at once. If it crashes first, a worker enqueues
        the task within five seconds.

        Args:
            session: an ``AsyncSession`` of SQLModel or SQLAlchemy, or a MongoDB session in a
                transaction.

        Raises:
            TaskError: ``session`` is None; or, when the call is awaited, ``session`` is no session
                in a transaction, or belongs to another database.
            TaskExists: when the call is awaited, the outbox already holds a call with this id, and
                the call has no key; or the id, one of your own, is taken in Redis. If Redis does
                not answer, or the id is taken before the commit, the call is dropped with a
                warning instead.
            NotConfigured: when the call is awaited, the project has no outbox.
            ServiceUnavailable: when the call is awaited, MongoDB does not answer; PyMongo's
                ``with_transaction()`` repeats the transaction then. A SQL session raises
                SQLAlchemy's errors, as it does elsewhere in the transaction.
        """
        if session is None:
            raise TaskError(
                f"{self.parent.fn_name}: within() takes a session, not None. To enqueue at once, "
                "leave within() out"
            )
        return replace(self._reliable(), session=session)

    def _reliable(self) -> ReliableCall[P, R]:
        if is_chained(self):
            raise _chain_error(self)
        return ReliableCall(**{one.name: getattr(self, one.name) for one in fields(self)})

    def _chained(self, following: Task[Any, Any]) -> ChainedCall[Any, Any]:
        if isinstance(self, ReliableCall):
            raise _chain_error(self)
        values = {one.name: getattr(following, one.name) for one in fields(following)}
        return put_after(self, ChainedCall(**values, durable=self.durable))


class ChainedCall(TaskCall[P, R]):
    """A call that follows another; awaiting it enqueues the whole chain in one step."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __await__(self):  # noqa: ANN204
            return self.worker.enqueuer.chain(self).__await__()


@dataclass(slots=True, eq=False)
class ReliableCall(TaskCall[P, R]):
    """A call that is enqueued once under a key, or after a transaction, or both."""

    key: str | None = None
    keep: timedelta = timedelta(days=7)
    session: Any = None

    if not TYPE_CHECKING:  # the type is TaskCall's

        def __await__(self):  # noqa: ANN204
            return self.worker.enqueuer.reliably(self).__await__()

    def _reliable(self) -> ReliableCall[P, R]:
        return self


class AsyncTask(AsyncRegisteredTask[P, R]):
    """A task whose function is async."""

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> TaskCall[P, R]:
        """Return a call of the task; await it to enqueue it."""
        return TaskCall(args, kwargs, self, self.worker)


class SyncTask(SyncRegisteredTask[P, R]):
    """A task whose function runs in a thread."""

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> TaskCall[P, R]:
        """Return a call of the task; await it to enqueue it."""
        return TaskCall(args, kwargs, self, self.worker)


class TaskDecorator(Protocol):
    """Makes a task of a function."""

    @overload
    def __call__(self, fn: AsyncFunction[P, R], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, fn: SyncFunction[P, R], /) -> SyncTask[P, R]: ...

    def __call__(
        self, fn: AsyncFunction[P, R] | SyncFunction[P, R], /
    ) -> AsyncTask[P, R] | SyncTask[P, R]: ...


def define(registered: Defined) -> Defined:
    """Turn a task of streaq's into ours, whose calls have ``once()`` and ``within()``."""
    is_async = isinstance(registered, AsyncRegisteredTask)
    registered.__class__ = AsyncTask if is_async else SyncTask  # type: ignore[assignment]
    return registered


def parts_of(call: Task[Any, Any]) -> list[TaskCall[Any, Any]]:
    """Return all calls that are enqueued with this one: those of its ``after=``, and of theirs.

    Raises:
        TaskError: there are too many calls, or one of them can't be enqueued with others.
    """
    parts: dict[str, TaskCall[Any, Any]] = {}
    found = list(getattr(call, "parts", ()))
    for part in found:
        if part is call:
            raise TaskError(
                f"{call.parent.fn_name}: a task of after= waits for this one, so that neither "
                "would ever start"
            )
        if part.id not in parts:
            _check_part(call, part)
            parts[part.id] = part
            found += part.parts
    if len(parts) > MOST_BEFORE:
        raise TaskError(
            f"{call.parent.fn_name}: a call is enqueued with up to {MOST_BEFORE:,} others, not "
            f"{len(parts):,}. Enqueue each portion first, and give after= their ids"
        )
    return list(parts.values())


def fingerprint(call: Task[Any, Any]) -> str:
    """Return a text that is equal for calls of the same task with the same arguments.

    The text holds each argument's name and a digest of its value, so that a difference can be named
    without showing a value. ``f(1)`` and ``f(number=1)`` are the same call.
    """
    function = getattr(call.parent, "fn", None)
    try:
        own = signature_of(function)
        bound, known = own.bind(*call.args, **call.kwargs).arguments, own.parameters
        arguments = {name: one for name, one in bound.items() if one != known[name].default}
    except (TypeError, ValueError):  # the task itself will fail
        arguments = {"args": call.args, "kwargs": call.kwargs}
    digests = {name: _digest(value) for name, value in arguments.items()}
    return json.dumps([call.parent.fn_name, digests], sort_keys=True)


def clash(key: str, call: Task[Any, Any], task_id: str, known: str) -> TaskError:
    """Return the error for a key that belongs to another call."""
    name = call.parent.fn_name
    other, theirs = json.loads(known)
    ours = json.loads(fingerprint(call))[1]
    if other != name:
        what = f"{other} {task_id}"
    else:
        differing = [
            f"{one}=" for one in sorted({*ours, *theirs}) if ours.get(one) != theirs.get(one)
        ]
        what = f"{other} {task_id}, which was enqueued with another {', '.join(differing)}"
    return TaskError(
        f"{name}: the key {key!r} belongs to {what}. Use another key for another event"
    )


def _followed_by(call: Task[Any, Any], task: Any) -> RegisteredTask:
    """Return the task that follows a call in a chain."""
    if not isinstance(task, RegisteredTask):
        raise TaskError(
            f"{call.parent.fn_name} is followed by a task, such as charge, not by a "
            f"{type(task).__name__}: a chain passes each result on, so leave the call out"
        )
    return task


def _chain_error(call: Task[Any, Any]) -> TaskError:
    return TaskError(
        f"{call.parent.fn_name}: once() and within() are for a task alone, not for a chain. "
        "Enqueue the chain from inside the task"
    )


def _check_part(call: Task[Any, Any], part: TaskCall[Any, Any]) -> None:
    name = f"{call.parent.fn_name}: {part.parent.fn_name}"
    if isinstance(part, ReliableCall):
        raise TaskError(
            f"{name} of after= has once() or within(). Leave them out there, or await that call "
            "first and give its id"
        )
    if is_chained(part) or isinstance(part.schedule, str):
        what = "part of a chain" if is_chained(part) else "repeated"
        raise TaskError(f"{name} of after= is {what}. Enqueue it first, and give the id of a task")


def _check_key(name: str, key: Any, keep: Any) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY:
        raise TaskError(
            f"{name}: once() takes a key of 1 to {LONGEST_KEY} characters, not {shorten(key)}"
        )
    if UNSTORABLE.search(key):
        raise TaskError(
            f"{name}: once() takes a key that can be stored as text, not {shorten(key)}"
        )
    if not isinstance(keep, timedelta) or not SHORTEST_KEEP <= keep <= LONGEST_KEEP:
        raise TaskError(
            f"{name}: once() takes keep= as a timedelta of a millisecond to {LONGEST_KEEP.days} "
            f"days, not {keep!r}"
        )


def _is_durability(given: Any) -> bool:
    if isinstance(given, timedelta):
        return given > timedelta(0)
    return given is None or isinstance(given, bool)


def _digest(value: object) -> str:
    """Return a digest that is the same for equal values in every process."""
    try:
        text = json.dumps(value, sort_keys=True, default=_plain)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_LENGTH]


def _plain(value: Any) -> Any:
    """Return a stand-in for a value that JSON does not know."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, Enum):
        return [type(value).__qualname__, value.name]
    if state := getattr(value, "__dict__", None):
        return [type(value).__qualname__, state]
    return [type(value).__qualname__, repr(value)]
