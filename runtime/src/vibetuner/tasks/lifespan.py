"""The lifespan of a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any

from vibetuner.config import get_settings
from vibetuner.context import Context
from vibetuner.lifespan import open_context
from vibetuner.loader import load_project
from vibetuner.redis import redis_client
from vibetuner.resources.slots import mongo_database

__all__ = ["base_lifespan", "worker_lifespan"]


@asynccontextmanager
async def base_lifespan() -> AsyncIterator[Context]:
    """Open MongoDB, SQL and Redis if they are configured, and close them at the end.

    In the block, dead letters are moved from Redis to MongoDB.

    Raises:
        ServiceUnavailable: a configured resource does not answer.
    """
    settings = get_settings()
    async with AsyncExitStack() as stack:
        context = await stack.enter_async_context(open_context(settings, load_project()))
        redis, database = redis_client.peek(), mongo_database.peek()
        if redis is not None and database is not None:
            letters = import_module("vibetuner.tasks.letters.mongo")  # loads the driver
            store = letters.MongoStore(redis, settings.redis_key_prefix, database)
            await stack.enter_async_context(letters.relaying(store))
        yield context


def worker_lifespan() -> AbstractAsyncContextManager[Any]:
    """Return the project's own lifespan if tune.py names one, else :func:`base_lifespan`.

    Entering it raises ServiceUnavailable if a resource does not answer.
    """
    return (load_project().worker_lifespan or base_lifespan)()
