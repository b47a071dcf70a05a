"""Recovery: tasks across stops, kills and outages."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from coredis import Redis

from tests.listeners import open_proxy
from tests.processes import free_port, vibetuner
from tests.valkey import Valkey
from tests.workshop import Workshop
from vibetuner.redis.url import Address


@pytest.fixture
def workshop(servers: Any, tmp_path: Path) -> Workshop:
    """Return a workshop that uses the session's Valkey."""
    return Workshop(tmp_path, servers.urls["redis"])


async def test_a_planned_stop_lets_a_task_finish(workshop: Workshop):
    """After SIGTERM, a running task may finish within WORKER_GRACE_PERIOD seconds."""
    with workshop.worker(WORKER_GRACE_PERIOD="20") as worker:
        await workshop.begin(seconds=2)
        assert worker.stop(signal.SIGTERM) == 0

    assert workshop.lines == ["begun, try 1", "done"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_a_planned_stop_costs_no_try(workshop: Workshop, stop: signal.Signals):
    """A task that the grace period cuts short is requeued, and starts again at attempt 1."""
    for begun in (1, 2, 3):
        with workshop.worker(WORKER_GRACE_PERIOD="0") as worker:
            if begun == 1:
                await workshop.begin(seconds=30)
            workshop.wait_for(*["begun, try 1"] * begun)
            assert worker.stop(stop) == 0


async def test_a_second_signal_stops_at_once(workshop: Workshop):
    """A second signal stops the worker at once, in the middle of its grace period."""
    with workshop.worker(WORKER_GRACE_PERIOD="60") as worker:
        await workshop.begin(seconds=60)
        worker.process.send_signal(signal.SIGTERM)
        worker.wait_for("received SIGTERM; stopping")
        await asyncio.sleep(1.1)  # until then a second signal is the same one
        assert worker.process.poll() is None
        worker.stop(signal.SIGTERM, seconds=20)


async def test_the_tasks_of_a_killed_worker_start_again(workshop: Workshop):
    """The tasks of a killed worker start again on another, and the loss counts as a try."""
    with workshop.worker() as worker:
        await workshop.begin(seconds=2)
        worker.stop(signal.SIGKILL)
    with workshop.worker():
        workshop.wait_for("begun, try 1", "begun, try 2", "done")


async def test_a_worker_waits_for_redis_and_goes_on(tmp_path: Path):
    """A worker that loses Redis logs that once, waits for it, and then runs tasks again."""
    with Valkey(tmp_path) as valkey:
        workshop = Workshop(tmp_path, valkey.url)
        with workshop.worker() as worker:
            valkey.kill()
            worker.wait_for("lost Redis")
            await asyncio.sleep(2)
            valkey.start()
            worker.wait_for("Redis is back")
            await workshop.begin(seconds=0)
            workshop.wait_for("begun, try 1", "done")
            assert worker.output.count("trying again") == 1


async def test_a_worker_survives_a_flushed_redis(tmp_path: Path):
    """After FLUSHALL, a running worker goes on and runs new tasks."""
    with Valkey(tmp_path) as valkey:
        workshop = Workshop(tmp_path, valkey.url)
        with workshop.worker() as worker:
            async with Redis.from_url(valkey.url) as redis:
                await redis.flushall()
            await workshop.begin(seconds=0)
            workshop.wait_for("begun, try 1", "done")
            assert worker.process.poll() is None


async def test_a_worker_waits_for_mongodb_at_its_start(workshop: Workshop, servers: Any):
    """A worker logs once that MongoDB is missing, and is ready as soon as it answers."""
    port, log = free_port(), workshop.journal.with_name("log")
    variables = workshop.variables | {"MONGODB_URL": f"mongodb://127.0.0.1:{port}/workshop"}
    arguments = ("run", "prod", "worker", "--port", str(free_port()))
    with vibetuner(*arguments, folder=workshop.root, log=log, environment=variables) as worker:
        await asyncio.to_thread(worker.wait_for, "can't be used")
        there = urlsplit(servers.urls["mongodb"])
        async with open_proxy(Address(host=there.hostname or "", port=there.port or 0), port=port):
            await asyncio.to_thread(worker.wait_for, "worker ready")
            worker.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(worker.process.wait, 60)

    assert worker.output.count("trying again") == 1


async def test_a_blocked_event_loop_ends_its_worker(workshop: Workshop):
    """The watchdog ends a worker whose event loop is blocked, and names the blocking line."""
    with workshop.worker(WORKER_WATCHDOG_TIMEOUT="1") as worker:
        await workshop.enqueue("block")

        assert worker.process.wait(60) == 70
        assert "jobs.py:" in worker.output
        assert "block()" in worker.output
