"""Every wait for a frozen Redis, which keeps its connections open, has a limit."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from coredis.exceptions import RedisError

from tests.processes import Command, wait_until
from tests.valkey import Valkey
from tests.workshop import Workshop
from vibetuner.config import using_settings
from vibetuner.errors import VibetunerError
from vibetuner.redis import ANSWER_SECONDS
from vibetuner.redis.client import open_redis
from vibetuner.sse.history import History
from vibetuner.tasks.worker import TaskWorker

pytestmark = pytest.mark.slow

# The longest that a stop takes after the grace period, including the interpreter's exit.
STOP_SECONDS = 30.0


async def stop(worker: Command) -> tuple[int, float]:
    """Send SIGTERM, and return the exit code and the seconds until the exit."""
    began = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    return await asyncio.to_thread(worker.process.wait, 60), time.monotonic() - began


def has_client(port: int) -> bool:
    """Return whether a client is connected to a port of this machine."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return any(one[2].endswith(f":{port:04X}") and one[3] == "01" for one in fields)


async def test_nobody_waits_for_a_frozen_redis_without_limit(
    stand_in: Callable[..., Path], tmp_path: Path
):
    """Each call to a frozen Redis ends in limited time, with an error that names Redis.

    Only result() waits for its own timeout, and a read of the client is no call of ours.
    """
    stand_in()
    with Valkey(tmp_path) as valkey, using_settings(valkey.settings):
        worker = TaskWorker(valkey.settings)

        @worker.task(name="noop")
        async def noop() -> None: ...

        async with worker, open_redis(valkey.settings) as client:
            task = await noop.enqueue()
            history = History(client, valkey.settings)
            with valkey.frozen():
                begun = time.monotonic()
                waits = {
                    "enqueue": noop.enqueue(),
                    "result": task.result(timeout=2),
                    "abort": task.abort(timeout=3),
                    "broadcast": history.send("news", "n", "x"),
                    "get": client.get("key"),
                }
                names = dict(zip(waits, await _ends(*waits.values()), strict=True))
                seconds = time.monotonic() - begun
    for name, error in names.items():
        assert isinstance(error, RedisError | OSError | TimeoutError | VibetunerError), name
        assert not isinstance(error, asyncio.CancelledError)
        if name not in {"result", "get"}:
            assert "Redis" in str(error), name
    assert seconds < 2 * ANSWER_SECONDS


async def test_a_worker_that_has_nothing_to_record_stops_beside_a_frozen_redis(tmp_path: Path):
    """An idle worker exits with 0 at SIGTERM, and logs once that Redis does not answer."""
    with Valkey(tmp_path) as valkey, Workshop(tmp_path, valkey.url).worker() as worker:
        with valkey.frozen():
            code, seconds = await stop(worker)

    assert (code, seconds < STOP_SECONDS) == (0, True), worker.output
    assert worker.output.count("Redis does not answer; what this worker has claimed") == 1
    assert "worker stopped" in worker.output


@pytest.mark.parametrize(
    ("lasting", "grace", "end"), [(1, "20", "done"), (60, "1", "requeued")], ids=["ends", "is cut"]
)
async def test_a_worker_names_the_ends_it_could_not_record(
    tmp_path: Path, lasting: float, grace: str, end: str
):
    """A worker that can't record how a task ended exits with 1, and logs the task and its end.

    The task ends within the grace period, or is cut off after it.
    """
    with Valkey(tmp_path) as valkey:
        workshop = Workshop(tmp_path, valkey.url)
        with workshop.worker(WORKER_GRACE_PERIOD=grace) as worker:
            await workshop.begin(seconds=lasting)
            with valkey.frozen():
                code, seconds = await stop(worker)

    assert (code, seconds < STOP_SECONDS + 1) == (1, True), worker.output
    logged = [line for line in worker.output.splitlines() if "were not recorded" in line]
    assert len(logged) == 1
    assert "the ends of 1 task were not recorded: work" in logged[0]
    assert f"({end})" in logged[0]


async def test_a_worker_stops_at_its_start_beside_a_frozen_redis(tmp_path: Path):
    """A worker that gets SIGTERM while it waits for Redis at its start exits with 0 in seconds."""
    with Valkey(tmp_path) as valkey:
        workshop = Workshop(tmp_path, valkey.url)
        with valkey.frozen(), workshop.worker(is_ready=False) as worker:
            called = asyncio.to_thread(
                wait_until, lambda: has_client(valkey.port), seconds=60, what=lambda: "a connection"
            )
            await called
            code, seconds = await stop(worker)

    assert (code, seconds < 9) == (0, True), worker.output
    assert "worker stopped" in worker.output


async def _ends(*waits: object) -> list[object]:
    return await asyncio.gather(*map(_settled, waits), return_exceptions=True)


async def _settled(wait: object) -> object:
    async with asyncio.timeout(60):
        return await wait  # type: ignore[misc]
