"""The recent events of each channel, in Redis streams: what a browser that returns has missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coredis import Redis, RedisCluster
from coredis.exceptions import RedisError

from vibetuner.config import Settings, get_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis import redis_client
from vibetuner.sse.event import Event, Place, idle_id, parse_id

__all__ = ["OUTAGES", "SEND", "History", "Past", "history_of", "open_history"]

# What is raised while Redis is away.
OUTAGES = (RedisError, OSError, ExceptionGroup, ServiceUnavailable)

# A function for scripts: appends to a channel's stream, renews its time to live, and tells every
# web process; one step, so that ids and messages have the same order.
SEND = """
local function send(stream, topic, kept, ttl, channel, event, data)
  local id = redis.call('xadd', stream, 'maxlen', '~', kept, '*', 'event', event, 'data', data)
  redis.call('expire', stream, ttl)
  redis.call('publish', topic, channel .. '\\n' .. id .. '\\n' .. event .. '\\n' .. data)
  return id
end
"""
BROADCAST = f"{SEND}return send(KEYS[1], unpack(ARGV))"

# All of it of the same moment.
READ = """
local moment = redis.call('time')
local oldest = redis.call('xrange', KEYS[1], '-', '+', 'count', 1)[1]
local newest = redis.call('xrevrange', KEYS[1], '+', '-', 'count', 1)[1]
local missed = {}
if ARGV[1] ~= '' then missed = redis.call('xrange', KEYS[1], '(' .. ARGV[1], '+') end
return {
  tostring(moment[1] * 1000 + math.floor(moment[2] / 1000)),
  oldest and oldest[1] or '', newest and newest[1] or '', redis.call('xlen', KEYS[1]), missed
}
"""


@dataclass(frozen=True, slots=True)
class Past:
    """What a channel's stream says to somebody who returns.

    Args:
        missed: the events since then, in order; None when some of them are gone.
        end: the id of having heard everything until now.
    """

    missed: list[Event] | None
    end: str


class History:
    """The streams of all channels, below one key prefix.

    Args:
        size: how many events a channel keeps at least, if it had as many.
        ttl: for how many seconds after its last event.
    """

    def __init__(
        self, redis: Redis[str] | RedisCluster[str], prefix: str, *, size: int, ttl: int
    ) -> None:
        self.redis = redis
        self.prefix = prefix
        self.size = size
        self.ttl = ttl

    @property
    def topic(self) -> str:
        """What every web process subscribes to."""
        return f"{self.prefix}sse"

    def key(self, channel: str) -> str:
        """The stream of ``channel``."""
        return f"{self.prefix}sse:{channel}"

    def arguments(self, channel: str, event: str, data: str) -> Sequence[str | int]:
        """What ``send`` of :data:`SEND` takes behind the stream's key."""
        return [self.topic, self.size, self.ttl, channel, event, data]

    async def send(self, channel: str, event: str, data: str) -> str:
        """Keep an event and send it to every web process; returns its id."""
        sent: Any = await self.redis.eval(
            BROADCAST, [self.key(channel)], self.arguments(channel, event, data)
        )
        return str(sent)

    async def read(self, channel: str, after: str | None) -> Past:
        """What ``channel`` has sent after the id ``after``; None asks for the end alone.

        An id that is none, or that this stream never gave, has missed everything.
        """
        place = parse_id(after)
        known = after if after and place else ""
        answer: Any = await self.redis.eval(READ, [self.key(channel)], [known])
        now, oldest, newest, length, entries = answer
        end = newest or idle_id(int(now))
        if after is None:
            return Past([], end)
        bounds = (parse_id(oldest), parse_id(newest))
        if place is None or not self._is_whole(place, bounds, int(length), int(now)):
            return Past(None, end)
        return Past([_event(entry_id, fields) for entry_id, fields in entries], end)

    def _is_whole(
        self, after: Place, bounds: tuple[Place | None, Place | None], length: int, now: int
    ) -> bool:
        """Whether everything that was sent behind ``after`` is still there."""
        oldest, newest = bounds
        if oldest and newest and oldest <= after:
            return after <= newest
        milliseconds, idle_since = after
        if milliseconds:
            return False
        # Nothing had been sent when this browser came. Whatever was sent since, and is gone, had
        # either run out of time or been pushed out.
        limit = self.ttl * 1000
        if oldest is None:
            return 0 <= now - idle_since < limit
        return length < self.size and 0 <= oldest[0] - idle_since < limit


def open_history() -> History | None:
    """The history behind the connection that the process has open; None when there is none."""
    client = redis_client.peek()
    return None if client is None else history_of(client, get_settings())


def history_of(client: Redis[str] | RedisCluster[str], settings: Settings) -> History:
    """The history of a project."""
    return History(
        client, settings.redis_key_prefix, size=settings.sse_history, ttl=settings.sse_history_ttl
    )


def _event(entry_id: str, fields: Sequence[str]) -> Event:
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    return Event(values.get("event", ""), values.get("data", ""), entry_id)
