"""The queue, connected: enqueues tasks, waits for their results, aborts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from streaq import StreaqError
from streaq.task import Task, TaskResult
from streaq.types import StreaqCancelled
from streaq.utils import datetime_ms, to_ms, to_seconds

from vibetuner.redis.connection import Connection
from vibetuner.redis.functions import Functions
from vibetuner.redis.keys import GROUP, Keys
from vibetuner.redis.url import Address
from vibetuner.tasks.call import ReliableCall, clash, fingerprint
from vibetuner.tasks.client.results import ResultListener
from vibetuner.tasks.journal.entry import Ended, Outcome
from vibetuner.tasks.payload import Codec

if TYPE_CHECKING:
    from streaq import Worker

__all__ = ["QueueClient", "open_queue_client"]

ENQUEUED_AT_ONCE = 500
ABORTED_RESULT_MS = 300_000


class QueueClient:
    """One process's way to the queue.

    Args:
        functions: our functions on the server.
        listener: hears of results.
        keys: the queue's keys.
        codec: signs and reads payloads.
    """

    def __init__(
        self, functions: Functions, listener: ResultListener, keys: Keys, codec: Codec
    ) -> None:
        self.functions = functions
        self.listener = listener
        self.keys = keys
        self.codec = codec

    async def enqueue(
        self, tasks: Sequence[Task[Any, Any]], payloads: Sequence[bytes], now: int
    ) -> list[int | bytes]:
        """Enqueue tasks, in one step; returns 0 for each whose id is waiting or running already.

        Raises:
            RedisError: Redis is away, or refuses.
        """
        values = self.values(tasks, payloads, now)
        answers: list[int | bytes] = await self.functions.call(
            "enqueue", (self.keys.queue,), values
        )
        return answers

    async def enqueue_once(self, call: ReliableCall[Any, Any], payload: bytes, now: int) -> bool:
        """Enqueue a call unless a task has its key, whose id it gets; return whether it was new.

        Raises:
            TaskError: the key belongs to another task, or to this one with other arguments.
            RedisError: Redis is away, or refuses.
        """
        key, mine = call.key or "", fingerprint(call)
        found = await self.functions.call(
            "enqueue_once",
            (self.keys.queue,),
            [key, to_ms(call.keep), mine, *self.values([call], [payload], now)],
        )
        task_id, known = found[0].decode(), found[1].decode()
        if known != mine:
            raise clash(key, call, task_id, known)
        is_new: bool = task_id == call.id
        call.id = task_id
        return is_new

    def values(
        self, tasks: Sequence[Task[Any, Any]], payloads: Sequence[bytes], now: int
    ) -> list[Any]:
        """What enqueue in lua/queue.lua takes of tasks."""
        values: list[Any] = [now]
        for task, payload in zip(tasks, payloads, strict=True):
            worker = task.worker
            task.priority = task.priority or worker.priorities[-1]
            values += (
                task.id, payload, _moment(task, now, worker), to_ms(task.parent.expire or 0),
                task.priority, len(task.after), *task.after,
            )  # fmt: skip
        return values

    async def enqueue_many(self, tasks: Sequence[Task[Any, Any]], now: int) -> None:
        """Enqueue many tasks, hundreds in one step."""
        for task in tasks:
            if isinstance(task.schedule, str):
                await self.repeat(task, await task.serialize(now), now)
        once = [task for task in tasks if not isinstance(task.schedule, str)]
        for at in range(0, len(once), ENQUEUED_AT_ONCE):
            part = once[at : at + ENQUEUED_AT_ONCE]
            await self.enqueue(part, [await task.serialize(now) for task in part], now)

    async def repeat(self, task: Task[Any, Any], payload: bytes, now: int) -> None:
        """Enqueue a task for each moment of the crontab line that is its schedule."""
        keys, tab, connection = self.keys, str(task.schedule), self.functions.connection
        await asyncio.gather(
            connection.call("SET", keys.cron_data(task.id), payload),
            connection.call("HSET", keys.cron_tabs, task.id, tab),
            connection.call("ZADD", keys.cron_schedule, task.worker.next_run(tab), task.id),
        )
        await self.enqueue([task], [payload], now)

    async def result(
        self,
        task_id: str,
        timeout: timedelta | int | None,  # noqa: ASYNC109 - streaq's own parameter
    ) -> TaskResult[Any]:
        """Wait for a task's result.

        Raises:
            TimeoutError: there is none after ``timeout`` seconds.
            StreaqError: it is signed with none of our keys, or can't be read.
        """
        async with asyncio.timeout(to_seconds(timeout)):
            raw = await self.listener.wait(self.keys.channel(task_id), self.keys.result(task_id))
        return read_result(task_id, self.codec.load(raw))

    async def abort(
        self,
        worker: Worker[Any],
        task_id: str,
        timeout: timedelta | int | None,  # noqa: ASYNC109 - as above
    ) -> tuple[bool, list[str] | None]:
        """End a task; returns whether that ended it, within ``timeout`` seconds.

        A delayed task ends at once, with a result like that of any other; the second value then
        names the tasks that fail with it. One that waits or runs is marked for its worker. With 0
        the answer for such a one is False, without waiting.
        """
        async with self.listener.listening(self.keys.channel(task_id)) as message:
            outcome, *failed = await self._abort(worker, task_id)
            if outcome == b"ended":
                return True, [name.decode() for name in failed]
            if outcome == b"over" or (timeout is not None and not timeout):
                return False, None
            try:
                async with asyncio.timeout(to_seconds(timeout)):
                    data = self.codec.load(await message)
            except TimeoutError:
                return False, None
            return not data["s"] and isinstance(data["r"], StreaqCancelled), None

    async def _abort(self, worker: Worker[Any], task_id: str) -> list[bytes]:
        keys = self.keys
        stored = await self.functions.connection.call("GET", keys.data(task_id))
        try:
            data = self.codec.load(stored) if stored else {}
        except StreaqError:
            data = {}
        name, now = str(data.get("f", "unknown")), time.time_ns() // 1_000_000
        created = int(data.get("t", 0))
        task = worker.registry.get(name)
        lifetime: int | str = ABORTED_RESULT_MS
        if task is not None:
            lifetime = "" if task.ttl is None else to_ms(task.ttl)
        error = StreaqCancelled("Task aborted prior to run!")
        result = self.codec.dump(
            {
                "f": name, "ct": created, "et": created, "s": False, "r": error,
                "st": now, "ft": now, "t": 0, "w": worker.id,
            }
        )  # fmt: skip
        entry = Ended(
            task_id, name, Outcome.ABORTED, created, created, 0, now, 0, worker.id,
            "aborted before it was due",
        )  # fmt: skip
        answer: list[bytes] = await self.functions.call(
            "abort",
            (keys.queue, keys.letters, keys.letter_places, keys.prefix),
            [
                now, GROUP, task_id, result, lifetime, name, entry.to_json(), data.get("O") or "",
                keys.lock(name), *worker.priorities,
            ],
        )  # fmt: skip
        return answer


@asynccontextmanager
async def open_queue_client(
    address: Address, keys: Keys, codec: Codec
) -> AsyncIterator[QueueClient]:
    """Connect to the queue, and load our functions.

    Raises:
        ServiceUnavailable: the server refuses functions and scripts.
        ConnectionError: of coredis: the server does not answer.
    """
    async with Connection(address) as connection:
        functions = Functions(connection)
        await functions.load()
        async with ResultListener(address, connection) as listener:
            yield QueueClient(functions, listener, keys, codec)


def read_result(task_id: str, data: dict[str, Any]) -> TaskResult[Any]:
    """A result as it is stored.

    Raises:
        StreaqError: it is no result.
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
        raise StreaqError(f"What is stored as the result of {task_id} is none") from error


def _moment(task: Task[Any, Any], now: int, worker: Worker[Any]) -> int:
    if isinstance(task.schedule, str):
        return worker.next_run(task.schedule)
    if task.schedule is not None:
        return datetime_ms(task.schedule)
    return 0 if task.delay is None else now + to_ms(task.delay)
