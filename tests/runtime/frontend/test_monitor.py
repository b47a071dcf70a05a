"""The page beside a worker."""

from __future__ import annotations

import pytest
from httpx2 import ASGITransport, AsyncClient

from vibetuner.config import Settings
from vibetuner.frontend.monitor import create_monitor
from vibetuner.tasks.worker import TaskWorker


@pytest.fixture
def worker(stand_in, settings: Settings) -> TaskWorker:
    """A worker with a task that works, one that doesn't, and one with a name for attackers."""
    stand_in()
    worker = TaskWorker(settings)

    @worker.task(name="good")
    async def good() -> None: ...

    @worker.task(name="bad")
    async def bad() -> None:
        raise ValueError

    @worker.task(name="<script>")
    async def ugly() -> None: ...

    return worker


@pytest.fixture
async def client(worker: TaskWorker):
    transport = ASGITransport(create_monitor(worker))
    async with AsyncClient(transport=transport, base_url="http://monitor") as client:
        yield client


async def test_a_machine_reads_how_the_worker_has_fared(
    worker: TaskWorker, client: AsyncClient, running, settings: Settings
):
    """Who it is, what it runs, and its counters."""
    async with running(worker):
        for name in ("good", "good", "bad"):
            await (await worker.registry[name].enqueue()).result(timeout=10)
        health = (await client.get("/health")).json()

    assert health == {
        "status": "ok",
        "worker": worker.id,
        "queue": settings.queue_name,
        "concurrency": 16,
        "running": 0,
        "completed": 2,
        "failed": 1,
        "retried": 0,
        "aborted": 0,
        "tasks": ["<script>", "bad", "good"],
    }


async def test_a_person_reads_the_same_as_a_page(worker: TaskWorker, client: AsyncClient):
    """It refreshes itself, is never kept, and escapes what it shows."""
    answer = await client.get("/")

    assert answer.headers["cache-control"] == "no-store"
    assert f"<h1>Worker {worker.id}</h1>" in answer.text
    assert "http-equiv=refresh" in answer.text
    assert "&lt;script&gt;, bad, good" in answer.text
    assert "<script>" not in answer.text


async def test_the_monitor_has_nothing_else(client: AsyncClient):
    """No schema, no documentation pages."""
    for path in ("/openapi.json", "/docs", "/redoc"):
        assert (await client.get(path)).status_code == 404
