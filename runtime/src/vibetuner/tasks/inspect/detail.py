"""A task in detail: state, arguments, attempts and result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from streaq.types import StreaqCancelled

from vibetuner.errors import DeadLetterError, TaskNotFound, VibetunerError
from vibetuner.stored import read_number, read_or_none
from vibetuner.tasks.dead_letters import DeadLetter
from vibetuner.tasks.dead_letters import get as get_letter
from vibetuner.tasks.inspect.listing import ended_row
from vibetuner.tasks.inspect.model import ENDED, Row, State, TaskDetail, moment
from vibetuner.tasks.inspect.queue import Queue, unreadable_row
from vibetuner.tasks.inspect.shown import name_arguments, shown
from vibetuner.tasks.journal import Ended, FailedTry
from vibetuner.tasks.letters.plain import headline, plain_text
from vibetuner.tasks.letters.stream import StreamStore
from vibetuner.tasks.outbox.row import Row as OutboxRow
from vibetuner.tasks.outbox.row import find_row as find_in_outbox
from vibetuner.tasks.payload import Kind


@dataclass(frozen=True, slots=True)
class Facts:
    """The stored records of one task, from Redis or, until it is handed on, from the outbox."""

    data: dict[str, Any]
    result: dict[str, Any]
    ended: Ended | None
    entry_id: str
    due: float | None
    in_abort_set: bool
    blamed: str
    tries: int
    failed_tries: list[FailedTry]
    parents: list[str]
    children: list[str]
    has_payload: bool
    queue: str = ""
    waiting: OutboxRow | None = None


async def find_task(queue: Queue, task_id: str) -> TaskDetail:
    """Return everything that is known about one task.

    Raises:
        TaskNotFound: there is no record of it.
        DeadLetterError: all that is left of it is a dead letter that can't be read.
    """
    facts = await gather(queue, task_id)
    row = await find_row(queue, task_id, facts)
    may_be_dead = row is None or row.state is State.FAILED
    letter = None
    if may_be_dead:
        try:
            letter = await letter_of(queue, task_id)
        except DeadLetterError:
            if row is None:
                raise
    if row is None:
        if letter is None:
            raise TaskNotFound(
                f"There is no task {task_id}, or it ended so long ago that nothing is kept of it. "
                "See:  vibetuner tasks list"
            )
        row = _letter_row(letter)
    data = facts.data or await kept_payload(queue, facts.entry_id, task_id)
    arguments = None
    if can_call(data):
        arguments = name_arguments(_function(queue, str(data["f"])), data["a"], data["k"])
    note = _note(row, facts, data) if arguments is None else ""
    traceback = letter.traceback if letter else ""
    if not traceback:
        traceback = str((await queue.entry(queue.keys.failed, facts.entry_id)).get("t", ""))
    if arguments is None and letter is not None:
        arguments = name_arguments(_function(queue, row.name), letter.args, letter.kwargs)
    return TaskDetail(
        row=row,
        arguments=arguments,
        note=note,
        result=shown(facts.result.get("r")) if facts.result.get("s") else None,
        traceback=traceback,
        failed_tries=facts.failed_tries,
        parents=facts.parents,
        children=facts.children,
        is_dead=letter is not None and letter.is_open,
        can_repeat=can_call(data) and row.name in queue.worker.registry,
    )


async def gather(queue: Queue, task_id: str) -> Facts:
    """Read every key that holds something about this id; if none does, look in the outbox."""
    keys, ours, names = queue.engine_keys, queue.keys, await queue.queues()
    async with queue.redis.pipeline(transaction=False) as pipe:
        data = pipe.get(keys.data(task_id))
        result = pipe.get(keys.result(task_id))
        scores = [pipe.zscore(keys.delayed(name), task_id) for name in names]
        aborted = pipe.sismember(keys.aborted, task_id)
        blamed = pipe.get(keys.blamed(task_id))
        tries = pipe.get(keys.retry(task_id))
        failed = pipe.lrange(ours.tries(task_id), 0, -1)
        parents = pipe.smembers(keys.dependencies(task_id))
        children = pipe.smembers(keys.dependents(task_id))
        entry = pipe.hget(ours.ids, task_id)
    raw: Any = await data
    entry_id = str(await entry or "")
    if not re.fullmatch(r"\d{1,20}-\d{1,20}", entry_id, re.ASCII):
        entry_id = ""
    dues = {
        name: due
        for name, score in zip(names, scores, strict=True)
        if (due := await score) is not None
    }
    stored = await result
    ended = read_or_none(Ended, (await queue.entry(queue.keys.ended, entry_id)).get("d"))
    waiting = None if raw or stored or ended else await find_in_outbox(task_id)
    return Facts(
        data=queue.read(waiting.payload if waiting else raw, Kind.CALL, task_id),
        result=queue.read(stored, Kind.RESULT, task_id),
        ended=ended,
        entry_id=entry_id,
        due=next(iter(dues.values()), None),
        in_abort_set=bool(await aborted),
        blamed=str(await blamed or ""),
        tries=read_number(await tries),
        failed_tries=[one for text in await failed if (one := read_or_none(FailedTry, text))],
        parents=sorted(map(str, await parents)),
        children=sorted(str(child).removeprefix("~") for child in await children),
        has_payload=bool(raw),
        queue=next(iter(dues), ""),
        waiting=waiting,
    )


async def find_row(queue: Queue, task_id: str, facts: Facts) -> Row | None:
    """Return the row of the task; None if at most a dead letter is left of it."""
    if facts.waiting:
        found = facts.waiting
        return Row(task_id=task_id, name=found.name, state=State.WAITING, created=found.created_at)
    if facts.has_payload or not (facts.ended or facts.result):  # it may expire while the task runs
        for running in await queue.running():
            if running.task_id == task_id:
                return replace(running, created=moment(facts.data.get("t")))
    if facts.has_payload:
        state = State.WAITING if facts.parents else State.QUEUED
        return Row(
            task_id=task_id,
            name=plain_text(facts.data.get("f", "")),
            state=State.SCHEDULED if facts.due is not None else state,
            created=moment(facts.data.get("t")),
            due=moment(facts.due),
            tries=facts.tries,
            error=facts.failed_tries[-1].error if facts.failed_tries else "",
            queue=facts.queue,
        )
    if facts.ended:
        return ended_row(facts.ended)
    return _result_row(task_id, facts.result) if facts.result else None


def _result_row(task_id: str, result: dict[str, Any]) -> Row:
    """Return a task that ended without a journal entry, as in another worker of streaq's."""
    if not result.keys() >= {"f", "s", "r"}:
        return unreadable_row(task_id, "Its result")
    failed = State.ABORTED if isinstance(result["r"], StreaqCancelled) else State.FAILED
    return Row(
        task_id=task_id,
        name=plain_text(result["f"]),
        state=State.DONE if result["s"] else failed,
        created=moment(result.get("ct")),
        due=moment(result.get("et")),
        started=moment(result.get("st")),
        finished=moment(result.get("ft")),
        tries=read_number(result.get("t")),
        worker=plain_text(result.get("w", "")),
        error="" if result["s"] else f"{type(result['r']).__name__}: {shown(result['r'], 200)}",
    )


