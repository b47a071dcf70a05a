"""A worker on the test's own queue, and servers with users of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.listeners import open_listener
from tests.valkey import Valkey
from vibetuner.config import Settings, using_settings


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Valkey]:
    """Yield a server whose user has the rules of the test's parameter."""
    rules = getattr(request, "param", "").split()
    options = ("--user", "tester", "on", ">x", "~*", "&*", "+@all", *rules)
    with Valkey(tmp_path, lasting=False, options=options) as server:
        server.url = server.url.replace("://", "://tester:x@")
        yield server


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    """Yield the usual settings without MongoDB, so that dead letters stay in Redis."""
    own = settings.model_copy(update={"mongodb_url": None})
    with using_settings(own):
        yield own


@asynccontextmanager
async def lossy_proxy(url: str, command: bytes) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Run a proxy that loses, once, the connection over which ``command`` was sent.

    The server gets the command, and its answer is lost.
    """
    there, lost = urlsplit(url), asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(there.hostname, there.port)
        losing = False

        async def bring_answers() -> None:
            while data := await answers.read(65536):
                if losing:
                    lost.set()
                    break
                writer.write(data)
            writer.close()
            server.close()

        back = asyncio.create_task(bring_answers())
        try:
            with suppress(OSError):
                while data := await reader.read(65536):
                    losing = losing or (command in data and not lost.is_set())
                    server.write(data)
        finally:
            server.close()
            await back

    async with open_listener(relay) as port:
        yield there._replace(netloc=f"127.0.0.1:{port}").geturl(), lost
