"""Writes calls into the outbox, and hands them on to the queue: at once, or by a relay.

A row is deleted once it is handed on. If deleting fails, the row is handed on again; the server
remembers for 30 days which rows it received, far longer than a process can hold a deleted row.
A row whose id another task has is dropped with a warning.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from coredis.exceptions import RedisError
from streaq.task import Task
from streaq.utils import to_ms

from vibetuner.errors import TaskExists, first_line
from vibetuner.redis.connection import look_at
from vibetuner.redis.keys import Keys
from vibetuner.tasks.call import MADE_ID, ReliableCall, clash, fingerprint
from vibetuner.tasks.client.queue import TAKEN, QueueClient, exists_error, gone_in
from vibetuner.tasks.outbox.row import ANSWER_SECONDS, DURABLE, Row, Store, open_stores, store_for

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 200
POLL_SECONDS = 2.0
# A database that has vanished from the network is noticed only after a quarter of an hour.
RELAY_SECONDS = 15.0
LOOKUP_SECONDS = 1.0
CLOSING_SECONDS = 2.0
# The server remembers for this long that it has received a row; once the row is deleted, FORGET_MS.
NOTE_MS = 30 * 24 * 3_600_000
FORGET_MS = 3_600_000
# A process hands on a row within this time of reading it, or never.
STALE_SECONDS = 600


class Worker(Protocol):
    """The part of the process's worker that its courier and its enqueuer use."""

    on_enqueue: Callable[[Task[Any, Any]], None] | None
    after_enqueue: Callable[[], Awaitable[None]] | None

    @property
    def priorities(self) -> Sequence[str]:
        """The project's queues, highest first."""

    @property
    def client(self) -> QueueClient:
        """The client of the open queue."""

    @property
    def is_connected(self) -> bool:
        """Return whether the queue is open here."""

    def signing_client(self) -> QueueClient:
        """Return the open queue, or else one that signs calls and can't send them."""