def _letter_row(letter: DeadLetter) -> Row:
    return Row(
        task_id=letter.task_id,
        name=letter.task_name,
        state=State.FAILED,
        due=letter.enqueued_at,
        finished=letter.failed_at,
        tries=letter.tries,
        worker=letter.worker_id,
        error=headline(letter.error_type, letter.error),
    )


async def letter_of(queue: Queue, task_id: str) -> DeadLetter | None:
    """Return the dead letter of a task; while MongoDB is away, from the stream.

    Raises DeadLetterError if the letter can't be read.
    """
    try:
        return await get_letter(task_id)
    except LookupError:
        return None
    except DeadLetterError:
        raise
    except VibetunerError:
        return await StreamStore(queue.redis, queue.keys.prefix).get(task_id)


async def kept_payload(queue: Queue, entry_id: str, task_id: str) -> dict[str, Any]:
    """Return the payload that the journal keeps of a task; empty if it keeps none."""
    payload = (await queue.entry(queue.keys.payloads, entry_id)).get("p")
    return queue.read(payload, Kind.CALL, task_id, is_kept=True)


def can_call(data: Mapping[str, Any]) -> bool:
    """Return whether a payload holds a task's name and all of its arguments."""
    return (
        isinstance(data.get("f"), str)
        and isinstance(data.get("a"), list | tuple)
        and isinstance(data.get("k"), dict)
        and not data.get("A")
    )


def _note(row: Row, facts: Facts, data: dict[str, Any]) -> str:
    if data.get("A"):
        return f"The arguments come from the result of {data['A']}."
    if facts.has_payload or facts.waiting:
        return "The arguments are damaged, or were signed with another SECRET_KEY."
    if row.state in ENDED:
        return "Only small arguments of the newest 10,000 ended tasks are kept."
    return "The arguments are gone."


def _function(queue: Queue, name: str) -> Any:
    task = queue.worker.registry.get(name)
    return getattr(task, "fn", None)
