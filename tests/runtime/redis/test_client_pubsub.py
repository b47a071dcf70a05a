"""A subscription ends on request, whatever the server does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.valkey import Valkey
from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.redis.client import make_client, ungrouped


async def test_a_subscription_ends_while_the_server_is_away(tmp_path: Path):
    """A subscription can end while the server is away."""
    with Valkey(tmp_path) as valkey, ungrouped():
        async with make_client(Settings(redis_url=valkey.url)) as client, asyncio.timeout(20):
            async with client.pubsub(channels=["news"]) as pubsub:
                valkey.kill()
                await eventually(lambda: not pubsub.connection.usable)


async def test_a_subscription_comes_back_with_the_server(tmp_path: Path):
    """A subscription is restored when the server is back, and gets later messages."""
    with Valkey(tmp_path) as valkey, ungrouped():
        async with make_client(Settings(redis_url=valkey.url)) as client, asyncio.timeout(20):
            async with client.pubsub(channels=["news"], ignore_subscribe_messages=True) as pubsub:
                lost = pubsub.connection
                valkey.kill()
                await eventually(lambda: not lost.usable)
                valkey.start()
                await eventually(lambda: client.publish("news", "it is back"))

                assert (await anext(pubsub))["data"] == "it is back"


@pytest.mark.parametrize("messages", [0, 3])
async def test_a_subscription_ends_in_the_ordinary_way(settings: Settings, messages: int):
    """A subscription that ends returns its connection to the pool, without unread messages."""
    async with make_client(settings) as client, asyncio.timeout(20):
        async with client.pubsub(channels=["news"]):
            for _ in range(messages):
                await client.publish("news", "unread")

        assert await client.ping()
