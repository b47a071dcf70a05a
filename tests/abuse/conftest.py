"""Production processes with the limits of compose.prod.yml, and a well-behaved client."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Protocol

import pytest

from tests.processes import Command, free_port, vibetuner, wait_for_http
from tests.projects import write_project
from tests.valkey import Valkey

KEY = "a key that the tests share, and nobody else"
TOKEN = "a-token-that-the-tests-share-and-nobody-else"
FILES = 300
COMPOSE = Path(__file__).parents[2] / "template" / "compose.prod.yml.jinja"
# Seconds within which half, and 95 %, of the client's requests are answered on shared cores.
SERVED_WITHIN, AT_MOST = 0.5, 2.0
LOG_BYTES = 5_000
LEAST = 5

ROUTES = """
    from fastapi import APIRouter, UploadFile

    from shop.jobs import add, fail
    from vibetuner.sse import broadcast, sse_endpoint

    router = APIRouter()


    @router.post("/signup")
    async def upload(file: UploadFile) -> int:
        return file.size or 0


    @router.post("/large", max_body_size=5_000_000)
    async def upload_more(file: UploadFile) -> int:
        return file.size or 0


    @router.post("/orders", status_code=202)
    async def order(name: str = "add") -> str:
        return (await (fail if name == "fail" else add).enqueue(3)).id


    @router.post("/news", status_code=202)
    async def tell(size: int) -> None:
        await broadcast("news", "n", "x" * size)


    @sse_endpoint("/events", router=router)
    async def events() -> str:
        return "news"
"""
JOBS = """
    from vibetuner.tasks.robust import robust_task

    SECRET = "postgresql://ann:hunter2@db.example/shop"
    SENT = {"api_key": "hunter2"}


    @robust_task(max_retries=1)
    async def add(number: int) -> int:
        return number + 1


    @robust_task(max_retries=1)
    async def fail(number: int) -> None:
        raise ConnectionError(f"no answer from {SECRET} to {SENT}")
"""
TUNE = """
    from shop.jobs import add, fail
    from shop.routes import router
    from vibetuner import VibetunerApp

    app = VibetunerApp(routes=[router], tasks=[add, fail])
"""


def memory_limit(service: str) -> int:
    """Return the memory limit of a service in compose.prod.yml, in bytes."""
    text = COMPOSE.read_text(encoding="utf-8")
    anchor = "x-app: &app" if service == "web" else f"  {service}:"
    found = re.search(r"memory: (\d+)([MG])", text[text.index(f"\n{anchor}\n") :])
    assert found is not None
    return int(found[1]) << {"M": 20, "G": 30}[found[2]]


@dataclass
class Part:
    """A web process or a worker, and its use of resources.

    It may open FILES descriptors and use as much memory as its container, which counts the files in
    its temporary folder, too.
    """

    service: str
    command: Command
    temporary: Path

    @property
    def files(self) -> int:
        """Return the number of open descriptors."""
        return len(list(Path(f"/proc/{self.command.process.pid}/fd").iterdir()))

    @property
    def peak(self) -> int:
        """Return the peak of the process's memory, in bytes."""
        text = Path(f"/proc/{self.command.process.pid}/status").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    @property
    def disk(self) -> int:
        """Return the bytes in the process's temporary folder."""
        return sum(file.stat().st_size for file in self.temporary.rglob("*"))

    @property
    def log_bytes(self) -> int:
        return self.command.log.stat().st_size


@dataclass
class ListeningPart(Part):
    """A process that listens on a port, such as the web process."""

    port: int = 0

    def status_of(self, path: str) -> int:
        """Return the response to a GET on a new connection."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, source: str = "127.0.0.2") -> socket.socket:
        """Open a connection from another address than the well-behaved client's."""
        found = socket.socket()
        found.bind((source, 0))
        found.settimeout(60)
        found.connect(("127.0.0.1", self.port))
        return found


