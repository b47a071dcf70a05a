"""Passes events between processes, with one Redis subscription in each web process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from secrets import token_hex
from typing import Any, cast

from coredis.exceptions import ConnectionError as Disconnected

from vibetuner.logs import log_sparingly
from vibetuner.redis.client import ReliablePool, innermost
from vibetuner.redis.connection import Connection, Moving
from vibetuner.sse.event import RESET, Event, Position, is_name, parse_id
from vibetuner.sse.history import History
from vibetuner.sse.hub import Hub

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = (0.1, 0.5, 1, 2)

# A connection can break unnoticed. The relay sends itself a message this often, and reconnects if
# it has received nothing for too long.
WATCH_SECONDS = 5.0
SILENCE_SECONDS = 12.0

# A message whose id is further in the future is checked against its stream: a forged id would make
# all later events look like old ones.
FUTURE_MS = 3_600_000

MESSAGES = frozenset({b"message", b"smessage"})
# In place of a message: the connection is gone.
LOST = b"lost"


@asynccontextmanager
async def open_relay(
    history: History,
    hub: Hub,
    *,
    watch: float = WATCH_SECONDS,
    silence: float = SILENCE_SECONDS,
) -> AsyncIterator[None]:
    """Pass the events of every process to ``hub``; subscribed when the block begins.

    After an outage it fills the gap from the streams. If they don't hold all of it, the channel's
    subscribers get a ``reset``.

    Args:
        watch: the seconds between two messages to itself.
        silence: the seconds without any message after which it reconnects.
    """
    relay = _Relay(history, hub, watch=watch, silence=silence)
    listener = asyncio.create_task(relay.listen())
    try:
        await relay.tried.wait()
        yield
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await listener


class _Relay:
    def __init__(self, history: History, hub: Hub, *, watch: float, silence: float) -> None:
        self.tried = asyncio.Event()
        self._history = history
        self._hub = hub
        self._watch_seconds = watch
        self._silence_seconds = silence
        self._own = f"{history.keys.topic}:{token_hex(8)}"
        self._heard_at = 0.0
        self._lost = False
        self._failures = 0
        log_sparingly(logger, prefixes=("event relay ignored",))

    async def listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except Exception as error:  # noqa: BLE001 - whatever breaks it, the relay reconnects
                cause = innermost(error)
                if not isinstance(cause, Moving):  # else the next attempt finds the slot's new node
                    if not self._lost:
                        name = type(cause).__name__
                        logger.warning("event relay lost Redis (%s), reconnecting", name)
                    self._lost = True
            await asyncio.sleep(BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS) - 1)])
            self._failures += 1
            self.tried.set()

    async def _listen_once(self) -> None:
        """Listen until the queue's slot has moved; raise ConnectionError if the server is lost."""
        address = cast("ReliablePool", self._history.redis.connection_pool).address
        arrived: asyncio.Queue[list[Any]] = asyncio.Queue()
        async with Connection(
            address, on_push=arrived.put_nowait, on_loss=partial(arrived.put_nowait, [LOST])
        ) as connection:
            subscribe = "SSUBSCRIBE" if self._history.keys.is_sharded else "SUBSCRIBE"
            for channel in (self._history.keys.topic, self._own):
                await connection.tell(subscribe, channel)
            self._heard_at = asyncio.get_running_loop().time()
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(connection))
                for channel, cursor in self._hub.cursors().items():
                    await self._fill_gap(channel, cursor)
                self._connected()
                while (message := await arrived.get())[0] in MESSAGES:
                    self._heard_at = asyncio.get_running_loop().time()
                    await self._take(*message[1:])
                watch.cancel()
            if message[0] == LOST:
                raise Disconnected("The subscription was lost")

    def _connected(self) -> None:
        if self._lost:
            logger.info("event relay reconnected to Redis")
        self._lost, self._failures = False, 0
        self.tried.set()

    async def _watch(self, connection: Connection) -> None:
        """Raise TimeoutError if no message arrives any more, not even the relay's own."""
        loop = asyncio.get_running_loop()
        publish = "SPUBLISH" if self._history.keys.is_sharded else "PUBLISH"
        while True:
            async with asyncio.timeout(self._silence_seconds):
                await connection.call(publish, self._own, "")
            await asyncio.sleep(self._watch_seconds)
            if loop.time() - self._heard_at > self._silence_seconds:
                raise TimeoutError("no message arrived")

    async def _fill_gap(self, channel: str, cursor: str) -> None:
        """Pass on the events that a channel's stream has after ``cursor``."""
        while True:
            past = await self._history.read(channel, cursor)
            if past.missed is None:
                self._hub.reset(channel, Event(RESET, "", past.end))
            for event in past.missed or ():
                self._hub.publish(channel, event)
            if not past.more:
                return
            cursor = past.end

    async def _take(self, source: bytes, message: bytes) -> None:
        if source.decode() == self._own:
            return
        match message.decode(errors="replace").split("\n", 3):
            case [channel, event_id, name, data] if is_name(name) and (at := parse_id(event_id)):
                if self._hub.has(channel):
                    await self._publish(channel, Event(name, data, event_id), at)
            case _:
                topic = self._history.keys.topic
                logger.warning("event relay ignored a message on %s that is no event", topic)

    async def _publish(self, channel: str, event: Event, at: Position) -> None:
        if at[0] <= time.time() * 1000 + FUTURE_MS:
            self._hub.publish(channel, event)
        elif cursor := self._hub.cursors().get(channel):
            await self._fill_gap(channel, cursor)
