"""How long is it from `copier copy` to the first finished task, with a warm package cache?"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from copying import COPIER
from lab import Figure, clean_env, sources, workplace
from worker import free_port

ROUNDS = 3
NOTE = """\
The existing product is not measured: its package on PyPI contains no template, its command copies \
one from GitHub, and its worker needs a Redis that Docker runs. This machine had neither a network \
nor a container engine."""
# A worker with embedded servers, and a client that enqueues one task and waits for its end.
CLIENT = """
import asyncio
from vibetuner.tasks.worker import open_queue
from my_project.tasks.greet import greet

async def main():
    async with open_queue():
        task = await greet.enqueue("42")
        result = await task.result(timeout=60)
        assert result.success, result.exception

asyncio.run(main())
"""


def measure(*, beside: bool) -> list[Figure]:
    """Copy, install, generate a task, run a worker, enqueue, result."""
    del beside  # see NOTE
    runs = [one_start(number) for number in range(ROUNDS + 1)][1:]
    copied, installed, generated, finished = (median(column) for column in zip(*runs, strict=True))
    return [
        Figure(what="`copier copy` to the first finished task", ours=finished, unit="ms"),
        Figure(what="of that, until it is copied", ours=copied, unit="ms"),
        Figure(what="until `uv sync` has installed", ours=installed, unit="ms"),
        Figure(what="until `vibetuner new task` has written one", ours=generated, unit="ms"),
    ]


def one_start(number: int) -> tuple[float, float, float, float]:
    """Return milliseconds since the beginning at each step; the first run warms the cache."""
    project = workplace() / f"cold-{number}"
    began = time.perf_counter()
    times: list[float] = []

    def step(command: Sequence[str | Path], cwd: Path = project) -> None:
        subprocess.run(command, cwd=cwd, env=clean_env(), check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - began) * 1000)

    binaries = project / ".venv" / "bin"
    step([COPIER, "copy", "--quiet", "--defaults", sources(), project], workplace())
    step(["uv", "sync", "--quiet"])
    step([binaries / "vibetuner", "new", "task", "greet"])
    worker = subprocess.Popen(
        [binaries / "vibetuner", "run", "dev", "worker", "--port", str(free_port())],
        cwd=project, env=clean_env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        step([binaries / "python", "-c", CLIENT])
    finally:
        worker.terminate()
        worker.wait(60)
    shutil.rmtree(project, ignore_errors=True)
    return times[0], times[1], times[2], times[3]
