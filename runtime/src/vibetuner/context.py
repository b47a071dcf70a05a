"""The context of a task: the project's metadata and shared clients."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from vibetuner.errors import NotConfigured
from vibetuner.state import Slot

if TYPE_CHECKING:
    from httpx2 import AsyncClient

__all__ = ["Context", "HttpClient", "ctx", "current_context"]


class HttpClient:
    """An HTTP client that is created on first use, as its library is slow to import."""

    def __init__(self) -> None:
        self._client: AsyncClient | None = None
        self._is_closed = False

    def get(self) -> AsyncClient:
        """Return the client, and create it if necessary.

        Raises:
            NotConfigured: it was closed before its first use.
        """
        if self._client is None:
            if self._is_closed:
                raise NotConfigured("This context is closed, and its HTTP client with it.")
            self._client = import_module("httpx2").AsyncClient()
        return self._client

    async def close(self) -> None:
        """Close the client if there is one, and create none from now on."""
        self._is_closed = True
        if self._client is not None:
            await self._client.aclose()


class _MadeOnFirstUse:
    """A field that holds a client or an :class:`HttpClient`, and returns a client when read."""

    def __get__(self, context: Context | None, owner: type[Context]) -> AsyncClient:
        if context is None:
            raise AttributeError  # the field has no default
        held: AsyncClient | HttpClient = vars(context)["http_client"]
        return held.get() if isinstance(held, HttpClient) else held

    def __set__(self, context: Context, held: AsyncClient | HttpClient) -> None:
        vars(context)["http_client"] = held


@dataclass(frozen=True, kw_only=True)
class Context:
    """The value that lifespans yield. Extend it with a subclass, or with ``dataclasses.replace``.

    Args:
        project_name: the project's name, for people.
        project_slug: the project's name, for machines.
        version: the project's version.
        environment: development, test or production.
        debug: whether DEBUG is set.
        http_client: a shared HTTP client, made at its first use, closed with the process.
    """

    project_name: str
    project_slug: str
    version: str
    environment: str
    debug: bool
    http_client: _MadeOnFirstUse = _MadeOnFirstUse()


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
