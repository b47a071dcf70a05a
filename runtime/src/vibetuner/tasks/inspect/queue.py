"""Reads the queue: workers, running tasks, counts, payloads and ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from streaq import StreaqError

from vibetuner.config import get_settings
from vibetuner.errors import ServiceUnavailable, TaskError
from vibetuner.redis.client import answering as redis_answering
from vibetuner.redis.keys import JournalKeys, Keys
from vibetuner.stored import read_or_none
from vibetuner.tasks.dead_letters import BEGINNING, letter_ids
from vibetuner.tasks.inspect.model import Counts, QueueView, Row, State, WorkerView, moment
from vibetuner.tasks.journal import Beat, Started
from vibetuner.tasks.letters.stream import Client
from vibetuner.tasks.outbox.row import ids_in_outbox
from vibetuner.tasks.payload import Kind, unpickle
from vibetuner.tasks.queues import USUAL
from vibetuner.tasks.worker import TaskWorker, get_worker

# Together with the gate's own limit, a page must answer within five seconds.
ANSWER_SECONDS = 3.5

COUNT = 5000
LONGEST_SILENCE = 1e6
NAMED = 3
MOST_SCANS = 200


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, read through the process's open worker."""

    worker: TaskWorker
    keys: JournalKeys

    @property
    def redis(self) -> Client:
        """Return the open client; raises NotConfigured or ServiceUnavailable when there is none."""
        return self.worker.redis

    async def queues(self) -> list[str]:
        """Return the names of the queues, highest first; never loads the project."""
        return await queue_names(self.redis, self.engine_keys, self.worker.known_queues)

    @property
    def engine_keys(self) -> Keys:
        """Return the queue's keys."""
        return Keys(self.keys.prefix, self.worker.queue_name)

    async def queue_of(self, task_id: str) -> str:
        """Return the queue of a queued task; empty if it is not among the oldest 5,000."""
        for name in await self.queues():
            if task_id in await self.oldest(name):
                return name
        return ""

    async def oldest(self, name: str) -> list[str]:
        """Return the ids of the oldest 5,000 tasks in a queue."""
        entries = await self.redis.xrange(self.engine_keys.stream(name), count=COUNT)
        return [str(entry.field_values.get("task_id", "")) for entry in entries]

    async def workers(self) -> list[WorkerView]:
        """Return the workers with a heartbeat in the last minute, the oldest worker first."""
        return await read_workers(self.redis, self.keys)

    async def running(self, workers: list[WorkerView] | None = None) -> list[Row]:
        """Return running tasks, the longest first; a silent worker's tasks are lost."""
        views = await self.workers() if workers is None else workers
        async with self.redis.pipeline(transaction=False) as pipe:
            asked = [pipe.hgetall(self.keys.running(view.beat.id)) for view in views]
        rows = [
            _running_row(str(task_id), read_or_none(Started, text), view)
            for view, found in zip(views, asked, strict=True)
            for task_id, text in (await found).items()
        ]
        return sorted(rows, key=lambda row: (str(row.started), row.task_id))

    async def counts(self, workers: list[WorkerView] | None = None) -> Counts:
        """Return the number of tasks in each state, and in each queue."""
        workers = await self.workers() if workers is None else workers
        running = await self.running(workers)
        sizes = await queue_sizes(self.redis, self.engine_keys, await self.queues())
        async with self.redis.pipeline(transaction=False) as pipe:
            in_line, ended = pipe.zcard(self.engine_keys.in_line), pipe.xlen(self.keys.ended)
        views = [
            QueueView(
                name=name,
                queued=max(0, length - sum(row.queue == name for row in running)),
                scheduled=delayed,
                readers=sum(view.is_live and name in view.beat.queues for view in workers),
            )
            for name, (length, delayed) in sizes.items()
        ]
        total = sum(length for length, _ in sizes.values())
        return Counts(
            queued=max(0, total - len(running)) + await in_line,
            running=len(running),
            scheduled=sum(one.scheduled for one in views),
            ended=await ended,
            queues=[
                one
                for one in views
                if one.name not in USUAL or len(views) == 1 or one.is_unread or one.readers
            ],
        )

    async def entry(self, stream: str, entry_id: str) -> Mapping[Any, Any]:
        """Return the fields of an entry of the journal; empty if there is no such entry."""
        found = await self.redis.xrange(stream, entry_id, entry_id) if entry_id else ()
        return found[0].field_values if found else {}

    async def names(self) -> list[str]:
        """Return the names of all tasks that have run or are registered here."""
        seen = await self.redis.zrange(self.keys.names, 0, -1)
        return sorted({*map(str, seen), *self.worker.registry})

    async def pulse(self) -> tuple[object, ...]:
        """Return a value that changes whenever something has happened."""
        names = await self.queues()
        async with self.redis.pipeline(transaction=False) as pipe:
            asked: list[Any] = [pipe.get(self.keys.pulse), pipe.zcard(self.keys.workers)]
            asked += [pipe.xlen(self.engine_keys.stream(name)) for name in names]
            asked += [pipe.zcard(self.engine_keys.delayed(name)) for name in names]
            asked.append(pipe.xlen(self.engine_keys.letters))
        return tuple([await one for one in asked])

    async def payloads(self, ids: list[str]) -> list[dict[str, Any]]:
        """Return the payloads of these ids; empty for one that is gone, or not signed by us."""
        if not ids:
            return []
        keys = self.engine_keys
        raw = await self.redis.mget([keys.data(task_id) for task_id in ids])
        return [self.read(one, Kind.CALL, task_id) for one, task_id in zip(raw, ids, strict=True)]

    def read(self, raw: Any, kind: Kind, task_id: str, *, is_kept: bool = False) -> dict[str, Any]:
        """Return a payload or a result; empty if it is gone, or not signed by us for its place.

        A call that ``is_kept`` was stored after its task's end.
        """
        if not raw:
            return {}
        stored, codec = raw.encode() if isinstance(raw, str) else raw, self.worker.client.codec
        try:
            body = (
                codec.open_kept(stored, task_id) if is_kept else codec.open(stored, kind, task_id)
            )
            data = unpickle(body)
        except StreaqError:
            return {}
        return data if isinstance(data, dict) and all(isinstance(one, str) for one in data) else {}


