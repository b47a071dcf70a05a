"""Carries events between processes: one Redis subscription a web process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from secrets import token_hex
from typing import Any

from vibetuner.redis.client import in_batches, innermost
from vibetuner.sse.event import RESET, Event, parse_id
from vibetuner.sse.history import History
from vibetuner.sse.hub import Hub

__all__ = ["open_relay"]

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = (0.1, 0.5, 1, 2, 5)

# A connection can be gone without a word. The relay sends itself a message so often, and gives
# the connection up when nothing has come for so long.
WATCH_SECONDS = 5.0
SILENCE_SECONDS = 12.0


@asynccontextmanager
async def open_relay(
    history: History,
    hub: Hub,
    *,
    watch: float = WATCH_SECONDS,
    silence: float = SILENCE_SECONDS,
) -> AsyncIterator[None]:
    """Hand to ``hub`` whatever any process sends; subscribed when the block begins.

    After a loss it fills the gap from the streams; where they don't hold all of it, the channel's
    subscribers get a ``reset``.
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
        self._own = f"{history.topic}:{token_hex(8)}"
        self._heard_at = 0.0
        self._lost = False
        self._failures = 0

    async def listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except Exception as error:  # noqa: BLE001 - whatever breaks it, the relay comes back
                if not self._lost:
                    reason = type(innermost(error)).__name__
                    logger.warning("event relay: lost Redis (%s), trying again", reason)
                self._lost = True
            await asyncio.sleep(BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS) - 1)])
            self._failures += 1
            self.tried.set()

    async def _listen_once(self) -> None:
        async with self._history.redis.pubsub(
            channels=[self._history.topic, self._own],
            ignore_subscribe_messages=True,
            subscription_timeout=5,
            retry_policy=None,  # the driver's own tries would be silent, and up to 16 s apart
        ) as messages:
            self._heard_at = asyncio.get_running_loop().time()
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                await self._fill_gaps()
                self._say_connected()
                async for batch in in_batches(messages):
                    self._heard_at = asyncio.get_running_loop().time()
                    for message in batch:
                        self._take(message)
                watch.cancel()

    def _say_connected(self) -> None:
        if self._lost:
            logger.info("event relay: connected again")
        self._lost, self._failures = False, 0
        self.tried.set()

    async def _watch(self) -> None:
        """Raise TimeoutError when nothing is heard any more, not even from oneself."""
        loop = asyncio.get_running_loop()
        while True:
            async with asyncio.timeout(self._silence_seconds):
                await self._history.redis.publish(self._own, "")
            await asyncio.sleep(self._watch_seconds)
            if loop.time() - self._heard_at > self._silence_seconds:
                raise TimeoutError("nothing was heard")

    async def _fill_gaps(self) -> None:
        """Hand on what was sent while nobody listened; what comes meanwhile waits its turn."""
        for channel, cursor in self._hub.cursors().items():
            past = await self._history.read(channel, cursor)
            if past.missed is None:
                self._hub.reset(channel, Event(RESET, "", past.end))
            for event in past.missed or ():
                self._hub.publish(channel, event)

    def _take(self, message: Any) -> None:
        if message["channel"] == self._own:
            return
        match str(message["data"]).split("\n", 3):
            case [channel, event_id, name, data] if name and parse_id(event_id):
                if self._hub.has(channel):
                    self._hub.publish(channel, Event(name, data, event_id))
            case _:
                logger.warning(
                    "event relay: a message that is not ours on %s was left out",
                    message["channel"],
                )
