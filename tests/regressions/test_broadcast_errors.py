"""broadcast() raises only the errors it documents, in bounded time, whatever Redis does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.valkey import Valkey
from vibetuner.config import Settings, using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.client import open_resource
from vibetuner.sse import broadcast


async def test_a_lost_redis_raises_service_unavailable_in_broadcast(tmp_path: Path):
    """A broadcast to a killed Redis raises ServiceUnavailable with a message of one line."""
    with Valkey(tmp_path) as valkey, using_settings(valkey.settings):
        async with open_resource(valkey.settings, None):
            await broadcast("news", "hello")
            valkey.kill()
            with pytest.raises(ServiceUnavailable, match="Redis at .* can't be used") as caught:
                await broadcast("news", "hello")
    assert "\n" not in str(caught.value)


async def test_broadcast_waits_five_seconds_for_a_silent_redis(tmp_path: Path):
    """A broadcast on an open connection to a frozen Redis fails after about five seconds."""
    with Valkey(tmp_path) as valkey, using_settings(valkey.settings):
        async with open_resource(valkey.settings, None):
            await broadcast("news", "hello")
            with valkey.frozen():
                began = time.monotonic()
                with pytest.raises(ServiceUnavailable, match="Redis at .* can.t be used"):
                    await broadcast("news", "hello")
                assert 4 < time.monotonic() - began < 20


async def test_a_refusal_of_redis_is_one_line(settings: Settings):
    """An error reply, as for a key of another type, raises ServiceUnavailable in one line."""
    async with open_resource(settings, None) as client:
        await client.set(f"{settings.redis_key_prefix}sse:news", "x", ex=60)
        with pytest.raises(ServiceUnavailable, match="wrong kind of value") as caught:
            await broadcast("news", "hello")
    assert "\n" not in str(caught.value)


async def test_an_event_that_is_too_large_is_refused_with_both_sizes(settings: Settings):
    """An event above SSE_EVENT_BYTES raises ValueError with its size and the limit in bytes."""
    small = settings.model_copy(update={"sse_event_bytes": 1000})
    with using_settings(small):
        async with open_resource(small, None):
            await broadcast("news", "n", "x" * 999)
            for text in ("x" * 1000, "ß" * 500):
                with pytest.raises(ValueError, match="has 1,001 bytes, .* allows 1,000"):
                    await broadcast("news", "n", text)


async def test_data_without_an_end_is_refused():
    """Data that is nested too deeply, or contains itself, raises ValueError."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    around: list[object] = []
    around.append(around)
    for data in (deep, around):
        with pytest.raises(ValueError, match="The event's data can't be sent"):
            await broadcast("news", "n", data)
    while deep:  # freed level by level, as the interpreter would recurse
        deep = deep.pop()  # type: ignore[assignment]
