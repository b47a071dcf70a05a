"""Passes events between processes, with one Redis subscription in each web process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
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

# A message whose id is further in the future is checked against its stream: a forged id would make
# all later events look like old ones.
FUTURE_MS = 3_600_000

MESSAGES = frozenset({b"message", b"smessage"})
# In place of a message: the connection is gone.
LOST = b"lost"


@asynccontextmanager
async def open_relay(
    history: History, hub: Hub, *, silence: float | None = None
) -> AsyncIterator[None]:
    """Pass the events of every process to ``hub``; subscribed when the block begins.

    After an outage it fills the gap from the streams. If they don't hold all of it, the channel's
    subscribers get a ``reset``.

    Args:
        silence: the ``timeout`` of its connection.
    """
    relay = _Relay(history, hub, silence)
    listener = asyncio.create_task(relay.listen())
    try:
        await relay.tried.wait()
        yield
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await listener


class _Relay:
    def __init__(self, history: History, hub: Hub, silence: float | None) -> None:
        self.tried = asyncio.Event()
        self._history = history
        self._hub = hub
        self._silence = silence
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
            address,
            timeout=self._silence,
            on_push=arrived.put_nowait,
            on_loss=partial(arrived.put_nowait, [LOST]),
        ) as connection:
            subscribe = "SSUBSCRIBE" if self._history.keys.is_sharded else "SUBSCRIBE"
            await connection.tell(subscribe, self._history.keys.topic)
            self._hub.note_gap()
            for channel, cursor in self._hub.cursors().items():
                await self._fill_gap(channel, cursor)
            self._connected()
            while (message := await arrived.get())[0] in MESSAGES:
                await self._take(message[2])
            if message[0] == LOST:
                raise Disconnected("The subscription was lost")

    def _connected(self) -> None:
        if self._lost:
            logger.info("event relay reconnected to Redis")
        self._lost, self._failures = False, 0
        self.tried.set()

    async def _fill_gap(self, channel: str, cursor: str) -> None:
        """Pass on the events that a channel's stream has after ``cursor``."""
        while True:
            past = await self._history.read(channel, cursor)
            if past.missed is None:
                self._hub.publish(channel, Event(RESET, "", past.end), anew=True)
            for event in past.missed or ():
                self._hub.publish(channel, event)
            if not past.more:
                return
            cursor = past.end

    async def _take(self, message: bytes) -> None:
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
            return
        self._hub.note_gap()
        if cursor := self._hub.cursors().get(channel):
            await self._fill_gap(channel, cursor)
