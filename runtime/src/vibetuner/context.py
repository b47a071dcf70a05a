"""The context of a task: the project's metadata and shared clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from vibetuner.errors import NotConfigured
from vibetuner.state import Slot

if TYPE_CHECKING:
    from httpx2 import AsyncClient

__all__ = ["Context", "ctx", "current_context"]


@dataclass(frozen=True, kw_only=True)
class Context:
    """The value that lifespans yield. Extend it with a subclass, or with ``dataclasses.replace``.

    Args:
        project_name: the project's name, for people.
        project_slug: the project's name, for machines.
        version: the project's version.
        environment: development, test or production.
        debug: whether DEBUG is set.
        http_client: a shared HTTP client, closed with the process.
    """

    project_name: str
    project_slug: str
    version: str
    environment: str
    debug: bool
    http_client: AsyncClient


current_context: Slot[Context] = Slot(
    lambda: NotConfigured(
        "There is no context here. Use it inside a task, a route, or `async with base_lifespan():`"
    )
)


class _CurrentContext:
    """Passes every attribute on to the context that is open in the process."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # tools probe for these
            raise AttributeError(name)
        return getattr(current_context.get(), name)

    def __repr__(self) -> str:
        return f"<ctx: {current_context.peek()!r}>"


ctx = cast("Context", _CurrentContext())
