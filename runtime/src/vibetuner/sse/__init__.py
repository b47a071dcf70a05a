"""Server-sent events: from a task, a route or a script to every open browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from vibetuner.sse.broadcast import broadcast

if TYPE_CHECKING:
    from fastapi import APIRouter

__all__ = ["broadcast", "sse_endpoint"]

F = TypeVar("F", bound=Callable[..., Any])


def sse_endpoint(path: str, *, router: APIRouter, **options: Any) -> Callable[[F], F]:
    """Serve the events of the channel whose name the decorated function returns.

    The function, sync or async, is a FastAPI dependency: it takes path and query parameters, the
    request and other dependencies, and may refuse with an HTTPException. A browser that reconnects
    gets the events that it missed. If they are no longer kept, it gets one event ``reset``, which
    tells the page to fetch its state again. ``options`` go to ``router.add_api_route``.

    A client with SSE_STREAMS_PER_CLIENT open streams is answered with 429, and any client with 503
    while the process has SSE_STREAMS; both answers carry ``Retry-After``.
    """

    def register(function: F) -> F:
        # A worker imports this package too, and does without the web framework.
        from vibetuner.sse.stream import add_events_route  # noqa: PLC0415

        add_events_route(router, path, function, options)
        return function

    return register
