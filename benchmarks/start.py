"""How soon does a worker run its first task with nothing but Redis, and what does it occupy?"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from statistics import median
from uuid import uuid4

from lab import Figure, clean_env, environment, workplace
from worker import free_port

from vibetuner.embedded import join

ROUNDS = 7
NOTE = """Both workers have one task, which waits in the queue when they start. Streaq's is \
started by its own command, ours by `vibetuner run prod worker`, with its monitor's port, journal, \
watchdog, retries and signatures."""

TASK = "    print('first task', flush=True)\n"
STREAQ = f"""
import os
from streaq import Worker

worker = Worker(os.environ["REDIS_URL"], queue_name=os.environ["REDIS_KEY_PREFIX"])


@worker.task()
async def first() -> None:
{TASK}"""
TUNE = """
from starter.tasks.first import first
from vibetuner import VibetunerApp

app = VibetunerApp(tasks=[first])
"""
OURS = f"""
from vibetuner.tasks.robust import robust_task


@robust_task()
async def first() -> None:
{TASK}"""
ENQUEUE = {
    "streaq": "from stock import worker as w, first as t",
    "ours": "from starter.tasks.first import first as t\n"
    "from vibetuner.tasks.worker import get_worker\nw = get_worker()",
}
SEND = """
import asyncio

async def main():
    async with w:
        await t.enqueue()

asyncio.run(main())
"""


def measure(*, beside: bool) -> list[Figure]:
    """Measure from the start of the process to the task's first line; streaq's and ours in turn."""
    del beside
    folder = make_folder()
    seen: dict[str, list[tuple[float, float]]] = {"streaq": [], "ours": []}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for _ in range(ROUNDS):
            for kind, runs in seen.items():
                runs.append(one_start(kind, folder, lease.urls["redis"]))
    [theirs, ours] = (
        [median(column) for column in zip(*runs, strict=True)] for runs in seen.values()
    )
    return [
        Figure(
            what="start to the first task",
            ours=ours[0] * 1000,
            unit="ms",
            aim=f"1.1 times the engine's: {theirs[0] * 1100:.0f}",
            beside=theirs[0] * 1000,
        ),
        Figure(
            what="resident memory then",
            ours=ours[1],
            unit="MiB",
            aim="under 50",
            beside=theirs[1],
        ),
    ]


def make_folder() -> Path:
    """Write a project of ours with one task, and a module with streaq's worker."""
    folder = workplace() / "starter"
    package = folder / "src" / "starter"
    (package / "tasks").mkdir(parents=True)
    for file, text in {
        "stock.py": STREAQ,
        "pyproject.toml": '[project]\nname = "starter"\nversion = "1.0"\n',
        "src/starter/__init__.py": "",
        "src/starter/tune.py": TUNE,
        "src/starter/tasks/__init__.py": "",
        "src/starter/tasks/first.py": OURS,
    }.items():
        (folder / file).write_text(text, encoding="utf-8")
    return folder


def one_start(kind: str, folder: Path, url: str) -> tuple[float, float]:
    """Return the seconds to the first task, and the mebibytes resident then."""
    binaries = environment(dev=False) / "bin"
    env = clean_env(
        REDIS_URL=url,
        REDIS_KEY_PREFIX=f"start-{uuid4().hex[:8]}",
        SECRET_KEY="for benchmarks only" * 2,
        PYTHONPATH=os.pathsep.join((str(folder), str(folder / "src"))),
    )
    sent = [binaries / "python", "-c", ENQUEUE[kind] + SEND]
    subprocess.run(sent, cwd=folder, env=env, check=True, capture_output=True)
    commands = {
        "streaq": [binaries / "streaq", "run", "stock:worker"],
        "ours": [binaries / "vibetuner", "run", "prod", "worker", "--port", str(free_port())],
    }
    began = time.perf_counter()
    with subprocess.Popen(
        commands[kind], cwd=folder, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "first task\n":
                break
        else:
            raise SystemExit(f"{kind} never ran its task:\n{''.join(lines)}")
        seconds = time.perf_counter() - began
        resident = rss(process.pid)
        process.kill()
    return seconds, resident


def rss(pid: int) -> float:
    """Return the resident mebibytes."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) / 1024
