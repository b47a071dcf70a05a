"""The client of a connected queue: enqueues tasks, waits for their results, aborts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from coredis.exceptions import RedisError
from streaq import StreaqError
from streaq.task import RegisteredTask, Task, TaskResult
from streaq.types import StreaqCancelled
from streaq.utils import datetime_ms, to_ms

from vibetuner.config import get_settings
from vibetuner.errors import TaskError, TaskExists, TaskNotFound
from vibetuner.redis.client import answering, unavailable
from vibetuner.redis.connection import Connection, server_ms
from vibetuner.redis.functions import Functions
from vibetuner.redis.keys import GROUP, Keys
from vibetuner.redis.url import Address
from vibetuner.stored import dump_record
from vibetuner.tasks.attempt import LAST_MOMENT
from vibetuner.tasks.call import ReliableCall, clash, fingerprint, parts_of
from vibetuner.tasks.client.durable import Durability
from vibetuner.tasks.client.results import ResultListener
from vibetuner.tasks.engine import call_data, cron_id, follows_another, is_chained
from vibetuner.tasks.journal import Ended, Outcome
from vibetuner.tasks.payload import Codec, Kind, dump
from vibetuner.tasks.retry import policy_of, unique_of
from vibetuner.tasks.unique import Unique

if TYPE_CHECKING:
    from streaq import Worker

ENQUEUED_AT_ONCE = 500
# Answers of enqueue in lua/queue.lua: the id waits or runs, or its result is kept.
TAKEN = (0, -1)
# Answer of enqueue_unique in lua/unique.lua: sign the call for another task, and send it again.
SIGN_AGAIN = 2
#: A task that could not be enqueued, and why.
Refusal = tuple[Task[Any, Any], BaseException]
# The result of an unknown task is kept for as long as that of any task in streaq.
UNKNOWN_RESULT_MS = 300_000


@dataclass(slots=True, eq=False)
class QueueClient:
    """A process's connection to the queue.

    Each method raises ServiceUnavailable if Redis does not answer, or refuses.

    Args:
        fetch: enqueues a task, by its id, if it waits in the outbox.
    """

    functions: Functions
    listener: ResultListener
    keys: Keys
    codec: Codec
    fetch: Callable[[str], Awaitable[None]] | None = None
    #: Set by :func:`open_queue_client`; sends durable calls on connections of its own.
    durable: Durability[QueueClient] = field(init=False)

    async def _enqueue_some(self, tasks: Sequence[Task[Any, Any]], now: int) -> list[Refusal]:
        """Enqueue tasks in one step, except those that can't be; return these with their errors.

        Raises StreaqError if a part of a chain can't be stored; nothing was enqueued.
        """
        refused: list[Refusal] = []
        values = self.values(tasks, now, refused)
        left = without(tasks, refused)
        while left:
            async with self.answering():
                answers = await self._ask("enqueue", values)
            if not (gone := gone_in(answers)):
                pairs = zip(left, answers, strict=True)
                refused += [(task, exists_error(task, at)) for task, at in pairs if at in TAKEN]
                break
            # Without the tasks that were to follow it, and in turn those that follow these.
            refused += [(task, _gone(task, gone)) for task in left if _is_after(task, gone)]
            left = [task for task in left if not _is_after(task, gone)]
            values = self.values(left, now)
        return refused

    async def _ask(self, name: str, values: Sequence[Any]) -> Any:
        """Enqueue by a function of lua/queue.lua, and return its answer.

        If a task to be followed is gone, look for it in the outbox, and ask again. If it is in no
        outbox, either, nothing was enqueued; see :func:`gone_in`.
        """
        sought: set[str] = set()
        while True:
            answer = await self.functions.call(name, (self.keys.queue,), values)
            gone = gone_in(answer)
            if not gone or gone in sought or self.fetch is None:
                return answer
            sought.add(gone)
            await self.fetch(gone)

    async def enqueue_once(
        self, task: ReliableCall[Any, Any], parts: Sequence[Task[Any, Any]], now: int
    ) -> bool:
        """Enqueue a task and its parts; if another task has its key, only take over that task's id.

        Returns whether the task is new.

        Raises:
            TaskExists: the id is taken, and the key is free; nothing was enqueued.
            TaskError: the key belongs to another task, or to this one with other arguments.
        """
        key, mine = task.key or "", fingerprint(task)
        values = [key, to_ms(task.keep), mine, *self.values([task, *parts], now)]
        async with self.answering():
            found = _known(task, await self._ask("enqueue_once", values))
        if found[0] in TAKEN:
            raise exists_error(task, found[0])
        task_id, known = found[0].decode(), found[1].decode()
        if known != mine:
            raise clash(key, task, task_id, known)
        is_new: bool = task_id == task.id
        task.id = task_id
        return is_new

    def answering(self) -> AbstractAsyncContextManager[None]:
        """Turn Redis errors in the block into ServiceUnavailable, without a time limit."""
        return answering(get_settings(), None)

    def values(
        self, tasks: Sequence[Task[Any, Any]], now: int, refused: list[Refusal] | None = None
    ) -> list[Any]:
        """Return the arguments of enqueue in lua/queue.lua; each call is signed for its task.

        Those that can't be stored are added to ``refused``, if it is given and they are not parts
        of a chain.

        Raises StreaqError if an argument can't be stored.
        """
        values: list[Any] = []
        for task in tasks:
            try:
                call = self.codec.seal(pickle_call(task, now), Kind.CALL, task.id)
            except StreaqError as error:
                if refused is None or is_chained(task):
                    raise
                refused.append((task, error))
                continue
            values += (
                task.id, call, _moment(task), _lifetime(task, now) if task.parent.expire else 0,
                task.priority or "", len(task.after), *task.after,
            )  # fmt: skip
        return values

    async def enqueue_new(self, task: Task[Any, Any], now: int) -> None:
        """Enqueue a task whose id is new.

        Raises TaskExists if the id is taken; nothing was enqueued.
        """
        values = self.values([task], now)
        try:  # like answering(), but cheaper
            if task.after:
                (answer,) = _known(task, await self._ask("enqueue", values))
            else:
                (answer,) = await self.functions.call(
                    "enqueue_each", (self.keys.queue,), values, shared=True
                )
            if isinstance(answer, Exception):
                raise answer
        except (RedisError, OSError) as error:
            raise await unavailable(get_settings(), error, self.functions.connection) from None
        if answer in TAKEN:
            raise exists_error(task, answer)

    async def enqueue_unique(self, task: Task[Any, Any], unique: Unique, now: int) -> bool:
        """Enqueue a unique task, and set its id to that of the task that runs for this call.

        Returns whether that is the call's own id.

        Raises TaskError if the arguments can't be compared, or the task is part of a chain.
        """
        parent: Any = task.parent
        if task.after or isinstance(task.schedule, str):
            raise _unique_error(task)
        group = unique.group(parent.fn, parent.fn_name, task.args, task.kwargs)
        signed_for = copy(task)
        while True:
            values = [group, unique.clash, task.id, *self.values([signed_for], now)]
            async with self.answering():
                answer = await self.functions.call("enqueue_unique", (self.keys.queue,), values)
            signed_for.id = answer[0].decode()
            # The server can't sign. So if another task is to run this call, sign the call for that
            # task and send it again. Each further round means that a task of the group began or
            # ended meanwhile.
            if answer[1] != SIGN_AGAIN:
                break
        if answer[1] < 0:
            raise exists_error(task, answer[1] + 1)
        task.id = signed_for.id
        return bool(answer[1])

    async def enqueue_batch(
        self, task: Task[Any, Any], parts: Sequence[Task[Any, Any]], now: int
    ) -> None:
        """Enqueue a task and its parts in one step; parts whose ids are taken stay as they are.

        Raises TaskExists if the id of the task is taken; nothing was enqueued.
        """
        tasks = [task, *parts]
        values = self.values(tasks, now)
        async with self.answering():
            answer = _known(task, await self._ask("enqueue_batch", values))
        if answer in TAKEN:
            raise exists_error(task, answer)

    async def enqueue_many(self, tasks: Sequence[Task[Any, Any]], now: int) -> list[Refusal]:
        """Enqueue many tasks, hundreds in one step; return those that can't be, with their errors.

        A unique task, and a task with parts, is enqueued in a step of its own. Tasks that follow
        others of these must come after them.
        """
        once: list[Task[Any, Any]] = []
        refused: list[Refusal] = []
        for task in tasks:
            try:
                if task.parent.unique and (unique := line_of(task)):
                    await self.enqueue_unique(task, unique, now)
                elif isinstance(task.schedule, str):
                    await self.repeat(task, now)
                elif task.after and (parts := parts_of(task)):
                    refused += await self._enqueue_portions(once, now)
                    once = []
                    await self.enqueue_batch(task, parts, now)
                elif len(tasks) == 1:
                    await self.enqueue_new(task, now)
                else:
                    once.append(task)
            except (TaskError, StreaqError) as error:
                refused.append((task, error))
        return refused + await self._enqueue_portions(once, now)

    async def _enqueue_portions(self, tasks: Sequence[Task[Any, Any]], now: int) -> list[Refusal]:
        refused: list[Refusal] = []
        for at in range(0, len(tasks), ENQUEUED_AT_ONCE):
            refused += await self._enqueue_some(tasks[at : at + ENQUEUED_AT_ONCE], now)
        return refused

    async def enqueue_durably(
        self, tasks: Sequence[Task[Any, Any]], now: int, patience: bool | timedelta
    ) -> list[Refusal]:
        """Enqueue tasks like :meth:`enqueue_many`, and wait until the server can't lose them.

        Raises NotDurable if no confirmation comes in time.
        """
        what = f"{tasks[0].parent.fn_name} {tasks[0].id}"
        if len(tasks) > 1:
            what += f" and {len(tasks) - 1} more"
        return await self.durable.keep(
            lambda client: client.enqueue_many(tasks, now), what, patience
        )

    async def repeat(self, task: Task[Any, Any], now: int) -> None:
        """Enqueue a task at each time of the crontab line that is its schedule.

        All times, including the first, count by the server's clock. A schedule under the same id is
        replaced.
        """
        async with self.answering():
            await self.store_schedule(
                task.id, str(task.schedule), pickle_call(task, now), task.priority or "",
                next_run=task.worker.next_run, is_call=True,
            )  # fmt: skip

    async def store_schedule(  # noqa: PLR0913 - the parts of a schedule
        self,
        name: str,
        tab: str,
        body: bytes,
        queue: str,
        *,
        next_run: Callable[..., int],
        is_call: bool = False,
    ) -> None:
        """Store a schedule and its next run, in one step.

        Args:
            name: the name of a cron task, or the id of a repeated call.
            body: the pickled call.
            next_run: returns when a line is next due; see :class:`.Cron`.
            is_call: whether a call is repeated; its first run has its id, if that is free.
        """
        keys, call = self.keys, self.functions.connection.call
        function, first = ("repeat_call", name) if is_call else ("declare_cron", "")
        answer = None
        while answer is None:
            due, clock = await asyncio.gather(
                call("ZSCORE", keys.cron_schedule, name), call("TIME")
            )
            planned = min(max(0.0, float(due or 0)), LAST_MOMENT)
            moment = next_run(tab, server_ms(clock) - time.time_ns() // 1_000_000)
            runs = dict.fromkeys((first or cron_id(name, moment), cron_id(name, moment)))
            values: list[Any] = [
                name, tab, self.codec.seal(body, Kind.SCHEDULE, name), repr(planned), queue, moment,
                cron_id(name, int(planned)), first,
            ]  # fmt: skip
            for run in runs:
                values += (run, self.codec.seal(body, Kind.CALL, run))
            answer = await self.functions.call(function, (keys.queue, keys.journal.cron), values)

    async def result(self, task_id: str, seconds: float | None) -> TaskResult[Any]:
        """Wait for a task's result.

        Raises:
            TimeoutError: no result after so many seconds.
            StreaqError: the result is signed with none of our keys, or can't be read.
        """
        async with asyncio.timeout(seconds), self.answering():
            key, read = self.keys.result(task_id), partial(self._stored_result, task_id)
            raw = await self.listener.wait(self.keys.channel(task_id), key, read)
        return read_result(task_id, self.codec.load(raw, Kind.RESULT, task_id))

    async def _stored_result(self, task_id: str) -> bytes:
        return await self.functions.connection.call("GET", self.keys.result(task_id)) or b""

    async def abort(
        self, worker: Worker[Any], task_id: str, seconds: float | None
    ) -> tuple[bool, bool]:
        """Abort a task; return whether that ended it within so many seconds, and whether here.

        A task that is delayed or waits for others ends here, with a result like any other. A task
        that is queued or runs is only marked for its worker; with 0 seconds, this doesn't wait for
        it.

        Raises StreaqError if the result is signed with none of our keys.
        """
        async with self.answering(), self.listener.listening(self.keys.channel(task_id)) as message:
            outcome = await self._abort(worker, task_id)
            if outcome == b"ended":
                return True, True
            if outcome == b"over" or seconds == 0:
                return False, False
            try:
                async with asyncio.timeout(seconds):
                    raw = await message or await self._stored_result(task_id)
                    data = self.codec.load(raw, Kind.RESULT, task_id)
            except TimeoutError:
                return False, False
            return not data["s"] and isinstance(data["r"], StreaqCancelled), False

    async def mark_abort(self, task_id: str) -> None:
        """Mark a task that waits in the outbox for the worker that claims it."""
        async with self.answering():
            await self.functions.call("mark_abort", (self.keys.queue,), [task_id])

    async def _abort(self, worker: Worker[Any], task_id: str) -> bytes:
        keys, call = self.keys, self.functions.connection.call
        # The task may be in a queue that tune.py no longer declares.
        stored, noted = await asyncio.gather(
            call("GET", keys.data(task_id)), call("ZRANGE", keys.journal.queues, 0, -1)
        )
        queues = dict.fromkeys([*worker.priorities, *(name.decode() for name in noted)])
        try:
            data = self.codec.load(stored, Kind.CALL, task_id) if stored else {}
        except StreaqError:
            data = {}
        name, now = str(data.get("f", "unknown")), time.time_ns() // 1_000_000
        created = int(data.get("t", 0))
        error = StreaqCancelled("Task aborted prior to run!")
        ended = dump(
            {
                "f": name, "ct": created, "et": created, "s": False, "r": error,
                "st": now, "ft": now, "t": 0, "w": worker.id,
            }
        )  # fmt: skip
        result = self.codec.seal(ended, Kind.RESULT, task_id)
        entry = Ended(
            task_id, name, Outcome.ABORTED, created, created, 0, now, 0, worker.id,
            "aborted before it was due",
        )  # fmt: skip
        answer: bytes = await self.functions.call(
            "abort",
            (keys.queue, keys.letters, keys.letter_places, keys.prefix),
            [
                GROUP, task_id, result, result_lifetime(worker.registry.get(name)), name,
                dump_record(entry), data.get("O") or "", keys.lock(name), *queues,
            ],
        )  # fmt: skip
        return answer


@asynccontextmanager
async def open_queue_client(
    address: Address, keys: Keys, codec: Codec, fetch: Callable[[str], Awaitable[None]]
) -> AsyncIterator[QueueClient]:
    """Connect to the queue, and load our functions.

    Raises:
        ServiceUnavailable: the server refuses functions and scripts.
        ConnectionError: of coredis: the server does not answer.
    """
    async with Connection(address) as connection:
        functions = Functions(connection)
        await functions.load()
        if address.cluster:  # wait while its slot is being moved
            await functions.call("ping", (keys.guard,), ())
        async with ResultListener(address) as listener:
            client = QueueClient(functions, listener, keys, codec, fetch)
            client.durable = Durability(
                address,
                lambda own: QueueClient(functions.on(own), listener, keys, codec, fetch),
                keys.durable,
            )
            async with client.durable:
                yield client


def pickle_call(task: Task[Any, Any], now: int) -> bytes:
    """Pickle a call that is enqueued at a time.

    Raises StreaqError if an argument can't be stored.
    """
    try:
        return dump(call_data(task, now))
    except Exception as error:
        raise StreaqError(f"Unable to serialize task {task.parent.fn_name}!") from error


def result_lifetime(task: RegisteredTask | None) -> int | str:
    """Return the milliseconds that a task's result is kept; an empty text means for ever."""
    if task is None:
        return UNKNOWN_RESULT_MS
    return "" if task.ttl is None else _milliseconds(task.ttl)


