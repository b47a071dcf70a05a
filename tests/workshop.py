"""A project whose workers are real processes, and a journal that its tasks write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.processes import Command, free_port, vibetuner, wait_until
from tests.projects import write_project
from vibetuner.config import Settings, using_settings
from vibetuner.tasks.worker import TaskWorker

__all__ = ["Workshop"]

JOBS = """
    import asyncio
    import time
    from pathlib import Path

    from vibetuner.tasks.robust import robust_task


    @robust_task(max_retries=2, backoff_base=0.1)
    async def work(journal: str, seconds: float) -> None:
        with Path(journal).open("a") as file:
            print("begun, try", work.context.tries, file=file, flush=True)
            await asyncio.sleep(seconds)
            print("done", file=file, flush=True)


    @robust_task(max_retries=1)
    async def block() -> None:
        time.sleep(60)


    @robust_task(max_retries=2, backoff_base=0.1)
    def work_in_a_thread(journal: str, seconds: float) -> None:
        with Path(journal).open("a") as file:
            print("begun, try", work_in_a_thread.context.tries, file=file, flush=True)
            time.sleep(seconds)
            print("done", file=file, flush=True)
"""

TUNE = """
    from shop.jobs import block, work, work_in_a_thread
    from vibetuner import VibetunerApp

    app = VibetunerApp(tasks=[work, block, work_in_a_thread])
"""


class Workshop:
    """A project whose workers are real processes, and a journal that its task writes."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.root = write_project(folder / "project", {"jobs.py": JOBS}, tune=TUNE)
        self.journal = folder / "journal"
        self.journal.touch()
        self.variables = {
            "REDIS_URL": redis_url,
            "REDIS_KEY_PREFIX": f"workshop-{uuid4().hex[:8]}",
            "SECRET_KEY": "a key that the workshop share, and nobody else",
            "ENVIRONMENT": "production",
            "WORKER_IDLE_TIMEOUT": "1",
        }

    @property
    def lines(self) -> list[str]:
        """Return the lines that the task has written."""
        return self.journal.read_text().splitlines()

    @contextmanager
    def worker(
        self, *options: str, under: Sequence[str] = (), is_ready: bool = True, **variables: str
    ) -> Iterator[Command]:
        """Run `vibetuner run prod worker` beside the block; `under` is as in :func:`vibetuner`."""
        log = self.journal.with_name(f"log-{uuid4().hex[:8]}")
        arguments = ("run", "prod", "worker", "--port", str(free_port()), *options)
        environment = self.variables | variables
        with vibetuner(
            *arguments, folder=self.root, log=log, environment=environment, under=under
        ) as command:
            if is_ready:
                command.wait_for("worker ready", seconds=60)
            yield command

    async def enqueue(self, name: str, *arguments: Any) -> None:
        """Enqueue a task by its name, as a process without its code would."""
        async with self.queue() as queue:
            await queue.enqueue_unsafe(name, *arguments)

    async def begin(self, seconds: float, name: str = "work") -> None:
        """Enqueue the task, and wait until a worker has begun it."""
        await self.enqueue(name, str(self.journal), seconds)
        await asyncio.to_thread(wait_until, lambda: self.lines, what=lambda: "a begun task")

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[TaskWorker]:
        """Open the queue in this process."""
        settings = Settings(**{name.lower(): value for name, value in self.variables.items()})
        with using_settings(settings):
            async with TaskWorker(settings) as worker:
                yield worker

    def wait_for(self, *lines: str) -> None:
        """Wait until the journal consists of these lines."""
        wait_until(
            lambda: self.lines == list(lines), seconds=60, what=lambda: f"{lines}, got {self.lines}"
        )