async def queue_names(redis: Client, keys: Keys, declared: Iterable[str] = ()) -> list[str]:
    """Return the names of the queues, highest first; those that are no longer declared are last.

    Workers note the queues that they read. The names that they made streams for are kept for good,
    as tasks may be left in a queue that nobody has read for weeks.
    """
    async with redis.pipeline(transaction=False) as pipe:
        noted, made = pipe.zrange(keys.journal.queues, 0, -1), pipe.hgetall(keys.made)
    names = [*declared, *map(str, await noted), *USUAL, *sorted(map(str, await made))]
    return list(dict.fromkeys(names))


async def queue_sizes(
    redis: Client, keys: Keys, names: Iterable[str]
) -> dict[str, tuple[int, int]]:
    """Return the number of messages and of delayed tasks in each queue."""
    async with redis.pipeline(transaction=False) as pipe:
        asked = {
            name: (pipe.xlen(keys.stream(name)), pipe.zcard(keys.delayed(name))) for name in names
        }
    return {name: (await length, await delayed) for name, (length, delayed) in asked.items()}


async def read_workers(redis: Client, keys: JournalKeys) -> list[WorkerView]:
    """Return the workers with a heartbeat in the last minute, the oldest worker first."""
    heard = await redis.zrange(keys.workers, 0, -1, withscores=True)
    if not heard:
        return []
    texts = await redis.mget([keys.worker(str(name)) for name, _ in heard])
    now = 1000 * (await redis.time()).timestamp()
    views = [
        WorkerView(beat, _silence(now - at), (beat.at - at) / 1000)
        for (_, at), text in zip(heard, texts, strict=True)
        if text and (beat := read_or_none(Beat, text))
    ]
    return sorted(views, key=lambda view: (view.beat.started, view.beat.id))


def _silence(milliseconds: float) -> float:
    """Return seconds within bounds, because a time that is stored in Redis may be any number."""
    return min(max(0.0, milliseconds / 1000), LONGEST_SILENCE)


