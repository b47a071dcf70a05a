"""Enqueues delayed tasks and cron runs when they are due, and finds tasks to be aborted."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from coredis.exceptions import RedisError
from streaq import StreaqError

from vibetuner.errors import first_line
from vibetuner.redis.connection import server_ms
from vibetuner.tasks.client.queue import QueueClient, pickle_call
from vibetuner.tasks.engine import cron_id
from vibetuner.tasks.payload import Kind
from vibetuner.tasks.run.outage import Outage

logger = logging.getLogger(__name__)

# A client of streaq's own publishes nothing about a delayed task; a worker notices it this late.
LONGEST_SLEEP_SECONDS = 0.5
# An event loop sleeps in whole milliseconds, rounded up; in the last one, yield until it is over.
TICK_SECONDS = 0.001
SWEEP_SECONDS = 0.5
# A clock that NTP corrects steps back by less; a run would take place twice if that counted.
SET_BACK_MS = 60_000


class DelayedQueue:
    """Sleeps until the next delayed task is due, or until an earlier one is delayed."""

    def __init__(self, client: QueueClient, priorities: Sequence[str], outage: Outage) -> None:
        self._client = client
        self._priorities = list(priorities)
        self._outage = outage
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Enqueue tasks that are due, until cancelled."""
        while True:
            self._woken.clear()
            try:
                soonest = await self.queue_due()
            except (RedisError, OSError) as error:
                await self._outage.wait(error, self)
            else:
                self._outage.over(self)
                await self._sleep(math.inf if soonest is None else soonest / 1000)

    async def listen(self) -> None:
        """Wake up when a task is delayed, until cancelled."""
        while True:
            try:
                await self._client.listener.each(self._client.keys.wakeups, self._heard)
            except (RedisError, OSError) as error:
                await self._outage.wait(error, self._woken)

    def _heard(self) -> None:
        self._outage.over(self._woken)
        self._woken.set()

    async def queue_due(self) -> float | None:
        """Queue tasks that are due by the server's clock; return the ms until the next one is."""
        client = self._client
        soonest = await client.functions.call("due", (client.keys.queue,), self._priorities)
        return None if soonest is None else float(soonest)

    async def _sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        moment = loop.time() + seconds
        pause = min(LONGEST_SLEEP_SECONDS, max(0.0, seconds - TICK_SECONDS))
        timer = loop.call_later(pause, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()
        while 0 < moment - loop.time() <= TICK_SECONDS:  # noqa: ASYNC110 - no event is so exact
            await asyncio.sleep(0)


class Cron:
    """Schedules the next run of each cron task that is due.

    Args:
        next_run: returns when a crontab line is next due, in milliseconds; it is called with the
            line and with the milliseconds that the server's clock is ahead of this machine's.
        queues: schedule only into these, so that runs don't pile up where nobody reads; None for
            all.
    """

    def __init__(
        self,
        client: QueueClient,
        *,
        queue_of: Callable[[str], str],
        next_run: Callable[..., int],
        queues: Collection[str] | None = None,
    ) -> None:
        self._client = client
        self._functions = client.functions
        self._keys = client.keys
        self._codec = client.codec
        self._queue_of = queue_of
        self._next_run = next_run
        self._queues = queues
        self._latest = 0  # ms, by the server's clock
        self._unreadable: set[bytes] = set()  # names; each is logged once

    async def schedule_due(self) -> None:
        """Schedule the cron runs that are due now, or all if the server's clock was set back."""
        connection, keys = self._functions.connection, self._keys
        now = server_ms(await connection.call("TIME"))
        if self._latest - now > SET_BACK_MS:
            await self._follow_clock(now)
        self._latest = now
        due = await connection.call("ZRANGE", keys.cron_schedule, "-inf", now, "BYSCORE")
        if not due:
            return
        tabs, queues = await asyncio.gather(
            connection.call("HMGET", keys.cron_tabs, *due),
            connection.call("HMGET", keys.cron_queues, *due),
        )
        for name, tab, noted in zip(due, tabs, queues, strict=True):
            if tab is None:
                continue
            try:
                queue = (noted or b"").decode() or self._queue_of(name.decode())
                if self._has_reader(queue):
                    await self.schedule(name.decode(), tab.decode(), queue)
            except (RedisError, OSError):
                raise
            except Exception as error:  # noqa: BLE001 - the line, or its name, may be anything
                if name not in self._unreadable:
                    self._unreadable.add(name)
                    reason = f"{type(error).__name__}: {first_line(error)}"
                    logger.warning("ignored a schedule that can't be read: %r (%s)", name, reason)

    async def _follow_clock(self, now: int) -> None:
        """Make every schedule due, since it would wait until the clock is where it was before."""
        connection, key = self._functions.connection, self._keys.cron_schedule
        seconds = (self._latest - now) / 1000
        logger.warning("the clock of Redis was set back by %.0f s; schedules follow it", seconds)
        names = await connection.call("ZRANGE", key, 0, -1)
        if names:
            dues = [word for name in names for word in (now, name)]
            await connection.call("ZADD", key, "XX", "LT", *dues)

    async def declare(self, task: Any) -> None:
        """Store a cron task and its next run; if others read its queue, only if it has none."""
        name, queue = task.fn_name, self._queue_of(task.fn_name)
        due = await self._functions.connection.call("ZSCORE", self._keys.cron_schedule, name)
        if due is not None and not self._has_reader(queue):
            return
        body = pickle_call(task.enqueue(), time.time_ns() // 1_000_000)
        await self._client.store_schedule(name, task.crontab, body, queue, next_run=self._next_run)

    def _has_reader(self, queue: str) -> bool:
        return self._queues is None or queue in self._queues

    async def schedule(self, name: str, tab: str, queue: str) -> None:
        """Schedule the next run of a cron task, unless another worker has done so."""
        connection = self._functions.connection
        stored, now = await asyncio.gather(
            connection.call("GET", self._keys.cron_data(name)), connection.call("TIME")
        )
        moment = self._next_run(tab, server_ms(now) - time.time_ns() // 1_000_000)
        run_id, payload = cron_id(name, moment), b""
        if stored is not None:
            with suppress(StreaqError):  # a run without a payload becomes a dead letter
                body = self._codec.open(stored, Kind.SCHEDULE, name)
                payload = self._codec.seal(body, Kind.CALL, run_id)
        values: list[Any] = [name, run_id, moment, queue, payload]
        await self._functions.call("cron", (self._keys.queue,), values)


async def sweep(
    client: QueueClient, cron: Cron, *, abort: Callable[[set[str]], None], outage: Outage
) -> None:
    """Twice a second, report the tasks to be aborted, and schedule cron tasks."""
    while True:
        started = time.monotonic()
        try:
            members = await client.functions.connection.call("SMEMBERS", client.keys.aborted)
            if members:
                abort({member.decode("utf-8", "replace") for member in members})
            await cron.schedule_due()
            outage.over(cron)
        except (RedisError, OSError) as error:
            await outage.wait(error, cron)
        await asyncio.sleep(max(0, SWEEP_SECONDS - (time.monotonic() - started)))
