"""How soon does a worker finish its first task, and what does it occupy when idle?"""

from __future__ import annotations

import platform
import re
import socket
import subprocess
import time
from pathlib import Path
from statistics import median

from lab import MEBIBYTE, Figure, clean_env, environment, project, started, workplace

from vibetuner.embedded import join

STARTS = 5
SETTLE_SECONDS = 3.0

# The id of a missing user: the task asks the database, finds none and ends.
CLIENT = """
import asyncio
from vibetuner.tasks.worker import get_worker
from {package}.tasks.emails import send_welcome_email

async def main():
    async with get_worker():
        task = await send_welcome_email.enqueue("0" * 24)
        print("enqueued", flush=True)
        result = await task.result(timeout=20)
        print("done" if result.success else f"failed: {{result.exception!r}}", flush=True)

asyncio.run(main())
"""


def measure(*, beside: bool) -> list[Figure]:
    """Start workers with everything configured, against real servers."""
    del beside  # it needs its own generated project, so what others measured is quoted
    with join(workplace() / "services", ("redis", "mongodb"), command="benchmark") as lease:
        env = configured(lease.urls["redis"], lease.urls["mongodb"])
        migrate = [environment(dev=False) / "bin" / "vibetuner", "db", "upgrade"]
        subprocess.run(migrate, cwd=project(), env=clean_env(**env), check=True)
        runs = [one_start(env) for _ in range(STARTS)]
    columns = zip(*runs, strict=True)
    seconds, processes, resident, proportional = (median(column) for column in columns)
    figures = [
        Figure(
            what="`vibetuner run prod worker` to the first task done",
            ours=seconds * 1000,
            unit="ms",
            reported=2300,
        ),
        Figure(what="processes of an idle worker", ours=processes, unit="", reported=2),
        Figure(
            what="resident memory of an idle worker, everything configured",
            ours=resident,
            unit="MiB",
            aim="under 80",
            reported=201,
        ),
    ]
    if proportional:
        what = "its proportional share (PSS)"
        figures.append(Figure(what=what, ours=proportional, unit="MiB"))
    return figures


def configured(redis: str, mongodb: str) -> dict[str, str]:
    """Return every setting of a production worker."""
    return {
        "ENVIRONMENT": "production",
        "REDIS_URL": redis,
        "MONGODB_URL": mongodb,
        "DATABASE_URL": f"sqlite+aiosqlite:///{workplace() / 'app.db'}",
        "SECRET_KEY": "for benchmarks only" * 2,
        "SMTP_URL": "smtp://127.0.0.1:2525",
        "MAIL_FROM": "benchmark@example.com",
    }


def one_start(env: dict[str, str]) -> tuple[float, int, float, float]:
    """Return the seconds to the first finished task, then processes, RSS and PSS when idle."""
    binaries = environment(dev=False) / "bin"
    [tune] = project().glob("src/*/tune.py")
    script = CLIENT.format(package=tune.parent.name)
    with started([binaries / "python", "-c", script], **env) as client:
        expect(client, "enqueued")
        began = time.perf_counter()
        run = ("run", "prod", "worker", "--port", str(free_port()))
        with started((binaries / "vibetuner", *run), **env) as worker:
            try:
                expect(client, "done")
            except SystemExit as failure:
                worker.terminate()
                raise SystemExit(f"{failure}\nThe worker: {worker.communicate()[0]}") from None
            seconds = time.perf_counter() - began
            time.sleep(SETTLE_SECONDS)
            family = [worker.pid, *descendants(worker.pid)]
            return seconds, len(family), sum(map(rss, family)), sum(map(pss, family))


def expect(process: subprocess.Popen[str], word: str) -> None:
    """Wait for a line; any other line ends the benchmark with the process's output."""
    assert process.stdout
    line = process.stdout.readline()
    if line.strip() != word:
        process.terminate()
        raise SystemExit(f"expected {word}, got: {line}{process.stdout.read()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True
    )
    rows = [line.split() for line in table.stdout.splitlines()]
    children = [int(child) for child, parent in rows if int(parent) == pid]
    return [*children, *(far for child in children for far in descendants(child))]


def rss(pid: int) -> float:
    """Return the resident mebibytes."""
    command = ["ps", "-o", "rss=", "-p", str(pid)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(shown.stdout) * 1024 / MEBIBYTE


def pss(pid: int) -> float:
    """Return resident mebibytes, shared pages divided among their users; Linux only."""
    if platform.system() != "Linux":
        return 0
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    found = re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)
    assert found
    return int(found[1]) * 1024 / MEBIBYTE
