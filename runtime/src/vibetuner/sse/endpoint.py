"""An event stream as a route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Request

from vibetuner.sse.event import check_channel
from vibetuner.sse.stream import EventStream

__all__ = ["add_stream_route", "sse_endpoint"]

F = TypeVar("F", bound=Callable[..., Any])


def sse_endpoint(path: str, *, router: APIRouter, **options: Any) -> Callable[[F], F]:
    """Serve the event stream of the channel whose name the decorated function returns.

    The function, sync or async, is a FastAPI dependency: it takes path and query parameters,
    the request and other dependencies, and may refuse with an HTTPException. A browser that
    returns gets what it has missed; where that is gone, one event ``reset`` tells it to fetch its
    state anew. ``options`` go to ``router.add_api_route``.
    """

    def register(function: F) -> F:
        async def endpoint(request: Request, channel: str = Depends(function)) -> EventStream:
            try:
                check_channel(channel)
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
            return EventStream(channel, last_id=EventStream.last_id_of(request))

        add_stream_route(router, path, endpoint, function, options)
        return function

    return register


def add_stream_route(
    router: APIRouter,
    path: str,
    endpoint: Callable[..., Any],
    function: Callable[..., Any],
    options: dict[str, Any],
) -> None:
    """Register ``endpoint`` under the name and description of ``function``, as an event stream."""
    endpoint.__name__ = getattr(function, "__name__", "events")
    endpoint.__doc__ = function.__doc__
    router.add_api_route(
        path,
        endpoint,
        methods=["GET"],
        response_class=EventStream,
        response_model=None,
        **{"response_description": "Server-sent events, until either side leaves", **options},
    )
