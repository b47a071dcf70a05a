"""The function broadcast(), which reaches every browser from any process."""

from __future__ import annotations

import logging

import pytest

from vibetuner.config import Settings, using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.client import open_redis, open_resource
from vibetuner.sse import broadcast
from vibetuner.sse.broadcast import _warn_once
from vibetuner.sse.history import History
from vibetuner.sse.hub import get_hub


async def test_without_redis_only_this_process_is_reached(
    fresh: None, caplog: pytest.LogCaptureFixture
):
    """Without Redis, an event reaches this process only, and one warning names the line to add."""
    _warn_once.cache_clear()
    with using_settings(Settings(redis_url=None)), get_hub().serving():
        with get_hub().subscribe("news") as subscriber:
            ids = [
                await broadcast("news", "hello", {"percent": 50}),
                await broadcast("news", "hello", "<b>you</b>"),
            ]
            events = await subscriber.events()

    assert [(e.name, e.data, e.id) for e in events or ()] == [
        ("hello", '{"percent": 50}', ids[0]),
        ("hello", "<b>you</b>", ids[1]),
    ]
    assert len(set(ids)) == 2
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].getMessage().endswith("Add to .env:  REDIS_URL=redis://localhost:6379")


async def test_the_id_that_it_returns_is_that_of_the_stream(settings: Settings):
    """broadcast() returns the id in the stream, with the process's connection or its own."""
    alone = await broadcast("news", "hello", "1")
    async with open_resource(settings, None):
        shared = await broadcast("news", "hello", ["two"])
    async with open_redis(settings) as client:
        past = await History(client, settings).read("news", "0-0")
        kept = await client.xrange(f"{settings.redis_key_prefix}sse:news")
    assert past.missed is None
    assert [entry.identifier for entry in kept] == [alone, shared]
    assert {name: kept[1].field_values[name] for name in ("event", "data")} == {
        "event": "hello",
        "data": '["two"]',
    }


async def test_how_much_is_kept_and_how_long_is_a_setting(settings: Settings):
    """A channel keeps SSE_HISTORY events, for SSE_HISTORY_TTL seconds."""
    small = settings.model_copy(update={"sse_history": 1, "sse_history_ttl": 40})
    with using_settings(small):
        async with open_resource(small, None) as client:
            for _ in range(250):
                await broadcast("news", "hello", "x")
            key = f"{settings.redis_key_prefix}sse:news"
            assert await client.xlen(key) <= 101  # whole nodes of the stream are dropped
            assert 0 < await client.ttl(key) <= 40


async def test_redis_that_is_down_is_one_line():
    """An unreachable Redis is an error in one line, and isn't swallowed."""
    with using_settings(Settings(redis_url="redis://127.0.0.1:1")):
        with pytest.raises(ServiceUnavailable, match="Redis at .* can't be used") as caught:
            await broadcast("news", "hello")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [object(), {"a": {1, 2}}, [float("nan")]])
async def test_data_that_cannot_be_sent_is_refused(data: object):
    """Data that is no JSON is refused before anything is sent."""
    with pytest.raises(ValueError, match="The event's data can't be sent: .*JSON"):
        await broadcast("news", "hello", data)


async def test_half_a_character_is_sent_as_a_question_mark(settings: Settings):
    """A lone surrogate is sent as a question mark, as it has no bytes."""
    async with open_resource(settings, None) as client:
        await broadcast("news", "hello", "half \ud83d")
        [kept] = await client.xrange(f"{settings.redis_key_prefix}sse:news")
    assert kept.field_values["data"] == "half ?"
