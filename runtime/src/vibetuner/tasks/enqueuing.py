"""Enqueues calls: alone, in a chain, many together, under a key, or after a transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from graphlib import CycleError, TopologicalSorter
from typing import Any, cast

from streaq import StreaqError
from streaq.task import Task
from streaq.types import P, R

from vibetuner.errors import TaskError
from vibetuner.tasks.call import ChainedCall, ReliableCall, TaskCall, parts_of
from vibetuner.tasks.client.queue import Refusal, check_ties, line_of, without
from vibetuner.tasks.courier import Courier, Worker
from vibetuner.tasks.engine import follows_another, link_chain
from vibetuner.tasks.limits import check_enqueue


class Enqueuer:
    """Checks calls, and enqueues them through the process's connection or its outbox.

    Args:
        durably: whether calls without ``durable=`` are durable, as ENQUEUE_DURABLE says.
    """

    def __init__(self, worker: Worker, *, durably: bool) -> None:
        self._worker = worker
        self._durably = durably
        self.courier = Courier(worker)

    async def call(self, call: TaskCall[P, R]) -> TaskCall[P, R]:
        """Enqueue a call, and report it to the worker's ``on_enqueue``.

        Raises:
            TaskExists: the id is taken.
            TaskNotFound: the call is to follow a task that is gone; nothing was enqueued.
            TaskError: the call is not valid.
            StreaqError: an argument can't be stored; its cause, a PayloadError, names it.
            NotConfigured: REDIS_URL is empty.
            ServiceUnavailable: the queue is not open here, or Redis does not answer, or refuses.
            RedisFull: Redis has no memory left.
            NotDurable: no confirmation in time, if the call is durable.
        """
        client, now = self._worker.client, time.time_ns() // 1_000_000
        check_enqueue(call, self._worker.priorities)
        parts = self._parts_of(call) if call.after else []
        durable = self._durably if call.durable is None else call.durable  # faster than a method
        if durable or call.parent.unique or parts or isinstance(call.schedule, str):
            _raise_first(await self._enqueue_plain([call], now))
        else:
            await client.enqueue_new(call, now)
        if self._worker.on_enqueue is not None:
            await self._notify([*parts, call])
        return call

    async def chain(self, last: ChainedCall[P, R]) -> ChainedCall[P, R]:
        """Enqueue the last call of a chain and all that are before it, in one step.

        Raises:
            TaskExists: an id is taken; the others were enqueued.
            TaskError: a call of the chain is not valid; nothing was enqueued.
            NotConfigured: REDIS_URL is empty.
            ServiceUnavailable: the queue is not open here, or Redis does not answer, or refuses.
            NotDurable: no confirmation in time, if the chain is durable.
        """
        calls = cast("list[TaskCall[Any, Any]]", link_chain(last))
        for call in calls:
            if isinstance(call.schedule, str) or (
                call is not calls[0] and (call.delay, call.schedule) != (None, None)
            ):
                raise TaskError(
                    f"{call.parent.fn_name} is part of a chain: it runs once, and follows the one "
                    "before it at once. Take delay= and schedule= out; the first may be delayed"
                )
            call.durable = last.durable
            check_enqueue(call, self._worker.priorities)
            if call.parent.unique:
                check_ties(call)
            if parts_of(call):
                raise TaskError(
                    f"{call.parent.fn_name}: a call that waits for other calls can't be part of a "
                    "chain. Enqueue it alone, and what follows at its end"
                )
        _raise_first(await self._enqueue_plain(calls, time.time_ns() // 1_000_000))
        await self._notify(calls)
        return last

    async def many(self, tasks: Iterable[Task[Any, Any]]) -> None:
        """Enqueue tasks; see :meth:`vibetuner.tasks.worker.TaskWorker.enqueue_many`."""
        tasks = list(tasks)  # a generator could be read only once
        for task in tasks:
            if not isinstance(task, Task):
                raise TaskError(
                    "enqueue_many() takes calls such as task.enqueue(7), not a "
                    f"{type(task).__name__}"
                )
            if follows_another(task):
                raise StreaqError("Pipelined tasks can't be enqueued in batches!")
        parts = {part.id: part for task in tasks if task.after for part in self._parts_of(task)}
        reliable = [task for task in tasks if isinstance(task, ReliableCall)]
        plain = [
            task for task in tasks if not isinstance(task, ReliableCall) and task.id not in parts
        ]
        for task in plain:
            check_enqueue(task, self._worker.priorities)
        plain = _in_order(plain)
        refused = await self._enqueue_plain(plain, time.time_ns() // 1_000_000)
        plain = without(plain, refused)
        own = {part.id: part for task in plain for part in parts_of(task)}
        await self._notify([*own.values(), *plain])
        for task in reliable:
            if task.session is not None:  # a session takes one statement at a time
                try:
                    await task
                except (TaskError, StreaqError) as error:
                    refused.append((task, error))
        keyed = [task for task in reliable if task.session is None]
        answers = await asyncio.gather(*keyed, return_exceptions=True)
        pairs = zip(keyed, answers, strict=True)
        refused += [(task, answer) for task, answer in pairs if isinstance(answer, BaseException)]
        _raise_first(refused)

    async def reliably(self, call: ReliableCall[P, R]) -> ReliableCall[P, R]:
        """Enqueue a call that has a key or a session, and the calls that it waits for.

        The call gets the id of the task that has its key. A durable call in a session stays in the
        database until the durable enqueue is confirmed.

        Raises:
            TaskError: the key belongs to another call, or a crontab line repeats the call.
            TaskExists: the id is taken, or the outbox holds the call, which has no key.
            NotConfigured: REDIS_URL is empty.
            ServiceUnavailable: the queue is not open here, or Redis does not answer, or refuses.
        """
        is_written = call.session is not None
        client = self._worker.signing_client() if is_written else self._worker.client
        check_enqueue(call, self._worker.priorities)
        if isinstance(call.schedule, str):
            raise TaskError(
                f"{call.parent.fn_name}: once() and within() are for a task that runs once, not "
                f"for one that is repeated at {call.schedule!r}. Leave them out"
            )
        if call.parent.unique and (unique := line_of(call)):
            raise TaskError(
                f"{call.parent.fn_name}: once() and within() are not for a task that is "
                f"unique with clash={unique.clash!r}. Enqueue it from inside a task of its own"
            )
        parts = self._parts_of(call) if call.after else []
        now = time.time_ns() // 1_000_000
        if call.durable is None:
            call.durable = self._durably
        if call.session is not None:
            rows = [replace(one.within(call.session), durable=call.durable) for one in parts]
            await self.courier.write([call, *rows], client, now)
            return call
        if call.durable:
            is_new = await client.durable.keep(
                lambda line: line.enqueue_once(call, parts, now),
                f"{call.parent.fn_name} {call.id}",
                call.durable,
            )
        else:
            is_new = await client.enqueue_once(call, parts, now)
        if is_new:
            await self._notify([*parts, call])
        return call

    def _parts_of(self, task: Task[Any, Any]) -> list[TaskCall[Any, Any]]:
        """Return the calls that are enqueued with a task, checked and with their queues set."""
        parts = parts_of(task)
        for part in parts:
            check_enqueue(part, self._worker.priorities)
            if line_of(part):
                check_ties(part)
        return parts

    async def _notify(self, enqueued: Iterable[Task[Any, Any]]) -> None:
        """Call the worker's hooks for calls that were enqueued."""
        if self._worker.on_enqueue is not None:
            for call in enqueued:
                self._worker.on_enqueue(call)
        if self._worker.after_enqueue is not None:
            await self._worker.after_enqueue()

    async def _enqueue_plain(self, tasks: Sequence[Task[Any, Any]], now: int) -> list[Refusal]:
        """Enqueue calls in portions of equal durability; those that follow others come last."""
        first: dict[bool | timedelta, list[Task[Any, Any]]] = {}
        for task in tasks:
            if not task.after:
                first.setdefault(self._durability(task), []).append(task)
        # Without a confirmation first: those with one may fail for its lack.
        portions = sorted(first.items(), key=lambda portion: portion[0] is not False)
        for task in tasks:
            if task.after:
                durable = self._durability(task)
                if not portions or portions[-1][0] != durable:
                    portions.append((durable, []))
                portions[-1][1].append(task)
        client, refused = self._worker.client, []
        for durable, some in portions:
            if durable is False:
                refused += await client.enqueue_many(some, now)
            else:
                refused += await client.enqueue_durably(some, now, durable)
        return refused

    def _durability(self, task: Task[Any, Any]) -> bool | timedelta:
        durable: bool | timedelta | None = getattr(task, "durable", None)
        return self._durably if durable is None else durable


def _in_order(tasks: Sequence[Task[Any, Any]]) -> list[Task[Any, Any]]:
    """Return calls so that each comes after those of them that it follows.

    Raises:
        TaskError: some of them wait for each other.
    """
    if not any(task.after for task in tasks):
        return list(tasks)
    named: dict[str, list[Task[Any, Any]]] = {}
    for task in tasks:
        named.setdefault(task.id, []).append(task)
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for task in tasks:
        marks = {mark.removeprefix("~") for one in (task, *parts_of(task)) for mark in one.after}
        sorter.add(task.id, *sorted(marks & named.keys()))
    try:
        return [task for task_id in sorter.static_order() for task in named[task_id]]
    except CycleError as error:
        name = named[error.args[1][0]][0].parent.fn_name
        raise TaskError(
            f"{name}: calls of one enqueue_many() wait for each other, so that none would ever "
            f"start: {', '.join(error.args[1][1:])}"
        ) from None


def _raise_first(refused: Sequence[Refusal]) -> None:
    """Raise the error of a call that could not be enqueued: one of the server's, or the first."""
    for _, error in sorted(refused, key=lambda one: isinstance(one[1], TaskError | StreaqError)):
        raise error
