"""Lists of tasks, page by page; no page reads more than a few thousand entries."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from vibetuner.errors import CommandError
from vibetuner.stored import read_or_none
from vibetuner.tasks.inspect.model import ENDED, Filters, Page, Row, State, moment
from vibetuner.tasks.inspect.queue import Queue, unreadable_row
from vibetuner.tasks.journal import Ended
from vibetuner.tasks.letters.plain import plain_text

CHUNK = 500
# A page that has read this many is returned even if it is not full.
MOST_LOOKED_AT = 5000
# A number, for sections of several keys that of the key, then an entry or a rank in it.
PLACE = re.compile(r"(\d{1,9}(:\d{1,20}(-\d{1,20})?)?)?", re.ASCII)

Found = tuple[list[Row], str | None]
# Rows, each with its position; None for those that another section lists.
Portion = list[tuple[str, Row | None]]
Section = Callable[[Queue, Filters, int, str], Awaitable[Found]]


async def list_tasks(
    queue: Queue, filters: Filters, *, limit: int = 50, after: str | None = None
) -> Page:
    """Return matching tasks: running, queued, scheduled, then ended ones, newest first.

    ``after`` is the ``next`` of the page before. A page with fewer tasks than ``limit`` may still
    have a next page.

    Raises CommandError if ``after`` is not the ``next`` of a page.
    """
    sections = [name for name, (states, _) in SECTIONS.items() if any(map(filters.wants, states))]
    first, place = _begin(after, sections)
    rows: list[Row] = []
    for name in sections[sections.index(first) :] if sections else []:
        _, list_section = SECTIONS[name]
        found, following = await list_section(queue, filters, limit - len(rows), place)
        rows += found
        if following is not None:
            return Page(rows, f"{name}!{following}")
        place = ""
        if len(rows) >= limit and name != sections[-1]:
            return Page(rows, f"{sections[sections.index(name) + 1]}!")
    return Page(rows)


def _begin(after: str | None, sections: list[str]) -> tuple[str, str]:
    if after is None:
        return (sections[0] if sections else "", "")
    name, mark, place = after.partition("!")
    if not mark or name not in sections or not PLACE.fullmatch(place):
        raise CommandError(f"after= takes the `next` of an earlier page, not {after!r}")
    return name, place


async def _list_running(queue: Queue, filters: Filters, limit: int, after: str) -> Found:
    rows = [
        row
        for row in await queue.running()
        if filters.wants(row.state) and filters.match(row.name, row.at)
    ]
    first = int(after or 0)
    more = len(rows) > first + limit
    return rows[first : first + limit], str(first + limit) if more else None


async def _list_queued(queue: Queue, filters: Filters, limit: int, after: str) -> Found:
    """List queued tasks, the oldest first."""
    held = {row.task_id for row in await queue.running()}
    names = await queue.queues()

    async def read(name: str, place: str) -> Portion:
        start, stream = f"({place}" if place else "-", queue.engine_keys.stream(name)
        entries = await queue.redis.xrange(stream, start=start, count=CHUNK)
        places = [str(entry.identifier) for entry in entries]
        waiting = [
            (str(entry.field_values.get("task_id", "")), entry.field_values.get("enqueue_time"))
            for entry in entries
        ]
        rows = await _waiting_rows(queue, State.QUEUED, waiting, name)
        return [
            (at, None if row.task_id in held else row) for at, row in zip(places, rows, strict=True)
        ]

    return await _list_portions(names, read, filters, limit, after)


async def _list_in_line(queue: Queue, filters: Filters, limit: int, after: str) -> Found:
    """List unique tasks that wait in line, the oldest first."""
    lines = {queue.engine_keys.in_line: ""}
    return await _list_sorted(queue, lines, State.QUEUED, filters, limit, after)


async def _list_scheduled(queue: Queue, filters: Filters, limit: int, after: str) -> Found:
    """List scheduled tasks, the next one first."""
    keys = {queue.engine_keys.delayed(name): name for name in await queue.queues()}
    return await _list_sorted(queue, keys, State.SCHEDULED, filters, limit, after)


async def _list_sorted(  # noqa: PLR0913, PLR0917 - a section's parameters, and its keys
    queue: Queue, queues: Mapping[str, str], state: State, filters: Filters, limit: int, after: str
) -> Found:
    async def read(key: str, place: str) -> Portion:
        first = int(place or 0)
        members = await queue.redis.zrange(key, first, first + CHUNK - 1, withscores=True)
        waiting = [(str(member), score) for member, score in members]
        rows = await _waiting_rows(queue, state, waiting, queues[key])
        return [(str(rank), row) for rank, row in enumerate(rows, start=first + 1)]

    return await _list_portions(list(queues), read, filters, limit, after)


async def _waiting_rows(
    queue: Queue, state: State, waiting: Sequence[tuple[str, object]], name: str
) -> list[Row]:
    """Return the rows of tasks in one queue, each given by its id and the time when it is due."""
    payloads = await queue.payloads([task_id for task_id, _ in waiting])
    return [
        Row(
            task_id=task_id,
            name=plain_text(data.get("f", "")),
            state=state,
            created=moment(data.get("t")),
            due=moment(due),
            queue=name,
        )
        for (task_id, due), data in zip(waiting, payloads, strict=True)
    ]


async def _list_portions(
    keys: Sequence[str],
    read: Callable[[str, str], Awaitable[Portion]],
    filters: Filters,
    limit: int,
    after: str,
) -> Found:
    """List the matching rows of one key after another; ``read`` gets a key, and where to go on."""
    rows: list[Row] = []
    number, _, place = after.partition(":")
    looked = 0
    for index in range(int(number or 0), len(keys)):
        while found := await read(keys[index], place):
            for place, row in found:
                if row and filters.match(row.name, row.at):
                    rows.append(row)
                if len(rows) >= limit:
                    return rows, f"{index}:{place}"
            looked += len(found)
            if looked >= MOST_LOOKED_AT:
                return rows, f"{index}:{place}"
        place = ""
    return rows, None


async def _list_ended(queue: Queue, filters: Filters, limit: int, after: str) -> Found:
    """List ended tasks, the newest first."""
    since, until = _edge(filters.since, "-"), _edge(filters.until, "+")

    async def read(stream: str, place: str) -> Portion:
        entries = await queue.redis.xrevrange(
            stream, end=f"({place}" if place else until, start=since, count=min(CHUNK, 4 * limit)
        )
        rows = await _read_ended(queue, stream, entries, filters) if entries else []
        return [(at, row if row and filters.wants(row.state) else None) for at, row in rows]

    return await _list_portions([_narrowest(queue, filters)], read, filters, limit, after)


def _narrowest(queue: Queue, filters: Filters) -> str:
    """Return the shortest stream that holds all matching tasks."""
    if filters.states and State.DONE not in filters.states:
        return queue.keys.failed
    return queue.keys.of(filters.name) if filters.name else queue.keys.ended


async def _read_ended(queue: Queue, stream: str, entries: Any, filters: Filters) -> Portion:
    """Return the rows of entries; None for those that are trimmed away or filtered out."""
    ids = [str(entry.identifier) for entry in entries]
    if stream == queue.keys.ended:
        return [
            (i, stored_row(i, entry.field_values)) for i, entry in zip(ids, entries, strict=True)
        ]
    meant = {
        entry_id
        for entry_id, entry in zip(ids, entries, strict=True)
        if _is_meant(entry.field_values, filters)
    }
    async with queue.redis.pipeline(transaction=False) as pipe:
        asked = {one: pipe.xrange(queue.keys.ended, one, one) for one in meant}
    found = {one: await entry for one, entry in asked.items()}
    return [
        (one, stored_row(one, found[one][0].field_values) if found.get(one) else None)
        for one in ids
    ]


def _is_meant(fields: Mapping[str, Any], filters: Filters) -> bool:
    outcome = str(fields.get("s"))
    wanted = outcome not in ENDED or filters.wants(State(outcome))
    return wanted and filters.name in {None, fields.get("n", filters.name)}


def stored_row(entry_id: str, fields: Mapping[Any, Any]) -> Row:
    """Return an ended task, from its entry of the journal."""
    ended = read_or_none(Ended, fields.get("d"))
    if ended is not None:
        return ended_row(ended)
    return unreadable_row(
        "", f"Entry {entry_id} of the journal", moment(entry_id.split("-", maxsplit=1)[0])
    )


def ended_row(ended: Ended) -> Row:
    """Return the row of an ended task."""
    return Row(
        task_id=ended.task_id,
        name=ended.name,
        state=State(ended.outcome.value),
        created=moment(ended.created),
        due=moment(ended.queued),
        started=moment(ended.started),
        finished=moment(ended.finished),
        tries=ended.tries,
        worker=ended.worker,
        error=ended.error,
    )


def _edge(at: datetime | None, otherwise: str) -> str:
    return otherwise if at is None else str(int(at.timestamp() * 1000))


SECTIONS: dict[str, tuple[tuple[State, ...], Section]] = {
    "running": ((State.RUNNING, State.LOST), _list_running),
    "queued": ((State.QUEUED,), _list_queued),
    "line": ((State.QUEUED,), _list_in_line),
    "scheduled": ((State.SCHEDULED,), _list_scheduled),
    "ended": ((*sorted(ENDED), State.UNREADABLE), _list_ended),
}
