"""Sends an event to every subscriber of a channel."""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import Any

from vibetuner.config import get_settings
from vibetuner.embedded import open_services
from vibetuner.errors import first_line
from vibetuner.redis.client import answering, open_redis
from vibetuner.sse.event import Event, check_channel, check_event
from vibetuner.sse.history import History, open_history
from vibetuner.sse.hub import get_hub

logger = logging.getLogger(__name__)


async def broadcast(channel: str, event: str, data: Any = "") -> str:
    """Send ``event`` to every open browser that listens to ``channel``; return the event's id.

    Text and HTML are sent as they are, anything else as JSON. The event is kept for browsers that
    reconnect: a channel keeps its last SSE_HISTORY events and SSE_HISTORY_BYTES bytes, for
    SSE_HISTORY_TTL seconds. Without REDIS_URL the event reaches only subscribers in this process,
    and a warning is logged once.

    Raises:
        ValueError: a name is not valid, JSON can't represent the data, or the event is larger than
            SSE_EVENT_BYTES.
        ServiceUnavailable: Redis refuses, or does not answer within 5 seconds.
        SettingsError: a setting holds a wrong value.
    """
    check_channel(channel)
    settings = get_settings()
    text = encode_data(event, data, settings.sse_event_bytes)
    if not settings.redis_url:
        _warn_once()
        sent = Event(event, text, get_hub().next_id())
        get_hub().publish(channel, sent)
        return sent.id
    if history := open_history():
        async with answering(settings):
            return await history.send(channel, event, text)
    async with open_services(settings) as live, open_redis(live) as client, answering(live):
        return await History(client, live).send(channel, event, text)


def encode_data(event: str, data: Any, limit: int) -> str:
    """Return the text of an event's data.

    Raises:
        ValueError: the name is not valid, JSON can't represent the data, or the event is larger
            than ``limit`` bytes.
    """
    check_event(event)
    text = storable(data if isinstance(data, str) else _as_json(data))
    size = len(event.encode()) + len(text if text.isascii() else text.encode())
    if size > limit:
        raise ValueError(
            f"The event has {size:,} bytes, and SSE_EVENT_BYTES allows {limit:,}. Send an id, and "
            "let the page fetch the rest"
        )
    return text


def storable(text: str) -> str:
    """Replace each lone surrogate in ``text``, which can't be encoded, with a ``?``."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _as_json(data: Any) -> str:
    try:
        return json.dumps(data, allow_nan=False)  # browsers refuse NaN
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"The event's data can't be sent: {first_line(error)}") from None


@cache
def _warn_once() -> None:
    logger.warning(
        "Events reach this process only: Redis not configured. Add to .env:  "
        "REDIS_URL=redis://localhost:6379"
    )
