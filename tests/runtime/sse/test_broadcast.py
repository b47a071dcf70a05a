"""broadcast(): to every browser that listens, from any process."""

from __future__ import annotations

import logging

import pytest

from vibetuner.config import Settings, using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.sse import broadcast
from vibetuner.sse.broadcast import _warn_once
from vibetuner.sse.hub import Event, get_hub


async def test_without_redis_only_this_process_is_reached(
    fresh: None, caplog: pytest.LogCaptureFixture
):
    """A warning says so once, with the line to add."""
    _warn_once.cache_clear()
    with using_settings(Settings(redis_url=None)), get_hub().subscribe("news") as subscriber:
        await broadcast("news", "hello", {"percent": 50})
        await broadcast("news", "hello", "<b>you</b>")

    assert subscriber.queue.get_nowait() == Event("hello", '{"percent": 50}')
    assert subscriber.queue.get_nowait() == Event("hello", "<b>you</b>")
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].getMessage().endswith("Add to .env:  REDIS_URL=redis://localhost:6379")


async def test_redis_that_is_down_is_one_line():
    """A script that broadcasts learns it; nothing is swallowed."""
    with using_settings(Settings(redis_url="redis://127.0.0.1:1")):
        with pytest.raises(ServiceUnavailable, match="Redis at .* can't be used") as caught:
            await broadcast("news", "hello")
    assert "\n" not in str(caught.value)


async def test_data_that_cannot_be_sent_is_refused():
    """Before anything is sent."""
    with pytest.raises(ValueError, match="The event's data can't be sent: .*object is not JSON"):
        await broadcast("news", "hello", object())
