"""A worker of the test's own, and servers of the test's own with users of its own."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.processes import free_port
from tests.waiting import wait_until
from vibetuner.config import Settings, using_settings
from vibetuner.embedded.packages import valkey_binary
from vibetuner.redis.blocking import responds
from vibetuner.tasks.worker import TaskWorker


class Server:
    """A server of the test's own, with a user who has the rules that are given."""

    def __init__(self, folder: Path, *rules: str) -> None:
        self._folder, self._rules = folder, rules
        self._port = free_port()
        self.url = f"redis://tester:x@127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        arguments = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        rules = ["--user", "tester", "on", ">x", "~*", "&*", "+@all", *self._rules]
        self._process = subprocess.Popen(
            [str(valkey_binary()), *arguments, "--dir", str(self._folder), *rules],
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._answers, what=lambda: "valkey")

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        return responds(self._port)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """One whose user has the rules of the test's parameter."""
    server = Server(tmp_path, *getattr(request, "param", "").split())
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    """Those of every test, without MongoDB: letters stay in Redis."""
    own = settings.model_copy(update={"mongodb_url": None})
    with using_settings(own):
        yield own


@pytest.fixture
def worker(stand_in, settings: Settings) -> TaskWorker:
    """A worker of the test's own, in a project that says nothing."""
    stand_in()
    return TaskWorker(settings)


@asynccontextmanager
async def lossy_proxy(url: str, word: bytes) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The server by way of a proxy that loses, once, the connection that ``word`` came by.

    The server gets what was sent, and its answer is what is lost.
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
        with suppress(OSError):
            while data := await reader.read(65536):
                losing = losing or (word in data and not lost.is_set())
                server.write(data)
        server.close()
        await back

    proxy = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with proxy:
        port = proxy.sockets[0].getsockname()[1]
        yield there._replace(netloc=f"127.0.0.1:{port}").geturl(), lost
