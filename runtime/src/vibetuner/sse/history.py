"""The recent events of each channel, in Redis streams, for browsers that reconnect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from coredis import Redis, RedisCluster
from coredis.exceptions import RedisError

from vibetuner.config import Settings, get_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis import redis_client
from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import Keys
from vibetuner.sse.event import Event, Position, idle_id, is_name, next_id, parse_id

#: the errors that are raised while Redis is away
OUTAGES = (RedisError, OSError, ExceptionGroup, ServiceUnavailable)

# The size of one portion of the history; a slow reader holds this much of the process's memory.
PORTION_BYTES = 64_000


@dataclass(frozen=True, slots=True)
class Past:
    """The reply of a channel's stream to a browser that reconnects.

    Args:
        missed: the next events that it missed, in order; None if some are no longer kept.
        end: the id that the browser has reached after them.
        more: whether further events follow; read again from ``end``.
    """

    missed: list[Event] | None
    end: str
    more: bool = False


class History:
    """The streams of all channels of a project.

    A channel keeps SSE_HISTORY events, plus up to a hundred, and at most SSE_HISTORY_BYTES bytes of
    them, for SSE_HISTORY_TTL seconds after the last one.
    """

    def __init__(self, redis: Redis[str] | RedisCluster[str], settings: Settings) -> None:
        self.redis = redis
        self.functions = Scripts(redis)
        self.keys = Keys(settings.redis_key_prefix)
        self._limits = settings.sse_history, settings.sse_history_bytes, settings.sse_history_ttl

    def arguments(self, channel: str, event: str, data: str) -> list[str | float]:
        """Return the arguments of our functions for an event."""
        return [self.keys.topic, *self._limits, channel, event, data]

    async def send(self, channel: str, event: str, data: str) -> str:
        """Store an event and publish it to every web process; return its id."""
        values = self.arguments(channel, event, data)
        return str(await self.functions.call("broadcast", [self.keys.events(channel)], values))

    async def read(self, channel: str, after: str | None) -> Past:
        """Return the next events of ``channel`` after the id ``after``; None asks for the end.

        With an id that this stream never gave, everything counts as missed.
        """
        position = parse_id(after)
        start = next_id(position) if position else None
        values: list[str | float] = [start or "", PORTION_BYTES]
        answer = await self.functions.call("read_events", [self.keys.events(channel)], values)
        now, oldest, is_first, newest, entries = answer
        end = newest or idle_id(int(now))
        if after is None:
            return Past([], end)
        bounds = (parse_id(oldest), parse_id(newest))
        if position is None or not self._is_whole(position, bounds, int(now), first=bool(is_first)):
            return Past(None, end)
        last = entries[-1][0] if entries else end
        return Past(list(_events(entries)), last, more=last != end)

    def _is_whole(
        self,
        after: Position,
        bounds: tuple[Position | None, Position | None],
        now: int,
        *,
        first: bool,
    ) -> bool:
        """Return whether every event after the position is still kept.

        Args:
            first: whether the oldest entry is the first one ever added to the stream.
        """
        oldest, newest = bounds
        if oldest and newest and oldest <= after:
            return after <= newest
        milliseconds, idle_since = after
        if milliseconds:
            return False
        # The channel was silent when this browser came. All later events may have expired together,
        # or the oldest of them may have been trimmed.
        limit = self._limits[-1] * 1000
        if oldest is None:
            return 0 <= now - idle_since < limit
        return first and 0 <= oldest[0] - idle_since < limit


def open_history() -> History | None:
    """Return the history that uses the process's open connection; None if there is none."""
    client = redis_client.peek()
    return None if client is None else History(client, get_settings())


def _events(entries: Sequence[Any]) -> Iterator[Event]:
    """Yield the events of a stream; skip entries that are not ours."""
    for entry_id, fields in entries:
        values = dict(zip(fields[::2], fields[1::2], strict=False))
        name, data = values.get("event"), values.get("data")
        if is_name(name) and isinstance(data, str):
            yield Event(str(name), data, entry_id)