def this_queue() -> Queue:
    """Return the queue of this process's project."""
    return Queue(get_worker(), JournalKeys(get_settings().redis_key_prefix))


async def whole_id(queue: Queue, text: str) -> str:
    """Return the id that begins with ``text``; or ``text``, if it is an id or begins none.

    Tasks that run, are scheduled or in line, have ended or have a dead letter, are in the outbox,
    or are the oldest 5,000 in a queue are searched. If none is found, up to a million keys are
    searched for tasks that wait for others.

    Raises TaskError if several ids begin like this.
    """
    if not BEGINNING.fullmatch(text):
        return text
    if await _is_known(queue, text):
        return text
    found = sorted(await _ids_with_prefix(queue, text) or await _with_payload(queue, text))
    if len(found) > 1:
        named = ", ".join(found[:NAMED]) + (", ..." if len(found) > NAMED else "")
        raise TaskError(f"{len(found)} tasks begin with {text}: {named}. Type more of the id")
    return found[0] if found else text


async def _is_known(queue: Queue, text: str) -> bool:
    async with queue.redis.pipeline(transaction=False) as pipe:
        keys = [queue.engine_keys.data(text), queue.engine_keys.result(text)]
        asked = [pipe.exists([key]) for key in keys]
        ended = pipe.hexists(queue.keys.ids, text)
    return any([await one for one in asked]) or bool(await ended)


async def _ids_with_prefix(queue: Queue, text: str) -> set[str]:
    found = {row.task_id for row in await queue.running() if row.task_id.startswith(text)}
    for name in await queue.queues():
        found |= {task_id for task_id in await queue.oldest(name) if task_id.startswith(text)}
        found |= await _scan(queue.redis.zscan, queue.engine_keys.delayed(name), text)
    found |= await _scan(queue.redis.zscan, queue.engine_keys.in_line, text)
    found |= await _scan(queue.redis.hscan, queue.keys.ids, text)
    found |= {*await ids_in_outbox(text, limit=NAMED + 1)}
    with suppress(ServiceUnavailable):  # the database of the letters is not open here
        found |= {*await letter_ids(text, limit=NAMED + 1)}
    return found


async def _with_payload(queue: Queue, text: str) -> set[str]:
    """Return the tasks that have a payload and begin like this; look at a million keys at most."""
    key, found, cursor = queue.engine_keys.data(""), set(), 0
    for _ in range(MOST_SCANS):
        cursor, some = await queue.redis.scan(cursor, match=f"{key}{text}*", count=COUNT)
        found |= {str(one).removeprefix(key) for one in some}
        if not cursor:
            break
    return found


async def _scan(scan: Any, key: str, text: str) -> set[str]:
    """Return the members of one key that begin like this; sets hold pairs, hashes names."""
    found: set[str] = set()
    cursor = 0
    while True:
        cursor, some = await scan(key, cursor, match=f"{text}*", count=COUNT)
        found |= {str(one if isinstance(some, dict) else one[0]) for one in some}
        if not cursor:
            return found


def answering(seconds: float = ANSWER_SECONDS) -> AbstractAsyncContextManager[None]:
    """Turn Redis errors and timeouts into an error that names the cure.

    Raises ServiceUnavailable if Redis did not answer, or refused.
    """
    return redis_answering(get_settings(), seconds)


def unreadable_row(task_id: str, what: str, at: datetime | None = None) -> Row:
    """Return the row of a record that can't be read."""
    return Row(
        task_id=task_id,
        name="",
        state=State.UNREADABLE,
        finished=at,
        error=f"{what} can't be read: it is damaged, or of a newer version",
    )


def _running_row(task_id: str, one: Started | None, view: WorkerView) -> Row:
    if one is None:
        return unreadable_row(task_id, f"What {view.beat.id} records of it")
    return Row(
        task_id=one.task_id,
        name=one.name,
        state=State.RUNNING if view.is_live else State.LOST,
        due=moment(one.queued),
        started=moment(one.started),
        tries=one.tries,
        worker=view.beat.id,
        queue=one.queue,
    )
