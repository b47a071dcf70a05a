"""The event stream of one task's progress, for browsers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from vibetuner.sse.event import Event, check_channel
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.history import OUTAGES
from vibetuner.sse.stream import KEEPALIVE, EventStream, Write, add_stream_route
from vibetuner.tasks.progress.watch import ENDS, Render, follow_progress, load_progress

# htmx closes a stream at one event, however the task ended. A browser that reconnects with this id
# has received the end.
CLOSE = Event("close", "", "0-1")


def add_progress_route(
    router: APIRouter,
    path: str,
    function: Callable[..., Any],
    render: Render,
    options: dict[str, Any],
) -> None:
    """Register the stream of the task whose id the dependency ``function`` returns."""

    async def endpoint(request: Request, task_id: str = Depends(function)) -> Response:
        try:
            check_channel(task_id)
        except ValueError:
            raise HTTPException(404, "There is no such task.") from None
        if EventStream.last_id_of(request) == CLOSE.id:
            return Response(status_code=204)  # tells a browser not to reconnect
        try:
            if await load_progress(task_id) is None:
                raise HTTPException(404, "There is no such task, or no longer.")
        except OUTAGES:
            pass  # the stream waits for Redis; a browser does not reconnect after an error
        return ProgressStream(task_id, render)

    add_stream_route(router, path, endpoint, function, options)


class ProgressStream(EventStream):
    """The stream of one task's progress, which ends with the task."""

    def __init__(self, task_id: str, render: Render) -> None:
        super().__init__(task_id)
        self._render = render

    async def run(self, subscriber: Subscriber, write: Write) -> None:
        """Send the states as they are rendered."""
        await write(b"")
        async for step in follow_progress(subscriber):
            if step is None:
                await write(KEEPALIVE)
                continue
            drawn = self._render(step.state)
            html = await drawn if inspect.isawaitable(drawn) else drawn
            await write(Event(step.name, html, step.id).frame)
            if step.name in ENDS:
                await write(CLOSE.frame)
