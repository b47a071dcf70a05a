"""The event stream of one task's progress, for browsers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from vibetuner.sse.event import Event, check_channel
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.history import OUTAGES
from vibetuner.sse.stream import HEADERS, KEEPALIVE, RETRY, EventStream, Write, add_stream_route
from vibetuner.tasks.progress.state import ENDS, ProgressState, ProgressStatus
from vibetuner.tasks.progress.watch import Render, follow_progress, load_progress

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
        if EventStream.last_id_of(request) == CLOSE.id:
            return Response(status_code=204)  # tells a browser not to reconnect
        if await _may_exist(task_id):
            return ProgressStream(task_id, render)
        if EventStream.media_type not in request.headers.get("accept", ""):
            raise HTTPException(404, "There is no such task, or no longer.")
        # htmx would ask again after an error, for ever, and its page would show an empty bar.
        state = ProgressState(task_id=task_id, status=ProgressStatus.UNKNOWN)
        end = Event(state.status, await _draw(render, state))
        content = RETRY + end.frame + CLOSE.frame
        return Response(content, 200, HEADERS, EventStream.media_type)

    add_stream_route(router, path, endpoint, function, options)


async def _may_exist(task_id: str) -> bool:
    try:
        return await load_progress(check_channel(task_id)) is not None
    except ValueError:
        return False
    except OUTAGES:
        return True  # the stream waits for Redis; a browser does not reconnect after an error


async def _draw(render: Render, state: ProgressState) -> str:
    drawn = render(state)
    return await drawn if inspect.isawaitable(drawn) else drawn


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
            html = await _draw(self._render, step.state)
            await write(Event(step.name, html, step.id).frame)
            if step.name in ENDS:
                await write(CLOSE.frame)