@lru_cache(100)
def _milliseconds(span: timedelta | int) -> int:
    return max(0, to_ms(span))


def line_of(task: Task[Any, Any]) -> Unique | None:
    """Return the ``Unique`` of a call, if it is decided when the call is enqueued."""
    unique = unique_of(task.parent)
    return unique if unique is not None and unique.has_line else None


def check_ties(task: Task[Any, Any]) -> None:
    """Raise TaskError if a unique task is part of a chain."""
    unique = unique_of(task.parent)
    if unique is not None and (unique.has_line or (unique.by and follows_another(task))):
        raise _unique_error(task)


def exists_error(task: Task[Any, Any], answer: int | bytes) -> TaskExists:
    """Return the error for a call whose id is taken; -1 says by a result."""
    where = "has ended, and its result is kept" if answer == -1 else "waits or runs already"
    return TaskExists(
        f"{task.parent.fn_name} {task.id} {where}, so nothing was enqueued. Take another id, or "
        "none: enqueue() makes one"
    )


def gone_in(answer: Any) -> str:
    """Return the id of a task that is gone, if an answer says that another was to follow it.

    An answer of two items begins with the id of a task, which may begin like this one.
    """
    first = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    if isinstance(first, bytes) and first.startswith(b"?"):
        return first[1:].decode()
    return ""


