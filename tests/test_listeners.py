"""Listeners that close leave no connection open."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from contextlib import suppress

import pytest

from tests.listeners import open_listener


@pytest.mark.parametrize("turns", range(4))
async def test_a_listener_that_closes_loses_no_connection(turns: int):
    """A listener that closes while clients connect leaves no socket unclosed.

    The warning of such a socket would fail a later test.
    """
    hung_up: list[asyncio.StreamWriter] = []

    def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        hung_up.append(writer)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with open_listener(hang_up) as port:
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        for client in clients:
            client.close()
        gc.collect()

    # Sockets that earlier tests have left open may be collected here, too.
    assert [text for one in caught if "socket" in (text := str(one.message))] == []
    assert len(hung_up) in {0, 3}


@pytest.mark.parametrize("turns", range(6))
async def test_a_listener_that_closes_ends_what_it_serves(turns: int):
    """A client that is still connected is hung up on, whether its server has begun to serve or not.

    A proxy whose connection was open at the end of a test failed a later one now and then.
    """
    ended: list[str] = []

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            ended.append("yes")

    async with open_listener(serve) as port:
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        for _ in range(turns):
            await asyncio.sleep(0)

    with client, suppress(ConnectionResetError):
        assert await asyncio.to_thread(client.recv, 1) == b""
    assert len(ended) <= 1


async def test_an_error_of_what_a_listener_serves_is_raised():
    """A server of a test whose own code fails, fails the test."""

    def serve(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> asyncio.Future[None]:
        return asyncio.create_task(broken())

    async def broken() -> None:
        raise LookupError("not asked for")

    with pytest.raises(LookupError, match="not asked for"):
        async with open_listener(serve) as port:
            await asyncio.to_thread(
                lambda: socket.create_connection(("127.0.0.1", port), timeout=10).close()
            )
