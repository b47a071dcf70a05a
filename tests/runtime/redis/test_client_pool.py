"""The pool of a client, which outlives any number of connections."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest
from coredis.exceptions import RedisError

from tests.valkey import Valkey
from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.client import check, make_client

PLACES = 64


async def test_connections_that_die_in_use_leave_their_places(settings: Settings):
    """Connections that are lost in use free their places in the pool.

    A server that restarts often must not bring a web process to a standstill.
    """
    async with make_client(settings) as victim, make_client(settings) as killer:
        me = await killer.client_id()
        for _ in range(PLACES + 1):
            async with asyncio.timeout(60):
                async with victim.connection_pool.acquire() as connection:
                    for client in await killer.client_list():
                        if int(client["id"]) != me:
                            await killer.client_kill(identifier=int(client["id"]))
                    await eventually(lambda: not connection.usable)

        async with asyncio.timeout(60):
            assert await victim.ping()


async def test_connecting_that_is_cancelled_leaves_its_place(settings: Settings):
    """A connection that is cancelled while it is made frees its place in the pool."""
    async with make_client(settings) as client:
        for _ in range(PLACES + 1):
            async with anyio.create_task_group() as group:
                group.start_soon(client.connection_pool.get_connection)
                for _ in range(3):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()

        async with asyncio.timeout(60):
            assert await client.ping()


async def test_connecting_that_fails_leaves_its_place(tmp_path: Path):
    """A connection that can't be made frees its place, and a ping works once the server runs."""
    with Valkey(tmp_path) as valkey:
        valkey.kill()
        async with make_client(valkey.settings) as client:
            for _ in range(PLACES + 1):
                with pytest.raises((RedisError, OSError)):
                    await client.ping()
            await asyncio.to_thread(valkey.start)
            async with asyncio.timeout(60):
                assert await client.ping()


async def test_a_server_that_is_not_there_is_named_without_its_password():
    """An unreachable server is named without its password."""
    nowhere = Settings(redis_url="redis://ann:secret@127.0.0.1:1")
    with pytest.raises(ServiceUnavailable) as caught:
        await check(nowhere)

    assert "127.0.0.1:1" in str(caught.value)
    assert "secret" not in str(caught.value)
