"""Opens the configured resources, in order, and closes them in reverse."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from anyio import CancelScope

from vibetuner.app import VibetunerApp
from vibetuner.config import Settings
from vibetuner.context import Context, HttpClient, current_context
from vibetuner.embedded import open_services
from vibetuner.project import find_root, project_info
from vibetuner.resources.table import RESOURCES, find_unset, probe_tables

if TYPE_CHECKING:
    from httpx2 import AsyncClient

logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_context(settings: Settings, project: VibetunerApp) -> AsyncIterator[Context]:
    """Open each configured resource, and yield the process's context.

    Whatever happens in the block, or while a resource is opened, the open ones are closed.

    Raises ServiceUnavailable if a configured resource does not answer.
    """
    with CancelScope() as scope:
        async with AsyncExitStack() as stack:
            settings = await stack.enter_async_context(open_services(settings))
            for unset in find_unset(settings, project):
                kind = "tasks" if unset.name == "Redis" else "models"
                logger.warning("%s of tune.py can't be used: %s", kind, unset.problem)
            for resource in RESOURCES:
                if resource.enabled(settings):
                    await stack.enter_async_context(resource.open(settings, project))
            if settings.environment == "production":  # development has run the migrations
                for one in await probe_tables(settings, project.sql_models):
                    if one.problem:
                        logger.warning("%s", one.problem)
            client = HttpClient()
            stack.push_async_callback(client.close)
            context = make_context(settings, client)
            try:
                yield stack.enter_context(current_context.hold(context))
            finally:
                # Closing awaits, and a cancellation from outside would interrupt it.
                scope.shield = True


def make_context(settings: Settings, client: AsyncClient | HttpClient) -> Context:
    """Return a context with the project's metadata and a client."""
    project = project_info() if find_root() else None
    return Context(
        project_name=project.name if project else settings.queue_name,
        project_slug=project.slug if project else settings.queue_name,
        version=project.version if project else "0",
        environment=settings.environment,
        debug=settings.debug,
        http_client=client,
    )
