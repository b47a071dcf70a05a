"""Carries events between processes: one Redis subscription a web process."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from coredis import Redis

from vibetuner.resources.redis import innermost
from vibetuner.sse.hub import Event, Hub

__all__ = ["open_relay", "publish"]

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = (0.1, 0.5, 1, 2, 5)


async def publish(redis: Redis[str], prefix: str, channel: str, event: Event) -> None:
    """Send an event to every web process."""
    await redis.publish(f"{prefix}sse:{channel}", json.dumps([event.name, event.data]))


@asynccontextmanager
async def open_relay(redis: Redis[str], hub: Hub, prefix: str) -> AsyncIterator[None]:
    """Hand to ``hub`` whatever other processes publish; subscribed when the block begins."""
    ready = asyncio.Event()
    listener = asyncio.create_task(_listen(redis, hub, prefix, ready))
    try:
        await ready.wait()
        yield
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await listener


async def _listen(redis: Redis[str], hub: Hub, prefix: str, ready: asyncio.Event) -> None:
    failures = 0
    while True:
        try:
            async with redis.pubsub(
                patterns=[f"{prefix}sse:*"],
                ignore_subscribe_messages=True,
                subscription_timeout=5,
                retry_policy=None,  # the driver's own tries would be silent, and up to 16 s apart
            ) as messages:
                if failures:
                    logger.info("event relay: connected again")
                failures = 0
                ready.set()
                async for message in messages:
                    _deliver(hub, str(message["channel"]), str(message["data"]), prefix)
        except Exception as error:  # noqa: BLE001 - whatever breaks it, the relay comes back
            if not failures:
                reason = type(innermost(error)).__name__
                logger.warning("event relay: lost Redis (%s), trying again", reason)
        await asyncio.sleep(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)])
        failures += 1
        ready.set()


def _deliver(hub: Hub, key: str, message: str, prefix: str) -> None:
    event = _read(message)
    if event is None:
        logger.warning("event relay: a message that is not ours on %s was left out", key)
    else:
        hub.publish(key.removeprefix(f"{prefix}sse:"), event)


def _read(message: str) -> Event | None:
    with suppress(ValueError):
        match json.loads(message):
            case [str(name), str(data)]:
                return Event(name, data)
    return None