@dataclass
class Seen:
    """The response times of a well-behaved client during the block, and the peaks of each part."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    files: int = 0
    disk: int = 0


class WithinLimits(Protocol):
    """Sends requests during the block, and asserts the limits at its end."""

    def __call__(
        self, *parts: Part, log: int = LOG_BYTES, peak: int = 0
    ) -> AbstractContextManager[Seen]: ...


@contextmanager
def started(tmp_path: Path, service: str, **environment: str) -> Iterator[ListeningPart]:
    """Run ``run prod frontend`` or ``worker`` of the project in ``shop``, under its limits."""
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit is not installed")
    temporary, port = tmp_path / f"{service}-temporary", free_port()
    temporary.mkdir()
    memory = memory_limit(service)
    with vibetuner(
        *("run", "prod", "frontend" if service == "web" else service, "--port", str(port)),
        folder=tmp_path / "shop",
        log=tmp_path / f"{service}.log",
        environment={
            "SECRET_KEY": KEY,
            "DEBUG_ACCESS_TOKEN": TOKEN,
            "TMPDIR": str(temporary),
            **environment,
        },
        limits={"nofile": (FILES, FILES), "data": (memory, memory)},
    ) as command:
        yield ListeningPart(service, command, temporary, port)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Write a project with routes, an event stream and tasks."""
    files = {"routes.py": ROUTES, "jobs.py": JOBS}
    return write_project(tmp_path / "shop", files, tune=TUNE)


@pytest.fixture
def web(tmp_path: Path, project: Path, request: pytest.FixtureRequest) -> Iterator[ListeningPart]:
    """Yield a web process without Redis, whose parser the test may name."""
    environment = {}
    if getattr(request, "param", "") == "h11":  # as without the ``speed`` extra
        (tmp_path / "httptools.py").write_text("raise ImportError", "utf-8")
        environment["PYTHONPATH"] = str(tmp_path)
    with started(tmp_path, "web", **environment) as web:
        wait_for_http(f"{web.url}/health", seconds=60)
        yield web


@dataclass
class Shop:
    """A web process, a worker and their Redis."""

    web: ListeningPart
    worker: Part
    redis: Valkey
    folder: Path
    environment: dict[str, str]

    @property
    def parts(self) -> Sequence[Part]:
        return self.web, self.worker


@pytest.fixture
def shop(tmp_path: Path, project: Path) -> Iterator[Shop]:
    """Yield a web process and a worker with a Redis of their own."""
    with ExitStack() as stack:
        redis = stack.enter_context(Valkey(tmp_path))
        environment = {"REDIS_URL": redis.url, "REDIS_KEY_PREFIX": "shop:", "SECRET_KEY": KEY}
        web = stack.enter_context(started(tmp_path, "web", **environment))
        worker = stack.enter_context(started(tmp_path, "worker", **environment))
        wait_for_http(f"{web.url}/health", seconds=60)
        worker.command.wait_for("worker ready", seconds=60)
        yield Shop(web, worker, redis, project, environment)


@pytest.fixture
def within_limits(request: pytest.FixtureRequest) -> WithinLimits:
    """Let a well-behaved client send requests during the block, and assert the limits.

    The client must be served in time. No part may use more memory, together with its temporary
    folder, than ``peak`` or else its container's limit, nor open all its descriptors, nor write
    more than ``log`` bytes.
    """

    @contextmanager
    def holding(*parts: Part, log: int = LOG_BYTES, peak: int = 0) -> Iterator[Seen]:
        seen, over = Seen(), threading.Event()
        web = next(
            part for part in parts if isinstance(part, ListeningPart) and part.service == "web"
        )
        written = {part.service: part.log_bytes for part in parts}

        def ask() -> None:
            while not over.wait(0.05) or len(seen.seconds) < LEAST:
                if seen.failures:
                    return
                began = time.monotonic()
                try:
                    status = web.status_of("/health")
                except OSError as error:
                    seen.failures.append(repr(error))
                else:
                    seen.seconds.append(time.monotonic() - began)
                    if status != 200:
                        seen.failures.append(str(status))
                seen.files = max(seen.files, *(part.files for part in parts))
                seen.disk = max(seen.disk, *(part.disk for part in parts))

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()
        assert not seen.failures
        ordered = sorted(seen.seconds)
        assert len(ordered) >= LEAST
        quick = ordered[int(len(ordered) * 0.95)]
        print(
            f"{request.node.name}: honest client {quick * 1000:.0f} ms, {seen.files} descriptors, "
            + ", ".join(
                f"{part.service} {part.peak / 1e6:.0f} MB and "
                f"{part.log_bytes - written[part.service]} bytes of log"
                for part in parts
            )
        )
        assert ordered[len(ordered) // 2] < SERVED_WITHIN, ordered[-5:]
        assert quick < AT_MOST, ordered[-5:]
        assert seen.files < FILES
        for part in parts:
            assert part.command.process.poll() is None, part.command.output
            assert part.peak + seen.disk < (peak or memory_limit(part.service))
            assert part.log_bytes - written[part.service] < log, part.command.output[-2000:]

    return holding
