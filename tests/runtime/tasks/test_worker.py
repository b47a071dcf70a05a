"""The worker as something to be opened."""

from __future__ import annotations

import pytest

from vibetuner.config import Settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.tasks.worker import TaskWorker, open_queue


async def test_a_block_inside_a_block_uses_its_connection(settings: Settings):
    """As a script's function does that is called from a route; the outermost block closes it."""
    worker = TaskWorker(settings)
    async with worker:
        redis = worker.redis
        async with worker as inner:
            assert inner.redis is redis
        assert await redis.ping()
    with pytest.raises(ServiceUnavailable, match="The queue is not open here"):
        _ = worker.redis


async def test_it_can_be_opened_again(settings: Settings):
    """In the next test, on the next event loop."""
    for _ in range(2):
        async with open_queue() as queue, open_queue() as same:
            assert queue is same
            assert await queue.redis.ping()
