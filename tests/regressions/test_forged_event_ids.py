"""A Last-Event-ID that a browser forges does not silence its stream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.redis.client import open_resource
from vibetuner.sse import broadcast
from vibetuner.sse.history import History
from vibetuner.sse.hub import get_hub
from vibetuner.sse.relay import open_relay
from vibetuner.sse.stream import EventStream

LARGEST = 2**64 - 1


@pytest.mark.parametrize(
    "forged", [f"{LARGEST}-{LARGEST}", f"{LARGEST}-0", f"0-{LARGEST}", f"{LARGEST + 1}-0", "-", "0"]
)
async def test_a_stream_with_a_forged_id_sends_reset_and_goes_on(settings: Settings, forged: str):
    """A stream with a forged Last-Event-ID sends `reset`, and then the events that follow.

    Redis itself refuses to read after the largest id.
    """
    sent: list[bytes] = []
    leave = asyncio.Event()

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> dict[str, str]:
        await leave.wait()
        return {"type": "http.disconnect"}

    async with open_resource(settings, None) as client:
        with get_hub().serving():
            async with open_relay(History(client, settings), get_hub()):
                stream = EventStream("news", last_id=forged)
                serving = asyncio.create_task(stream({"type": "http"}, receive, send))
                await eventually(lambda: b"event: reset" in b"".join(sent))
                await broadcast("news", "headline", "it goes on")
                assert await eventually(lambda: b"it goes on" in b"".join(sent))
                leave.set()
                await serving
