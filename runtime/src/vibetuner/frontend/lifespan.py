"""The lifespan of the web process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from vibetuner.config import get_settings
from vibetuner.context import Context
from vibetuner.lifespan import open_context
from vibetuner.loader import load_project
from vibetuner.redis import redis_client
from vibetuner.sse.history import History
from vibetuner.sse.hub import get_hub
from vibetuner.sse.relay import open_relay
from vibetuner.state import for_requests
from vibetuner.tasks.worker import get_worker

__all__ = ["base_lifespan", "frontend_lifespan"]


@asynccontextmanager
async def base_lifespan() -> AsyncIterator[Context]:
    """Open the configured resources, the queue, and the event relay.

    Without REDIS_URL the pages work, and enqueueing raises an error that names the setting. Outside
    systems have five seconds to answer a request, and SQL has DATABASE_ANSWER_TIMEOUT.

    Raises:
        ServiceUnavailable: a configured resource does not answer.
    """
    settings = get_settings()
    async with AsyncExitStack() as stack:
        with for_requests():
            context = await stack.enter_async_context(open_context(settings, load_project()))
            stack.enter_context(get_hub().serving())
            if client := redis_client.peek():
                await stack.enter_async_context(get_worker())
                relay = open_relay(History(client, settings), get_hub())
                await stack.enter_async_context(relay)
        yield context


def frontend_lifespan() -> AbstractAsyncContextManager[Any]:
    """Return the project's own lifespan if tune.py names one, else :func:`base_lifespan`.

    Entering it raises ServiceUnavailable if a resource does not answer.
    """
    return (load_project().frontend_lifespan or base_lifespan)()