class Courier:
    """A process's connection from the outbox to the queue."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # Durable calls, which may wait for a replica, are handed on apart and hold up no others.
        self._due: dict[tuple[Store, bool], list[str]] = {}
        self._handing: dict[bool, asyncio.Task[None]] = {}
        self._failing: dict[tuple[Store, bool], str] = {}

    async def write(
        self, calls: Sequence[ReliableCall[Any, Any]], client: QueueClient, now: int
    ) -> None:
        """Write calls in their session's transaction; they are enqueued after the commit.

        The first call waits for the others. If another task has its key, it gets that task's id,
        and nothing is written. Its row is handed on first, so that it waits before the others can
        end.

        Raises:
            NotConfigured: the database is not configured, or tune.py does not list the table.
            TaskError: the session is of another kind or has no transaction, or the key belongs to
                another call.
            TaskExists: the outbox already holds the first call, and that has no key; or another
                task has its id, which is the project's own. If Redis does not answer, or another
                process takes the id meanwhile, the call is dropped after the commit.
        """
        store = store_for(calls[0].session)
        first = datetime.now(UTC)
        rows = [  # in the order in which they are handed on; MongoDB keeps milliseconds
            _row(call, client, now, first + timedelta(milliseconds=min(place, 1)))
            for place, call in enumerate(calls)
        ]
        for call, row in zip(calls, rows, strict=True):
            known = await store.add(row, call.session)
            if known is None and row.key and (known := await self._ask_server(row)):
                await store.remove(row.task_id, call.session)
            if known is None and call is calls[0] and (taken := await self._ask_for_id(call)):
                await store.remove(row.task_id, call.session)
                raise taken
            if known is None:
                store.on_commit(call.session, partial(self._committed, store, call))
            elif call is calls[0]:
                call.id = _known_id(call, row, *known)
                return

    async def hand_on(
        self, store: Store, task_ids: Sequence[str] | None = None, *, durable: bool | None = None
    ) -> int:
        """Enqueue committed rows, of these tasks or the oldest, and delete them.

        Returns their number. ``durable`` selects the rows of durable calls, or all others.

        Raises:
            VibetunerError, RedisError: the queue is not open, does not answer, or does not confirm
            a durable call.
        """
        client = self._worker.client
        read_at = time.monotonic()
        rows = await store.read(task_ids, ROWS_AT_ONCE, durable=durable)
        if not rows or time.monotonic() - read_at > STALE_SECONDS:
            return 0
        beside = _marks(rows)
        answers = await asyncio.gather(
            *(self._send(client, row, beside) for row in rows), return_exceptions=True
        )
        sent = [
            row.task_id
            for row, answer in zip(rows, answers, strict=True)
            if not isinstance(answer, BaseException)
        ]
        if sent:
            await store.delete(sent)
        for task_id in sent:
            note = client.keys.handed(task_id)
            client.functions.connection.call("PEXPIRE", note, FORGET_MS).add_done_callback(look_at)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return len(rows)

    async def fetch(self, task_id: str) -> None:
        """Hand on a task if it waits in the outbox, and its database answers."""
        with suppress(Exception):
            async with asyncio.timeout(ANSWER_SECONDS):
                for store in open_stores():
                    await self.hand_on(store, [task_id])

    async def hand_on_all(self) -> None:
        """Enqueue every committed row, for tests; raises the errors of :meth:`hand_on`."""
        for store in open_stores():
            while await self.hand_on(store):
                pass

    @asynccontextmanager
    async def relaying(self) -> AsyncIterator[None]:
        """Hand on, every two seconds, rows that the processes which wrote them did not hand on."""
        stores = open_stores()
        relays = [
            asyncio.create_task(self._relay(store, durable))
            for store in stores
            for durable in (False, True)
        ]
        try:
            yield
        finally:
            for relay in relays:
                relay.cancel()
            await asyncio.gather(*relays, return_exceptions=True)

    async def close(self) -> None:
        """Finish handing on committed rows, for at most two seconds; a relay hands on the rest."""
        if handing := [one for one in self._handing.values() if not one.done()]:
            _, late = await asyncio.wait(handing, timeout=CLOSING_SECONDS)
            for one in late:
                one.cancel()
            if late:  # each closes its connection to the database
                await asyncio.wait(late, timeout=CLOSING_SECONDS)

    async def _ask_server(self, row: Row) -> tuple[str, str] | None:
        """Return the task that has the row's key, and its call; None if Redis finds none."""
        [found] = await self._look("GET", lambda keys: [keys.once(str(row.key))]) or [None]
        if found is None:
            return None
        task_id, mark, call = found.decode().partition(' ["')
        return task_id, mark[1:] + call

    async def _ask_for_id(self, call: ReliableCall[Any, Any]) -> TaskExists | None:
        """Return the error for a call whose own id is taken; None if Redis has nothing of it."""
        if MADE_ID.fullmatch(call.id):
            return None
        found = await self._look("EXISTS", lambda keys: [keys.result(call.id), keys.data(call.id)])
        return exists_error(call, -1 if found[0] else 0) if found and any(found) else None

    async def _look(self, command: str, named: Callable[[Keys], list[str]]) -> list[Any] | None:
        """Return the server's answers about keys; None if it does not answer soon."""
        if not self._worker.is_connected:
            return None
        client = self._worker.client
        call = client.functions.connection.call
        with suppress(RedisError, TimeoutError):
            async with asyncio.timeout(LOOKUP_SECONDS):
                return await asyncio.gather(*(call(command, key) for key in named(client.keys)))
        return None

    def _committed(self, store: Store, call: ReliableCall[Any, Any]) -> None:
        """Hand on a call in the background."""
        if self._worker.on_enqueue is not None:
            self._worker.on_enqueue(call)
        if not self._worker.is_connected:
            return
        durable = bool(call.durable)
        self._due.setdefault((store, durable), []).append(call.id)
        if durable not in self._handing or self._handing[durable].done():
            handing = asyncio.get_running_loop().create_task(self._hand_on_due(durable))
            self._handing[durable] = handing

    async def _hand_on_due(self, durable: bool) -> None:
        while due := [one for one in self._due if one[1] is durable]:
            (store, _), task_ids = due[0], self._due.pop(due[0])
            for at in range(0, len(task_ids), ROWS_AT_ONCE):
                part = task_ids[at : at + ROWS_AT_ONCE]
                try:
                    await self.hand_on(store, part)
                except Exception as error:  # noqa: BLE001 - whatever it is, the rows are kept
                    logger.debug("left in the outbox: %s", first_line(error))

    async def _send(self, client: QueueClient, row: Row, beside: dict[str, str]) -> None:
        """Enqueue a row's task, unless that was done before, or another task has its key.

        The task waits for those of ``beside``, which are handed on with it. If the server had to
        ask for one of them, that might end meanwhile.
        """
        options = json.loads(row.options)
        # The mark comes last, after the dependencies and their number.
        is_durable = len(options) > 4 and options[4 + options[3] :] == [DURABLE]
        followed = {str(one).removeprefix("~") for one in options[4:]}
        in_outbox = {one: mark for one, mark in beside.items() if one in followed}
        sought, blamed = set[str](), ""
        values = [
            row.key or "", row.keep, row.call or "", row.task_id, row.payload,
            *(options[:-1] if is_durable else options),
        ]  # fmt: skip

        def hand_on(own: QueueClient) -> Awaitable[Any]:
            head = [_mark(row), NOTE_MS, json.dumps(in_outbox), blamed]
            return own.functions.call("hand_on", (own.keys.queue,), [*head, *values])

        while True:
            if is_durable:
                answer = await client.durable.keep(hand_on, f"{row.name} {row.task_id}")
            else:
                answer = await hand_on(client)
            if not (gone := gone_in(answer)):
                break
            if gone in sought:  # not handed on between the two questions, either
                blamed = gone
            sought.add(gone)
            in_outbox |= await _held_by_outbox(followed)
        if answer and answer[0] in TAKEN:
            logger.warning("%s %s was not enqueued: its id is taken", row.name, row.task_id)
        elif len(answer) > 1 and answer[0].decode() != row.task_id:
            same = answer[1].decode() == row.call
            logger.log(
                logging.DEBUG if same else logging.WARNING,
                "%s %s was not enqueued: its key %r belongs to %s%s",
                row.name, row.task_id, row.key, answer[0].decode(),
                "" if same else ", a task with other arguments",
            )  # fmt: skip

    async def _relay(self, store: Store, durable: bool) -> None:
        relay = store, durable
        while True:
            try:
                async with asyncio.timeout(RELAY_SECONDS):
                    more = await self.hand_on(store, durable=durable) == ROWS_AT_ONCE
            except Exception as error:  # noqa: BLE001 - whatever breaks it, the rows are kept
                reason, more = first_line(error), False
                if relay not in self._failing and reason not in self._failing.values():
                    logger.warning("tasks wait in the outbox: %s. See:  vibetuner doctor", reason)
                self._failing.setdefault(relay, reason)
            else:
                if self._failing.pop(relay, None) and not self._failing:
                    logger.info("tasks of the outbox are handed on again")
            if not more:
                await asyncio.sleep(POLL_SECONDS)


