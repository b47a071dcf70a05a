"""Sending an event to everybody who listens."""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import Any

from vibetuner.config import get_settings
from vibetuner.embedded import open_services
from vibetuner.redis.client import open_redis
from vibetuner.sse.event import Event, check_channel, check_event
from vibetuner.sse.history import history_of, open_history
from vibetuner.sse.hub import get_hub

__all__ = ["broadcast", "storable"]

logger = logging.getLogger(__name__)


async def broadcast(channel: str, event: str, data: Any = "") -> str:
    """Send ``event`` to every open browser that listens to ``channel``; returns the event's id.

    Text and HTML are sent as they are, anything else as JSON. The event is kept for browsers that
    come back: the last SSE_HISTORY of a channel, for SSE_HISTORY_TTL seconds. Without REDIS_URL
    only this process's own subscribers are reached, and a warning says so once.

    Raises:
        ValueError: a name that can't be used, or data that JSON can't hold.
        ServiceUnavailable: Redis does not answer.
    """
    check_channel(channel)
    check_event(event)
    text = storable(_as_text(data))
    settings = get_settings()
    if not settings.redis_url:
        _warn_once()
        return _send_here(channel, event, text)
    if history := open_history():
        return await history.send(channel, event, text)
    async with open_services(settings) as live, open_redis(live) as client:
        return await history_of(client, live).send(channel, event, text)


def storable(text: str) -> str:
    """Text that has bytes: half a character, as a careless slice leaves it, becomes a ``?``."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _send_here(channel: str, event: str, text: str) -> str:
    hub = get_hub()
    sent = Event(event, text, hub.next_id())
    hub.publish(channel, sent)
    return sent.id


def _as_text(data: Any) -> str:
    if isinstance(data, str):
        return data
    try:
        return json.dumps(data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The event's data can't be sent: {error}") from None


@cache
def _warn_once() -> None:
    logger.warning(
        "Events reach this process only: Redis not configured. Add to .env:  "
        "REDIS_URL=redis://localhost:6379"
    )
