"""A frozen Redis, which keeps its connections open, delays no task and no request for long."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.valkey import Valkey
from vibetuner.config import using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.client import open_resource
from vibetuner.sse.history import open_history
from vibetuner.tasks.attempt import Attempt
from vibetuner.tasks.engine import running_attempt
from vibetuner.tasks.progress import Progress, watch_progress
from vibetuner.tasks.worker import TaskWorker, using_worker


async def test_a_task_that_reports_waits_once_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A task waits for a frozen Redis at one report, logs that once, and then stops waiting."""
    with Valkey(tmp_path) as valkey, using_settings(valkey.settings):
        async with open_resource(valkey.settings, None):
            attempt = Attempt("t")
            attempt.history = open_history()
            token = running_attempt.set(attempt)
            progress = Progress(total=100)
            await progress.advance()
            progress._due = 0.0
            with valkey.frozen():
                began = time.monotonic()
                for _ in range(99):
                    await progress.advance()
                assert time.monotonic() - began < 9
            assert progress.done == 100
            logged = [m for m in caplog.messages if m.startswith("could not publish progress of t")]
            assert len(logged) == 1
            await progress.settle(again=False)
            running_attempt.reset(token)


async def test_a_request_for_progress_is_answered_within_seconds(
    tmp_path: Path, fresh: None, stand_in: Callable[..., Any]
):
    """watch_progress() raises ServiceUnavailable within seconds if Redis is frozen."""
    stand_in()

    async def first(states: AsyncIterator[Any]) -> None:
        async for _ in states:
            break

    with Valkey(tmp_path) as valkey, using_settings(valkey.settings):
        with using_worker(TaskWorker(valkey.settings)) as worker:
            async with worker:
                with valkey.frozen():
                    began = time.monotonic()
                    with pytest.raises(ServiceUnavailable, match="Redis at .* can.t be used"):
                        await first(watch_progress("t"))
                    assert time.monotonic() - began < 15
