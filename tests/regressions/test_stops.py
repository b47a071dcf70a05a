"""Stop signals: two at once count as one, threads delay no stop, and no attempt is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Command, free_port, vibetuner
from tests.workshop import Workshop

# This starts a new process group, which `uv run` leads.
UV_RUN_IN_A_GROUP = (
    sys.executable,
    "-c",
    "import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])",
    *("uv", "run", "--no-project", "--"),
)


@pytest.fixture
def workshop(servers: Any, tmp_path: Path) -> Workshop:
    """Return a workshop that uses the session's Valkey."""
    return Workshop(tmp_path, servers.urls["redis"])


def signal_twice(worker: Command) -> None:
    """Send SIGTERM twice, as if it came to the whole group and `uv run` forwarded it, too."""
    os.kill(worker.process.pid, signal.SIGTERM)
    time.sleep(0.02)
    with suppress(ProcessLookupError):  # without a grace period it may be gone by now
        os.kill(worker.process.pid, signal.SIGTERM)


async def exit_code_of_the_group(
    workshop: Workshop, *options: str, seconds: float, grace: str
) -> int:
    """Start a task below `uv run`, send its process group SIGTERM, and return the exit code."""
    with workshop.worker(*options, under=UV_RUN_IN_A_GROUP, WORKER_GRACE_PERIOD=grace) as group:
        await workshop.begin(seconds)
        os.killpg(group.process.pid, signal.SIGTERM)
        return await asyncio.to_thread(group.process.wait, 60)


@pytest.mark.slow
async def test_two_signals_at_once_let_a_task_finish(workshop: Workshop):
    """Two signals at once count as one: the task finishes, and the worker exits with 0."""
    with workshop.worker(WORKER_GRACE_PERIOD="30") as worker:
        await workshop.begin(seconds=2)
        signal_twice(worker)
        assert await asyncio.to_thread(worker.process.wait, 60) == 0

    assert workshop.lines == ["begun, try 1", "done"]


@pytest.mark.slow
async def test_two_signals_at_once_cost_no_attempt(workshop: Workshop):
    """A task that two signals at once cut off starts again as try 1, however often that happens."""
    for begun in (1, 2, 3):
        with workshop.worker(WORKER_GRACE_PERIOD="0") as worker:
            if begun == 1:
                await workshop.begin(seconds=30)
            workshop.wait_for(*["begun, try 1"] * begun)
            signal_twice(worker)
            assert await asyncio.to_thread(worker.process.wait, 60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["worker", "supervisor"])
async def test_a_signal_to_the_group_of_uv_run_lets_a_task_finish(
    workshop: Workshop, options: tuple[str, ...]
):
    """A process that gets a signal with its group, and again from `uv run`, stops as after one."""
    assert await exit_code_of_the_group(workshop, *options, seconds=2, grace="30") == 0

    assert workshop.lines == ["begun, try 1", "done"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["worker", "supervisor"])
async def test_a_signal_to_the_group_of_uv_run_costs_no_attempt(
    workshop: Workshop, options: tuple[str, ...]
):
    """A task without a grace period is requeued at such a signal, and starts again as try 1."""
    assert await exit_code_of_the_group(workshop, *options, seconds=60, grace="0") == 0
    with workshop.worker(WORKER_GRACE_PERIOD="0"):
        workshop.wait_for("begun, try 1", "begun, try 1")


@pytest.mark.slow
async def test_a_later_signal_requeues_running_tasks(workshop: Workshop):
    """A second signal ends the grace period early, and the task starts again as try 1."""
    with workshop.worker(WORKER_GRACE_PERIOD="60") as worker:
        await workshop.begin(seconds=60)
        worker.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(worker.wait_for, "received SIGTERM; stopping")
        await asyncio.sleep(1.1)  # until then a second signal is the same one
        worker.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.process.wait, 60) == 0
    with workshop.worker(WORKER_GRACE_PERIOD="0"):
        workshop.wait_for("begun, try 1", "begun, try 1")


@pytest.mark.slow
async def test_a_thread_does_not_hold_up_a_stop(workshop: Workshop):
    """A worker exits although a sync task still runs in its thread, and logs that.

    The task starts again as try 1.
    """
    with workshop.worker(WORKER_GRACE_PERIOD="1") as worker:
        await workshop.begin(60, "work_in_a_thread")
        worker.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.process.wait, 60) == 0
        assert "leaving without threads that still run: " in worker.output
    with workshop.worker(WORKER_GRACE_PERIOD="0"):
        workshop.wait_for("begun, try 1", "begun, try 1")


@pytest.mark.slow
async def test_a_worker_that_waits_at_its_start_ends_at_once(workshop: Workshop):
    """A worker that waits for a missing MongoDB at its start exits with 0 at a signal."""
    log = workshop.journal.with_name("log")
    variables = workshop.variables | {"MONGODB_URL": f"mongodb://127.0.0.1:{free_port()}/none"}
    arguments = ("run", "prod", "worker", "--port", str(free_port()))
    with vibetuner(*arguments, folder=workshop.root, log=log, environment=variables) as worker:
        await asyncio.to_thread(worker.wait_for, "can't be used", 60)
        signal_twice(worker)
        assert await asyncio.to_thread(worker.process.wait, 60) == 0
