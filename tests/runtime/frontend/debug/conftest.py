"""The dashboard of a small project, with a queue of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from httpx2 import ASGITransport, AsyncClient

from vibetuner.config import Settings, using_settings
from vibetuner.frontend.app import create_app
from vibetuner.tasks.progress import Progress
from vibetuner.tasks.worker import TaskWorker, using_worker
from vibetuner.testing import held_open

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def worker(stand_in, settings: Settings) -> Iterator[TaskWorker]:
    """Yield the process's worker, with tasks of which one is named by an attacker."""
    stand_in()
    with using_worker(register(TaskWorker(settings))) as worker:
        yield worker


@pytest.fixture
def runner(worker: TaskWorker, settings: Settings) -> TaskWorker:
    """Return another worker on the same queue, to run."""
    return register(TaskWorker(settings))


def register(worker: TaskWorker) -> TaskWorker:
    @worker.task(name="echo")
    async def echo(text: str, password: str = "") -> str:
        return text

    @worker.task(name=HOSTILE)
    async def hostile(text: str) -> str:
        raise ValueError(text)

    @worker.task(name="waits")
    async def waits() -> None:
        await asyncio.sleep(3600)

    @worker.task(name="counts")
    async def counts() -> None:
        progress = Progress(total=4, message="<b>reading</b>")
        await progress.advance()
        await asyncio.sleep(3600)

    @worker.cron("0 3 * * *", name="nightly")
    async def nightly() -> None: ...

    return worker


@pytest.fixture
async def client(worker: TaskWorker, settings: Settings) -> AsyncIterator[AsyncClient]:
    """Yield a client of a web process in development."""
    async with browsing(settings) as client:
        yield client


@asynccontextmanager
async def browsing(settings: Settings) -> AsyncIterator[AsyncClient]:
    """Run a web process in development with these settings; yield a client of it."""
    opened = settings.model_copy(update={"environment": "development", "debug": True})
    with using_settings(opened):
        app = create_app()
        async with held_open(app.router.lifespan_context(app)):
            async with AsyncClient(
                transport=ASGITransport(app),
                base_url="http://localhost",
                headers={"Origin": "http://localhost"},
                follow_redirects=True,
                timeout=30,
            ) as client:
                yield client
