"""Server-sent events: from a task, a route or a script to every open browser."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from vibetuner.sse.broadcast import broadcast

if TYPE_CHECKING:
    from fastapi import APIRouter

__all__ = ["broadcast", "sse_endpoint"]

F = TypeVar("F", bound=Callable[..., Any])


def sse_endpoint(
    path: str,
    *,
    router: APIRouter,
    first: Callable[[str], Awaitable[tuple[str, Any]]] | None = None,
    **options: Any,
) -> Callable[[F], F]:
    """Serve the events of the channel whose name the decorated function returns.

    The function, sync or async, is a FastAPI dependency: it takes path and query parameters, the
    request and other dependencies, and may refuse with an HTTPException. A browser that reconnects
    gets the events that it missed. If they are no longer kept, it gets one event ``reset``, which
    tells the page to fetch its state again.

    ``first`` makes the current state the first event: it gets the channel, and returns an event's
    name and data. It is called once the browser is subscribed, so no later event is missed, and
    again after each ``reset``. An exception in it ends the stream, and the browser reconnects.
    ``options`` are passed to ``router.add_api_route``.

    A client that has SSE_STREAMS_PER_CLIENT streams open is answered with 429. While the process
    has SSE_STREAMS streams open, every client is answered with 503. Both responses have
    ``Retry-After``.
    """

    def register(function: F) -> F:
        # A worker imports this package too, and does not need the web framework.
        from vibetuner.sse.stream import add_events_route  # noqa: PLC0415

        add_events_route(router, path, function, first, options)
        return function

    return register
