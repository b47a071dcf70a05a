"""A Redis that is frozen, and hangs up on nobody: every wait for it has a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from coredis.exceptions import RedisError

from tests.valkey import Valkey
from vibetuner.config import using_settings
from vibetuner.errors import VibetunerError
from vibetuner.redis import ANSWER_SECONDS
from vibetuner.redis.client import open_redis
from vibetuner.sse.history import history_of
from vibetuner.tasks.worker import TaskWorker

pytestmark = pytest.mark.slow


async def test_nobody_waits_for_a_frozen_redis_without_limit(
    stand_in: Callable[..., Path], tmp_path: Path
):
    """To enqueue, to ask, to abort, to broadcast: each ends with an error that names Redis."""
    stand_in()
    with Valkey(tmp_path) as valkey, using_settings(valkey.settings):
        worker = TaskWorker(valkey.settings)

        @worker.task(name="noop")
        async def noop() -> None: ...

        async with worker, open_redis(valkey.settings) as client:
            task = await noop.enqueue()
            history = history_of(client, valkey.settings)
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
    assert seconds < 2 * ANSWER_SECONDS


async def _ends(*waits: object) -> list[object]:
    return await asyncio.gather(*map(_settled, waits), return_exceptions=True)


async def _settled(wait: object) -> object:
    async with asyncio.timeout(60):
        return await wait  # type: ignore[misc]
