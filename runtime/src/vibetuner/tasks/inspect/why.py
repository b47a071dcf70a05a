"""Reasons why a task isn't running, each with the command that cures it; lines that are stuck."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from coredis.exceptions import RedisError, ResponseError

from vibetuner.config import get_settings
from vibetuner.errors import TaskError, counted, first_line
from vibetuner.project import worker_command
from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import Keys
from vibetuner.tasks.inspect.detail import Facts, find_row, find_task, gather
from vibetuner.tasks.inspect.model import ENDED, Reason, Row, State, WorkerView
from vibetuner.tasks.inspect.queue import Queue
from vibetuner.tasks.inspect.stats import read_outbox
from vibetuner.tasks.letters.stream import Client
from vibetuner.tasks.payload import OTHER_KEY, OTHER_KEY_CURE
from vibetuner.tasks.queues import start_reader
from vibetuner.tasks.retry import unique_of
from vibetuner.timing import duration, now_ms

# A task may wait for thousands of others.
MOST_PARENTS = 10

# The number of tasks in line that are checked, oldest first.
LOOKED_AT = 100


async def explain(queue: Queue, task_id: str) -> tuple[Row, list[Reason]]:
    """Return a task's row and the reasons why it isn't running, the most likely one first.

    Raises TaskNotFound if there is no such task.
    """
    facts = await gather(queue, task_id)
    row = await find_row(queue, task_id, facts)
    if row is not None and facts.waiting:
        return row, [await _in_outbox()]
    if row is None:
        row = (await find_task(queue, task_id)).row
    workers = await queue.workers()
    return row, [reason async for reason in _reasons(queue, row, facts, workers)]


async def find_stuck_lines(redis: Client, keys: Keys) -> list[Reason]:
    """Return the lines behind tasks that no worker can reach, among those of the oldest in line.

    Each comes with the command that lets the next task in line run.
    """
    ids = [str(one) for one in await redis.zrange(keys.in_line, 0, LOOKED_AT - 1)]
    found = await redis.hmget(keys.unique, ids) if ids else ()
    lines = []
    for group in dict.fromkeys(filter(None, map(_group_of, found))):
        if stuck := await find_stuck_line(redis, keys, group):
            holder, waiting = stuck
            tasks = "1 task waits" if waiting == 1 else f"{waiting} tasks wait"
            text = f"{tasks} in the line {group} behind {holder}, which is in no queue any more"
            lines.append(Reason(text, f"vibetuner tasks abort {holder}"))
    return lines


async def find_stuck_line(redis: Client, keys: Keys, group: str) -> tuple[str, int] | None:
    """Return who holds up a group that is stuck, or would be with a line, and how many wait."""
    with suppress(ResponseError):  # a record that can't be read
        if found := await Scripts(redis).call("stuck_line", (keys.queue,), [group]):
            return str(found[0]), int(found[1])
    return None


async def _reasons(
    queue: Queue, row: Row, facts: Facts, workers: list[WorkerView]
) -> AsyncIterator[Reason]:
    if row.state in ENDED:
        yield _ended(row)
        return
    if row.state is State.RUNNING:
        yield _running(row, workers)
        return
    if refusal := await _refused_write(queue):
        yield refusal
    if facts.has_payload and not facts.data:
        yield Reason(
            "What was enqueued can't be read: it was signed with another SECRET_KEY, or is damaged",
            OTHER_KEY_CURE,
        )
    if facts.blamed:
        yield Reason(
            f"It was to follow {facts.blamed}, and so fails: the next worker that takes it ends it"
        )
    elif facts.in_abort_set:
        yield Reason("Somebody has asked to abort it: the next worker that takes it ends it")
    live = [view for view in workers if view.is_live]
    if not live:
        yield _no_worker(queue, workers)
    elif row.name and not any(row.name in view.beat.tasks for view in live):
        yield Reason(
            f"No live worker knows the task {row.name}: it would fail as soon as it is taken",
            f"list {row.name} in tasks=[...] of tune.py, and restart the worker",
        )
    if live and (unread := await _unread(queue, row, live)):
        yield unread
        return
    async for reason in _by_state(queue, row, facts, live):
        yield reason


async def _by_state(
    queue: Queue, row: Row, facts: Facts, live: list[WorkerView]
) -> AsyncIterator[Reason]:
    if row.state is State.WAITING:
        async for reason in _parents(queue, row, facts):
            yield reason
    elif row.state is State.SCHEDULED:
        yield _scheduled(row, facts)
    elif row.state is State.LOST:
        yield Reason(
            f"Its worker {row.worker} sends no heartbeat; another worker takes it over once "
            "WORKER_IDLE_TIMEOUT has passed"
        )
    else:
        if holder := await _lock_holder(queue, row, facts):
            yield holder
        if live:
            yield await _in_line(queue, live)


async def _in_outbox() -> Reason:
    outbox = await read_outbox()
    if outbox is not None and outbox.is_stuck:
        return Reason(f"It is one of {outbox.text}", outbox.cure)
    return Reason("It waits in the outbox: a worker hands it on within five seconds")


def _ended(row: Row) -> Reason:
    when = f" at {row.finished:%Y-%m-%d %H:%M:%S} UTC" if row.finished else ""
    if row.state is State.FAILED:
        return Reason(
            f"It has failed{when}: {row.error or 'see its traceback'}",
            OTHER_KEY_CURE if OTHER_KEY in row.error else f"vibetuner tasks show {row.task_id}",
        )
    return Reason(f"It is {row.state}{when}")


def _running(row: Row, workers: list[WorkerView]) -> Reason:
    beat = next((view.beat for view in workers if view.beat.id == row.worker), None)
    where = f"{row.worker} ({beat.host}, pid {beat.pid})" if beat else row.worker
    since = f", for {duration(now_ms() - row.started.timestamp() * 1000)}" if row.started else ""
    return Reason(f"It runs on worker {where}{since}", f"vibetuner tasks abort {row.task_id}")


def _no_worker(queue: Queue, workers: list[WorkerView]) -> Reason:
    name = queue.worker.queue_name
    if workers:
        silent = max(view.silent for view in workers)
        return Reason(
            f"No live worker on the queue {name}: the last one has been silent for {silent:.0f} s, "
            "frozen, blocked by a task, or cut off from Redis",
            "look at its log, and restart it",
        )
    return Reason(f"No worker is running on the queue {name}", _start())


async def _parents(queue: Queue, row: Row, facts: Facts) -> AsyncIterator[Reason]:
    if len(facts.parents) > MOST_PARENTS:
        yield Reason(f"It waits for {len(facts.parents):,} tasks; the first of them:")
    for parent in facts.parents[:MOST_PARENTS]:
        found = await find_row(queue, parent, await gather(queue, parent))
        if found is not None and found.state not in ENDED:
            yield Reason(
                f"It waits for {found.name or 'a task'} {parent}", f"vibetuner tasks why {parent}"
            )
        else:
            yield Reason(
                f"It waits for {parent}, which is gone and will never end",
                f"vibetuner tasks abort {row.task_id}   (and enqueue it again)",
            )


def _scheduled(row: Row, facts: Facts) -> Reason:
    due = f"{row.due:%Y-%m-%d %H:%M:%S} UTC" if row.due else "an unknown time"
    again = f" (try {facts.tries + 1}, after: {row.error})" if facts.failed_tries else ""
    if row.due and row.due.timestamp() * 1000 < now_ms():
        return Reason(f"It was due at {due}{again}; a live worker puts it into the queue")
    return Reason(f"It is scheduled for {due}{again}")


async def _lock_holder(queue: Queue, row: Row, facts: Facts) -> Reason | None:
    task = queue.worker.registry.get(row.name)
    if task is None or not task.unique:
        return None
    group, keys = row.name, queue.engine_keys
    if (unique := unique_of(task)) is not None:
        try:
            group = unique.group(task.fn, group, facts.data["a"], facts.data["k"])
        except (TaskError, LookupError):  # arguments that can't be read, or no longer fit
            return None
    if unique is None or not unique.has_line:
        holder = str(await queue.redis.get(keys.lock(group)) or row.task_id)
        text = f"{row.name} is unique, and {holder} holds its lock: this one would fail at once"
        return None if holder == row.task_id else Reason(text, f"vibetuner tasks show {holder}")
    if stuck := await find_stuck_line(queue.redis, keys, group):
        holder, _ = stuck
        who = "it" if holder == row.task_id else holder
        return Reason(
            f"{row.name} is unique, and {who} comes first and is in no queue any more: "
            "somebody has deleted its message",
            f"vibetuner tasks abort {holder}   (the next one in line is queued)",
        )
    holder = str(await queue.redis.hget(keys.holder(group), "holder") or row.task_id)
    text = f"{row.name} is unique, and {holder} comes first: this one waits in line for its end"
    return None if holder == row.task_id else Reason(text, f"vibetuner tasks why {holder}")


async def _in_line(queue: Queue, live: list[WorkerView]) -> Reason:
    counts = await queue.counts()
    room = sum(view.beat.concurrency for view in live)
    if all(view.beat.running >= view.beat.concurrency for view in live):
        return Reason(
            f"All {room} slots of {counted(len(live), 'live worker')} are in use; "
            f"{counts.queued} wait",
            "raise WORKER_CONCURRENCY, or start another worker:  " + _start(),
        )
    return Reason(f"It waits for its turn: {counts.queued} in the queue, {room} slots")


async def _refused_write(queue: Queue) -> Reason | None:
    try:
        await queue.redis.set(queue.keys.probe, "1", px=1000)
    except RedisError as error:
        return Reason(
            f"Redis refuses to write: {first_line(error)}",
            "vibetuner doctor   (memory, disk and role of Redis)",
        )
    return None


async def _unread(queue: Queue, row: Row, live: list[WorkerView]) -> Reason | None:
    """Return the reason if the task's queue is read by no live worker."""
    if row.state is State.WAITING or all(
        name in view.beat.queues for name in await queue.queues() for view in live
    ):
        return None
    name = row.queue or await queue.queue_of(row.task_id)
    if not name or any(name in view.beat.queues for view in live):
        return None
    return Reason(
        f"It is in the queue {name}, which no live worker reads",
        start_reader(name, queue.worker.known_queues, _start()),
    )


def _start() -> str:
    return worker_command(get_settings().environment)


def _group_of(stored: Any) -> str:
    """Return the group of a unique task; empty if it can't be read."""
    try:
        group, _, _ = json.loads(stored or "")
    except (TypeError, ValueError):
        return ""
    return str(group)