def _known_id(call: ReliableCall[Any, Any], row: Row, task_id: str, known: str | None) -> str:
    """Return the id of the task that a call stands for, which the outbox or the server knows."""
    if row.key is None or known is None:
        raise TaskExists(
            f"{row.name} {task_id} is in the outbox already, so nothing was written. Call "
            "enqueue() again for another task"
        )
    if known != row.call:
        raise clash(row.key, call, task_id, known)
    return task_id


def _mark(row: Row) -> str:
    """Return what tells a row from an earlier one whose task had the same id."""
    return row.created_at.isoformat()


def _marks(rows: Iterable[Row]) -> dict[str, str]:
    return {row.task_id: _mark(row) for row in rows}


async def _held_by_outbox(task_ids: set[str]) -> dict[str, str]:
    """Return the marks of those tasks that have a row; raise, unlike find_row, at silence.

    A task would fail if the silence of a database counted as an answer.
    """
    return _marks(
        [
            row
            for store in open_stores()
            for row in await store.read(sorted(task_ids), len(task_ids), durable=None)
        ]
    )


def _row(call: ReliableCall[Any, Any], client: QueueClient, now: int, created_at: datetime) -> Row:
    values = client.values([call], now)
    if call.delay is not None:  # counts from now, however late the row is handed on
        values[2] = now + int(values[2])
    return Row(
        call.id, call.parent.fn_name, values[1],
        json.dumps([*values[2:], *([DURABLE] if call.durable else [])]), created_at,
        call.key, to_ms(call.keep), fingerprint(call) if call.key else None,
    )  # fmt: skip
