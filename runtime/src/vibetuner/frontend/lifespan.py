"""The lifespan of the web process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from vibetuner.config import get_settings
from vibetuner.context import Context
from vibetuner.lifespan import open_context
from vibetuner.loader import load_project
from vibetuner.redis import answer_seconds, redis_client
from vibetuner.sse.history import history_of
from vibetuner.sse.hub import get_hub
from vibetuner.sse.relay import open_relay
from vibetuner.tasks.worker import get_worker

__all__ = ["base_lifespan", "frontend_lifespan"]

ANSWER_SECONDS = 5.0


@asynccontextmanager
async def base_lifespan() -> AsyncIterator[Context]:
    """Open the configured resources, the queue, and the event relay.

    Without REDIS_URL the pages work, and enqueueing raises an error that names the setting. Redis
    commands have a limit of five seconds here, so that a request gets its response.

    Raises:
        ServiceUnavailable: a configured resource does not answer.
    """
    settings = get_settings()
    patience = answer_seconds.set(ANSWER_SECONDS)
    async with AsyncExitStack() as stack:
        context = await stack.enter_async_context(open_context(settings, load_project()))
        stack.enter_context(get_hub().serving())
        if client := redis_client.peek():
            await stack.enter_async_context(get_worker())
            await stack.enter_async_context(open_relay(history_of(client, settings), get_hub()))
        answer_seconds.reset(patience)
        yield context


def frontend_lifespan() -> AbstractAsyncContextManager[Any]:
    """Return the project's own lifespan if tune.py names one, else :func:`base_lifespan`.

    Entering it raises ServiceUnavailable if a resource does not answer.
    """
    return (load_project().frontend_lifespan or base_lifespan)()
