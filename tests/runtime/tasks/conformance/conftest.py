"""streaq's own worker and ours, which behave alike on the test's queue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import pytest
from coredis.exceptions import ConnectionError as Disconnected
from streaq import Worker

from vibetuner.config import Settings
from vibetuner.redis.client import make_client
from vibetuner.tasks.payload import signing_keys
from vibetuner.tasks.worker import TaskWorker

Make = Callable[..., Worker[Any]]

IDLE_SECONDS = 60


def make_stock(settings: Settings, **options: Any) -> Worker[Any]:
    """Return streaq's own worker, which signs with the key that ours derives."""
    worker: Worker[Any] = Worker(
        queue_name=settings.queue_name,
        redis_pool=make_client(settings).connection_pool,
        idle_timeout=options.pop("idle_timeout", IDLE_SECONDS),
        **options,
    )
    worker.signing_secret = signing_keys(settings)[0]
    return worker


def make_ours(
    settings: Settings,
    *,
    concurrency: int = 16,
    priorities: list[str] | None = None,
    idle_timeout: float = IDLE_SECONDS,
    grace_period: int = 0,
) -> TaskWorker:
    """Return our worker, with the options that streaq's constructor takes."""
    worker = TaskWorker(
        settings.model_copy(
            update={
                "worker_concurrency": concurrency,
                "worker_idle_timeout": idle_timeout,
                "worker_grace_period": grace_period,
            }
        )
    )
    if priorities is not None:
        worker.priorities = priorities[::-1]
        worker._streams = {worker.stream_key + name: ">" for name in worker.priorities}
    return worker


MAKERS = {"streaq": make_stock, "vibetuner": make_ours}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest, stand_in, settings: Settings) -> Make:
    """Return a function that makes workers of one kind on the test's queue."""
    stand_in()
    return partial(MAKERS[request.param], settings)


@pytest.fixture
def worker(make: Make) -> Worker[Any]:
    """Return a worker of each kind with its default options."""
    return make()


@asynccontextmanager
async def at_work(worker: Worker[Any]) -> AsyncIterator[None]:
    """Run ``worker`` beside the block, and stop it as a signal does."""
    stopped = False
    try:
        async with anyio.create_task_group() as group:
            await group.start(worker.run_async)
            yield
            if isinstance(worker, TaskWorker):
                worker.stop()
            else:
                stopped = True
                group.cancel_scope.cancel()
    except* Disconnected:
        # streaq's worker raises this if it is cancelled in the middle of a command.
        if not stopped:
            raise


async def drain(worker: Worker[Any]) -> None:
    """Run ``worker`` until its queue is empty."""
    worker.burst = True
    with anyio.fail_after(30):
        await worker.run_async()


def soon(seconds: float) -> timedelta:
    """Return a number of seconds as a timedelta."""
    return timedelta(seconds=seconds)
