"""Listeners that close leave no socket open."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings

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
