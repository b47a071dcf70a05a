"""Production processes with the limits of compose.prod.yml, and a well-behaved client."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from tests.forks import MEASURED
from tests.processes import Command, free_port, vibetuner, wait_for_http
from tests.projects import write_project
from tests.valkey import Valkey
from tests.waiting import wait_until

KEY = "a key that the tests share, and nobody else"
TOKEN = "a-token-that-the-tests-share-and-nobody-else"
FILES = 300
COMPOSE = Path(__file__).parents[2] / "template" / "compose.prod.yml.jinja"
HONEST = Path(__file__).with_name("honest.py")
# Seconds for which each request of the well-behaved client may wait, while cores are free. Measured
# code takes twice as long.
SERVED_WITHIN = 1.0 if MEASURED in os.environ else 0.5
LOG_BYTES = 5_000
LEAST = 5

ROUTES = """
    from fastapi import APIRouter, HTTPException, UploadFile
    from streaq import StreaqError

    from shop.jobs import SECRET, add, fail
    from vibetuner.sse import broadcast, sse_endpoint
    from vibetuner.tasks.worker import get_worker

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


    @router.get("/orders/{task_id}")
    async def outcome(task_id: str) -> int:
        try:
            return (await get_worker().result_by_id(task_id, timeout=5)).result
        except StreaqError as error:
            raise HTTPException(404) from error


    @router.get("/broken")
    async def broken() -> None:
        raise ConnectionError(f"no answer from {SECRET}")


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
    """A web process, a worker or their Redis, and its use of resources.

    It may open FILES descriptors and use as much memory as its container, which counts the files in
    its temporary folder, too.
    """

    service: str
    command: Command
    temporary: Path
    pid: int = field(init=False)

    def __post_init__(self) -> None:
        self.pid = self.command.process.pid

    @property
    def files(self) -> int:
        """Return the number of open descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @property
    def peak(self) -> int:
        """Return the peak of the process's memory, in bytes."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    @property
    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

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
    """The response times of a well-behaved client during the block, and the peaks of each part.

    ``seconds`` are those in which a core was free for server and client, ``elapsed`` all.
    """

    seconds: list[float] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    files: int = 0
    disk: int = 0


class WithinLimits(Protocol):
    """Sends requests during the block, and asserts the limits at its end."""

    def __call__(
        self, *parts: Part, log: int = LOG_BYTES, peak: int = 0
    ) -> AbstractContextManager[Seen]: ...


@contextmanager
def started(
    tmp_path: Path, service: str, mode: str = "prod", **environment: str
) -> Iterator[ListeningPart]:
    """Run ``run prod frontend`` or ``worker`` of the project in ``shop``, under its limits."""
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit is not installed")
    temporary, port = tmp_path / f"{service}-temporary", free_port()
    temporary.mkdir()
    memory = memory_limit(service)
    with vibetuner(
        *("run", mode, "frontend" if service == "web" else service, "--port", str(port)),
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
    server: Part
    folder: Path
    environment: dict[str, str]

    @property
    def parts(self) -> Sequence[Part]:
        return self.web, self.worker, self.server


@pytest.fixture
def shop(tmp_path: Path, project: Path) -> Iterator[Shop]:
    """Yield a web process and a worker with a Redis of their own."""
    with ExitStack() as stack:
        redis = stack.enter_context(Valkey(tmp_path))
        server = Part("valkey", Command(redis.process, tmp_path / "valkey.log"), tmp_path / "none")
        server.command.log.touch()
        environment = {"REDIS_URL": redis.url, "REDIS_KEY_PREFIX": "shop:", "SECRET_KEY": KEY}
        web = stack.enter_context(started(tmp_path, "web", **environment))
        worker = stack.enter_context(started(tmp_path, "worker", **environment))
        wait_for_http(f"{web.url}/health", seconds=60)
        worker.command.wait_for("worker ready", seconds=60)
        yield Shop(web, worker, redis, server, project, environment)


@contextmanager
def served(web: ListeningPart, seen: Seen) -> Iterator[None]:
    """Let a well-behaved client in a process of its own send requests for the length of the block.

    At the end, it has had a few responses at least.
    """
    command = [sys.executable, "-IS", str(HONEST), str(web.port), str(web.pid)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None

        def read(lines: Iterable[str]) -> None:
            for line in lines:
                took, without_a_core, status = line.rstrip("\n").split(" ", 2)
                seen.elapsed.append(float(took))
                seen.seconds.append(max(0.0, float(took) - float(without_a_core)))
                if status != "200":
                    seen.failures.append(status)

        reader = threading.Thread(target=read, args=(client.stdout,))
        reader.start()
        try:
            yield
            wait_until(lambda: len(seen.seconds) >= LEAST, seconds=60)
        finally:
            client.stdin.close()
            reader.join()


@pytest.fixture
def within_limits(request: pytest.FixtureRequest) -> WithinLimits:
    """Let a well-behaved client send requests during the block, and assert the limits.

    Each request of the client must be answered in time. No part may use more memory, together with
    its temporary folder, than ``peak`` or else its container's limit, nor open all its descriptors,
    nor write more than ``log`` bytes.
    """

    @contextmanager
    def holding(*parts: Part, log: int = LOG_BYTES, peak: int = 0) -> Iterator[Seen]:
        seen, over = Seen(), threading.Event()
        web = next(
            part for part in parts if isinstance(part, ListeningPart) and part.service == "web"
        )
        written = {part.service: part.log_bytes for part in parts}

        def look() -> None:
            while not over.wait(0.05):
                seen.files = max(seen.files, *(part.files for part in parts))
                seen.disk = max(seen.disk, *(part.disk for part in parts))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            with served(web, seen):
                yield seen
        finally:
            over.set()
            thread.join()
        slowest = max(seen.seconds)
        print(
            f"{request.node.name}: {len(seen.seconds)} honest answers, the slowest in "
            f"{slowest * 1000:.0f} ms ({max(seen.elapsed) * 1000:.0f} with waits for a core), "
            f"{seen.files} descriptors, "
            + ", ".join(
                f"{part.service} {part.peak / 1e6:.0f} MB and "
                f"{part.log_bytes - written[part.service]} bytes of log"
                for part in parts
            )
        )
        assert not seen.failures
        assert slowest < SERVED_WITHIN, sorted(seen.seconds)[-5:]
        assert seen.files < FILES
        for part in parts:
            assert part.command.process.poll() is None, part.command.output
            assert part.peak + seen.disk < (peak or memory_limit(part.service))
            assert part.log_bytes - written[part.service] < log, part.command.output[-2000:]

    return holding
