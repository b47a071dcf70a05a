"""The monitor's app, without its process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient

from tests.runtime.conftest import Running
from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.frontend.monitor import Attention, create_monitor
from vibetuner.tasks.worker import TaskWorker, get_worker, using_worker
from vibetuner.testing import held_open


@pytest.fixture(autouse=True)
def project(stand_in, settings: Settings) -> Iterator[None]:
    stand_in()
    with using_worker(TaskWorker(settings)):
        yield


async def test_the_monitor_names_the_fault_while_redis_is_away(settings: Settings):
    """The monitor answers 503 with the cure while Redis is away, and works once it is back."""
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1", "mongodb_url": None})
    with using_settings(away):
        app = create_monitor()
        async with held_open(app.router.lifespan_context(app)), visiting(app) as client:
            async with asyncio.timeout(60):
                answer = await client.get("/debug/tasks")
            assert answer.status_code == 503
            assert "Redis at redis://127.0.0.1:1 can&#39;t be used" in answer.text
            for name in ("debug.css", "debug.js"):
                assert (await client.get(f"/debug/tasks/{name}")).status_code == 200
            assert (await client.get("/health")).json()["status"] == "ok"

            with using_settings(settings):

                async def is_shown() -> bool:
                    return (await client.get("/debug/tasks")).status_code == 200

                await eventually(is_shown)


async def test_the_monitor_knows_whether_somebody_looks(settings: Settings):
    """The monitor measures the time since the last request, so that its process can end."""
    attention = Attention()
    async with visiting(create_monitor(attention=attention)) as client:
        attention.last -= 100
        assert attention.idle_seconds >= 100
        await client.get("/health")
        assert attention.idle_seconds < 50


async def test_the_monitor_has_nothing_else(settings: Settings):
    """The monitor serves no schema and no documentation pages."""
    async with visiting(create_monitor()) as client:
        for path in ("/openapi.json", "/docs", "/redoc"):
            assert (await client.get(path)).status_code == 404


def visiting(app) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app), base_url="http://localhost:11111")


async def test_the_first_page_of_the_monitor_is_the_overview(settings: Settings):
    """The monitor's / leads to the overview, and no foreign page can lock it."""
    async with visiting(create_monitor()) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.headers["location"]) == (303, "/debug/tasks")
        foreign = {"Origin": "https://evil.example"}
        assert (await client.post("/_lock-debug", headers=foreign)).status_code == 403


async def test_a_private_monitor_reports_what_its_worker_does(settings: Settings, running: Running):
    """A private monitor's health has the worker's tasks after its first heartbeat.

    A page of another site, whose name leads to this machine, gets none of it.
    """
    worker = get_worker()

    @worker.task(name="mail")
    async def mail() -> None: ...

    app = create_monitor(worker_id=worker.id)
    async with visiting(app) as client:
        before = (await client.get("/health")).json()
        assert (before["status"], before["worker"]) == ("ok", worker.id)
        assert "tasks" not in before
        rebound = await client.get("/health", headers={"Host": "evil.example:11111"})
        assert rebound.json() == {"status": "ok"}
        async with running(worker):

            async def told() -> Any:
                return (await client.get("/health")).json().get("tasks")

            assert await eventually(told) == ["mail"]
            assert (await client.get("/health")).json()["completed"] == 0
