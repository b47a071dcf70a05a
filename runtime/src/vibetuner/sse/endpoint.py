"""An event stream as a route."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from vibetuner.sse.hub import Hub, check_channel, get_hub

__all__ = ["EventStream", "sse_endpoint"]

KEEPALIVE_SECONDS = 15.0
RETRY_MS = 1000

F = TypeVar("F", bound=Callable[..., Any])


class EventStream(StreamingResponse):
    """A response that stays open and sends the events of one channel."""

    media_type = "text/event-stream"


def sse_endpoint(path: str, *, router: APIRouter, **options: Any) -> Callable[[F], F]:
    """Serve the event stream of the channel whose name the decorated function returns.

    The function, sync or async, is a FastAPI dependency: it takes path and query parameters,
    the request and other dependencies, and may refuse with an HTTPException. ``options`` go to
    ``router.add_api_route``.
    """

    def register(function: F) -> F:
        async def endpoint(channel: str = Depends(function)) -> EventStream:
            return EventStream(
                _stream(get_hub(), check_channel(channel)),
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            )

        endpoint.__name__ = getattr(function, "__name__", "events")
        endpoint.__doc__ = function.__doc__
        router.add_api_route(
            path,
            endpoint,
            methods=["GET"],
            response_class=EventStream,
            response_model=None,
            **options,
        )
        return function

    return register


async def _stream(hub: Hub, channel: str) -> AsyncIterator[bytes]:
    with hub.subscribe(channel) as subscriber:
        yield f"retry: {RETRY_MS}\n\n".encode()
        async for event in subscriber.events(keepalive=KEEPALIVE_SECONDS):
            yield event.encode() if event else b": keepalive\n\n"
