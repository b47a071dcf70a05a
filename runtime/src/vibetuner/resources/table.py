"""The resources, each with the setting that enables it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from vibetuner.app import VibetunerApp
from vibetuner.config import Settings

__all__ = ["RESOURCES", "Resource"]

Opener = Callable[[Settings, VibetunerApp], AbstractAsyncContextManager[Any]]
Check = Callable[[Settings], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Resource:
    """An outside system that a lifespan opens when its setting is not empty.

    The module is named, not imported, so that a process loads only the drivers that it uses.
    """

    name: str
    setting: str
    module: str

    def enabled(self, settings: Settings) -> bool:
        """Return whether its setting holds a value."""
        return bool(getattr(settings, self.setting))

    def open(self, settings: Settings, project: VibetunerApp) -> AbstractAsyncContextManager[Any]:
        """Open the resource for the length of the block."""
        return cast("Opener", import_module(self.module).open_resource)(settings, project)

    @property
    def outages(self) -> tuple[type[Exception], ...]:
        """Return the errors that its driver raises if it does not answer."""
        return cast("tuple[type[Exception], ...]", import_module(self.module).OUTAGES)

    def load(self) -> None:
        """Import its driver."""
        import_module(self.module)

    async def check(self, settings: Settings) -> None:
        """Make one round trip; raise ServiceUnavailable if there is no answer."""
        await cast("Check", import_module(self.module).check)(settings)


RESOURCES = (
    Resource("Redis", "redis_url", "vibetuner.redis.client"),
    Resource("MongoDB", "mongodb_url", "vibetuner.resources.mongo"),
    Resource("SQL database", "database_url", "vibetuner.resources.sql"),
)