def _known(task: Task[Any, Any], answer: Any) -> Any:
    """Return an answer; raise TaskNotFound if it names a task to be followed that is gone."""
    if gone := gone_in(answer):
        raise _gone(task, gone)
    return answer


def without(tasks: Sequence[Task[Any, Any]], refused: Sequence[Refusal]) -> list[Task[Any, Any]]:
    """Return the tasks that were not refused."""
    wrong = {id(task) for task, _ in refused}
    return [task for task in tasks if id(task) not in wrong]


def _is_after(task: Task[Any, Any], first: str) -> bool:
    return first in task.after or f"~{first}" in task.after


def _gone(task: Task[Any, Any], first: str) -> TaskNotFound:
    return TaskNotFound(
        f"{task.parent.fn_name} was not enqueued: it is to follow {first}, which neither waits nor "
        "runs, and has no result that is kept. Enqueue that task first, or give the call itself "
        "as after="
    )


def _unique_error(task: Task[Any, Any]) -> TaskError:
    return TaskError(
        f"{task.parent.fn_name} is unique, so it can't be part of a chain, wait for other tasks "
        "(after=), be enqueued with the task that waits for it or be repeated. Enqueue it alone, "
        "at the end of the task that it is to follow"
    )


def read_result(task_id: str, data: dict[str, Any]) -> TaskResult[Any]:
    """Parse a stored result.

    Raises StreaqError if the data is not that of a result.
    """
    try:
        return TaskResult(
            task_id=task_id,
            fn_name=data["f"],
            created_time=data["ct"],
            enqueue_time=data["et"],
            success=data["s"],
            start_time=data["st"],
            finish_time=data["ft"],
            tries=data["t"],
            worker_id=data["w"],
            _result=data["r"],
        )
    except (KeyError, TypeError) as error:
        raise StreaqError(f"The stored result of {task_id} can't be read") from error


def _moment(task: Task[Any, Any]) -> int | str:
    """Return when a task is due; a delay counts by the server's clock."""
    if isinstance(task.schedule, datetime):
        return datetime_ms(task.schedule)
    return 0 if task.delay is None else f"+{to_ms(task.delay)}"


def _lifetime(task: Task[Any, Any], now: int) -> int:
    """Return the milliseconds that a call of a task with ``expire=`` is kept."""
    wait = 0
    if policy_of(task.parent) is not None:  # its expire= counts from the time when it is due
        wait = to_ms(task.delay or 0)
        if isinstance(task.schedule, datetime):
            wait = datetime_ms(task.schedule) - now
    return to_ms(task.parent.expire or 0) + max(0, wait)
