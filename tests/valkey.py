"""Valkey servers for tests: one, or several that replicate; they can be killed and restarted."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from coredis.exceptions import RedisError

from tests.listeners import open_listener
from tests.processes import free_port, freeze
from tests.waiting import eventually, wait_until
from vibetuner.config import Settings, using_settings
from vibetuner.embedded.folder import valkey_binary
from vibetuner.errors import NotDurable, ServiceUnavailable
from vibetuner.redis.blocking import RefusedError, Reply, ask, responds
from vibetuner.redis.url import Address, Tls
from vibetuner.tasks.worker import TaskWorker
from vibetuner.testing import held_open

__all__ = ["FOLLOWS_WITHIN", "Servers", "Valkey", "opened", "until_it_works"]

#: Seconds from a promotion until all works again. Five are promised on an idle machine; a client
#: that waits for a silent server instead needs ten.
FOLLOWS_WITHIN = 9
FAILOVERS, FAILOVER_SECONDS = 9, 10

T = TypeVar("T")

#: More than the buffers of a connection on this machine hold.
FILLER = "x" * 32_000_000
LASTING = ("--appendonly", "yes", "--appendfsync", "always")


class Valkey:
    """One server, started by ``with`` or by ``start()``; if ``lasting``, its data survives a kill.

    Args:
        folder: the folder for its data.
        lasting: whether it writes an append-only file.
        options: more options of the server.
        program: the server; without it, the embedded Valkey.
    """

    def __init__(
        self,
        folder: Path,
        *,
        lasting: bool = True,
        options: tuple[str, ...] = (),
        program: str | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.settings = Settings(redis_url=self.url, redis_key_prefix="own")
        self._folder = folder
        self._options = (*(LASTING if lasting else ()), *options)
        self._program = program or valkey_binary()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the process that was started last."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [*command, *self._options],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._answers, what=lambda: "valkey")

    def kill(self) -> None:
        """Kill the server, like a power cut."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop the server's process; its connections stay open."""
        freeze(self.process.pid)

    def thaw(self) -> None:
        """Resume the server's process."""
        self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server for the length of the block."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    async def tries(self, wanted: int) -> None:
        """Accept and close connections in place of the stopped server, ``wanted`` in number."""
        seen = asyncio.Semaphore(0)

        def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()
            seen.release()

        async with open_listener(hang_up, port=self.port):
            async with asyncio.timeout(60):
                for _ in range(wanted):
                    await seen.acquire()

    def _answers(self) -> bool:
        return responds(self.port)


@asynccontextmanager
async def opened(server: Valkey | Servers, **values: Any) -> AsyncIterator[tuple[TaskWorker, Any]]:
    """Yield a worker with an open queue on the server, and a task of its own."""
    settings = Settings(redis_url=server.url, **{"redis_key_prefix": "own", **values})
    with using_settings(settings):
        worker = TaskWorker(settings)

        @worker.task(name="number")
        async def number(value: int) -> int:
            return value

        async with held_open(worker):
            yield worker, number


async def until_it_works(act: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call that fails while a server or a replica is missing."""

    async def answer() -> list[T]:
        with suppress(RedisError, ServiceUnavailable, NotDurable):
            return [await act()]
        return []

    answers: list[T] = await eventually(answer, what=lambda: "a server that takes commands")
    return answers[0]


class Servers:
    """Servers that replicate, named by their ports, and started by ``with``.

    Args:
        folder: the folder for their data.
        program: the server; without it, the embedded Valkey, which has no TLS.
        tls: the client's TLS settings, if they use TLS.
    """

    #: A key that the primary has a slot for.
    filler: str

    def __init__(self, folder: Path, *, program: str | None, tls: Tls | None) -> None:
        self._folder = folder
        self._program = program or str(valkey_binary())
        self._tls = tls
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for port in self._processes:
            self.kill(port)

    @property
    @abstractmethod
    def url(self) -> str:
        """Return the value of REDIS_URL."""

    @property
    @abstractmethod
    def primary(self) -> int:
        """Return the port of the primary."""

    @property
    @abstractmethod
    def replicas(self) -> list[int]:
        """Return the ports of the primary's replicas."""

    @abstractmethod
    def start(self) -> None:
        """Start all servers, and wait until they know each other."""

    @abstractmethod
    def launch(self, port: int) -> None:
        """Start one server, and wait until it answers."""

    def launch_replica(self, port: int) -> None:
        """Start a server that was a replica when it was killed."""
        self.launch(port)

    @abstractmethod
    def fail_over(self, *options: str) -> None:
        """Promote a replica, as a person does before shutting the primary down."""

    def replace(self, old: int, *options: str) -> None:
        """Fail over from this primary, and again if busy servers abandon it."""
        for _ in range(FAILOVERS):
            with suppress(RefusedError):  # the previous one is not over
                self.fail_over(*options)
            with suppress(AssertionError):
                self.wait_for_promotion(old, seconds=FAILOVER_SECONDS)
                return
        raise AssertionError(f"{FAILOVERS} failovers were abandoned")

    @abstractmethod
    def wait_for_promotion(self, old: int, *, seconds: float = 20) -> float:
        """Wait until another server is the primary; return the time, by the monotonic clock."""

    @abstractmethod
    def is_whole(self) -> bool:
        """Return whether there is one primary, and all its replicas follow it."""

    def kill(self, port: int) -> None:
        """Kill a server, like a power cut."""
        self._processes[port].kill()
        self._processes[port].wait()

    def freeze(self, port: int) -> None:
        """Stop a server's process; its connections stay open."""
        freeze(self._processes[port].pid)

    def thaw(self, port: int) -> None:
        """Resume a server's process."""
        self._processes[port].send_signal(signal.SIGCONT)

    def hold_back(self) -> None:
        """Freeze the replicas, and fill the kernel's buffers, so that they receive nothing more."""
        primary = self.primary
        for port in self.replicas:
            self.freeze(port)
        self.on(primary, "SET", self.filler, FILLER, "PX", "1")

    def on(self, port: int, *command: str) -> Reply:
        """Send a command to a server, and return its reply."""
        return ask(Address(host="127.0.0.1", port=port, tls=self._tls), command)[0]

    def folder_of(self, port: int) -> Path:
        """Return the folder of a server; create it if it is missing."""
        folder = self._folder / str(port)
        folder.mkdir(exist_ok=True)
        return folder

    def run(self, port: int, *arguments: str) -> None:
        """Start a server's process."""
        self._processes[port] = subprocess.Popen(
            [self._program, *arguments],
            cwd=self.folder_of(port),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def wait_for(self, port: int) -> None:
        """Wait until a server answers."""
        wait_until(lambda: self._answers(port), what=lambda: f"a server on {port}")

    def _answers(self, port: int) -> bool:
        try:
            return self.on(port, "PING") == "PONG"
        except (OSError, RefusedError):
            return False
