"""A production web process under tight limits, and an honest client beside the abuse."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.processes import Command, free_port, vibetuner, wait_for_http
from tests.projects import write_project

KEY = "a key that the tests share, and nobody else"
FILES = 300

ROUTES = """
    from fastapi import APIRouter, UploadFile

    router = APIRouter()


    @router.post("/signup")
    async def upload(file: UploadFile) -> int:
        return file.size or 0


    @router.post("/large", max_body_size=5_000_000)
    async def upload_more(file: UploadFile) -> int:
        return file.size or 0


    @router.get("/name")
    async def name() -> str:
        return "shop"
"""
TUNE = """
    from shop.routes import router
    from vibetuner import VibetunerApp

    app = VibetunerApp(routes=[router])
"""


@dataclass
class Besieged:
    """A web process, and what it takes of the machine."""

    command: Command
    port: int
    temporary: Path

    def status_of(self, path: str) -> int:
        """The answer to a GET on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def files(self) -> int:
        """Open descriptors."""
        return len(list(Path(f"/proc/{self.command.process.pid}/fd").iterdir()))

    @property
    def peak_mb(self) -> float:
        """The most memory that it has had, in MB."""
        text = Path(f"/proc/{self.command.process.pid}/status").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1000

    @property
    def log_bytes(self) -> int:
        return self.command.log.stat().st_size

    def connect(self, source: str = "127.0.0.2") -> socket.socket:
        """A connection from an address that is not the honest client's."""
        found = socket.socket()
        found.bind((source, 0))
        found.settimeout(60)
        found.connect(("127.0.0.1", self.port))
        return found


@dataclass
class Honest:
    """A client that asks for /health all the time, and how long each answer took."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@pytest.fixture
def besieged(tmp_path: Path) -> Iterator[Besieged]:
    """``run prod frontend`` that may open 300 files, with a temporary folder of its own."""
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit is not installed")
    folder = write_project(tmp_path / "shop", {"routes.py": ROUTES}, tune=TUNE)
    temporary, port = tmp_path / "temporary", free_port()
    temporary.mkdir()
    with vibetuner(
        *("run", "prod", "frontend", "--port", str(port)),
        folder=folder,
        log=tmp_path / "log",
        environment={"SECRET_KEY": KEY, "TMPDIR": str(temporary)},
        under=("prlimit", f"--nofile={FILES}:{FILES}"),
    ) as command:
        wait_for_http(f"http://127.0.0.1:{port}/health", seconds=60)
        yield Besieged(command, port, temporary)


@pytest.fixture
def honest(besieged: Besieged) -> Callable[[], object]:
    """Have an honest client ask for the length of a block; it must be served within 500 ms."""

    @contextmanager
    def asking() -> Iterator[Honest]:
        client, over = Honest(), threading.Event()

        def ask() -> None:
            while not over.wait(0.05):
                began = time.monotonic()
                try:
                    status = besieged.status_of("/health")
                except OSError as error:
                    client.failures.append(repr(error))
                else:
                    client.seconds.append(time.monotonic() - began)
                    if status != 200:
                        client.failures.append(str(status))

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield client
        finally:
            over.set()
            thread.join()
        assert not client.failures
        ordered = sorted(client.seconds)
        assert len(ordered) >= 5
        assert ordered[int(len(ordered) * 0.95)] < 0.5, ordered[-5:]

    return asking
