"""The task queues that ours is compared with: installs each, and runs one once."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

from lab import clean_env, workplace

ADAPTORS = Path(__file__).with_name("adaptors")
RUN_SECONDS = 100
TUNE = """from with_ours import noop

from vibetuner import VibetunerApp

app = VibetunerApp(tasks=[noop])
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """A task queue; ``count`` tasks take it about a second, ``tuned`` ones when it is tuned."""

    title: str
    adaptor: str
    packages: tuple[str, ...]
    count: int
    tuned: int
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """Tasks a second enqueued and drained; milliseconds of each result."""

    enqueued: float
    drained: float
    results: list[float]


PREFORK, THREADS = {"BENCH_POOL": "prefork"}, {"BENCH_POOL": "threads"}
CELERY = ("celery[redis]", "hiredis")
# Engines that use redis-py get hiredis, which is faster than its default parser.
ENGINES = (
    Engine("SAQ", "with_saq", ("saq[redis]", "hiredis", "typing-extensions"), 500, 1000),
    Engine("taskiq", "with_taskiq", ("taskiq", "taskiq-redis", "hiredis"), 500, 1000),
    Engine("dramatiq", "with_dramatiq", ("dramatiq[redis]", "hiredis"), 1000, 2000),
    Engine("arq", "with_arq", ("arq", "hiredis"), 300, 1000),
    Engine("Celery, prefork", "with_celery", CELERY, 400, 800, PREFORK),
    Engine("Celery, threads", "with_celery", CELERY, 400, 600, THREADS),
    Engine("RQ", "with_rq", ("rq", "hiredis"), 40, 250),
    Engine("cauli", "with_cauli", ("cauli", "cauli-worker", "hiredis", "uvloop"), 4000, 4000),
    Engine("tarsk", "with_tarsk", ("tarsk-redis",), 2000, 4000),
    Engine("docket", "with_docket", ("pydocket", "hiredis"), 500, 500),
    Engine("streaq alone", "with_streaq", ("streaq",), 400, 400),
    Engine("ours", "with_ours", (), 4000, 4000),
)  # fmt: skip


def run_once(engine: Engine, url: str, *, tuned: bool) -> Run:
    """Run an engine once on an empty server, in processes of its own."""
    empty(url)
    marks = workplace() / f"marks-{uuid4().hex[:8]}"
    env = clean_env(
        PYTHONPATH=str(ADAPTORS),
        BENCH_URL=url,
        BENCH_TUNED="yes" if tuned else "no",
        BENCH_MARKS=str(marks),
        **engine.env,
        **our_settings(url),
    )
    count = engine.tuned if tuned else engine.count
    try:
        done = subprocess.run(
            [python(engine.packages), ADAPTORS / "measure_one.py", engine.adaptor, url, str(count)],
            cwd=our_project() if engine.title == "ours" else workplace(),
            env=env,
            check=True,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        log = marks.with_suffix(".log")
        said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        raise SystemExit(f"{engine.title} failed:\n{error.stderr}\nIts worker: {said}") from None
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def our_settings(url: str) -> dict[str, str]:
    """Return the settings of a production worker without databases."""
    return {
        "REDIS_URL": url,
        "ENVIRONMENT": "production",
        "SECRET_KEY": "for benchmarks only" * 2,
        "WORKER_CONCURRENCY": "32",
    }


@cache
def our_project() -> Path:
    """Write a project whose only task is the adaptor's."""
    folder = workplace() / "peer"
    package = folder / "src" / "peer"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "tune.py").write_text(TUNE, encoding="utf-8")
    (folder / "pyproject.toml").write_text('[project]\nname = "peer"\n', encoding="utf-8")
    return folder


@cache
def python(packages: tuple[str, ...]) -> Path:
    """Install the newest of these packages into a temporary environment; return its Python."""
    if not packages:
        return Path(sys.executable)
    target = workplace() / f"{packages[0].partition('[')[0]}-env"
    interpreter = target / "bin" / "python"
    for command in (
        ("uv", "venv", "--quiet", "--python", sys.executable, target),
        ("uv", "pip", "install", "--quiet", "--python", interpreter, *packages),
    ):
        subprocess.run(command, cwd=workplace(), env=clean_env(), check=True)
    return interpreter


def versions(engines: Sequence[Engine]) -> str:
    """Return the names and versions of the packages that are measured."""
    show = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    found: dict[str, str] = {}
    for engine in engines:
        names = [package.partition("[")[0] for package in engine.packages]
        command = [python(engine.packages), "-c", show, *names]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found |= zip(names, shown.split(), strict=True)
    return ", ".join(f"{name} {version}" for name, version in found.items())


def empty(url: str) -> None:
    """Delete all keys."""
    server = urlsplit(url)
    with socket.create_connection((server.hostname or "", server.port or 6379)) as line:
        line.sendall(b"FLUSHALL\r\n")
        answer = line.recv(100)
    if not answer.startswith(b"+OK"):
        raise SystemExit(f"the server can't be emptied: {answer!r}")
