"""Sending an event to everybody who listens."""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import Any

from vibetuner.config import get_settings
from vibetuner.embedded import open_services
from vibetuner.resources.redis import open_redis
from vibetuner.resources.slots import redis_client
from vibetuner.sse.hub import Event, check_channel, check_event, get_hub
from vibetuner.sse.relay import publish

__all__ = ["broadcast"]

logger = logging.getLogger(__name__)


async def broadcast(channel: str, event: str, data: Any = "") -> None:
    """Send ``event`` to every open browser that listens to ``channel``, through Redis.

    Text and HTML are sent as they are, anything else as JSON. Without REDIS_URL only this
    process's own subscribers are reached, and a warning says so once.

    Raises:
        ValueError: a name that can't be used, or data that JSON can't hold.
        ServiceUnavailable: Redis does not answer.
    """
    check_channel(channel)
    sent = Event(check_event(event), _as_text(data))
    settings = get_settings()
    if not settings.redis_url:
        _warn_once()
        get_hub().publish(channel, sent)
    elif client := redis_client.peek():
        await publish(client, settings.redis_key_prefix, channel, sent)
    else:
        async with open_services(settings) as live, open_redis(live) as client:
            await publish(client, settings.redis_key_prefix, channel, sent)


def _as_text(data: Any) -> str:
    if isinstance(data, str):
        return data
    try:
        return json.dumps(data)
    except TypeError as error:
        raise ValueError(f"The event's data can't be sent: {error}") from None


@cache
def _warn_once() -> None:
    logger.warning(
        "Events reach this process only: Redis not configured. Add to .env:  "
        "REDIS_URL=redis://localhost:6379"
    )
