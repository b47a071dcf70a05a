"""Progress: reports how far a task is, for a page or a terminal to show.

::

    @worker.task()
    async def import_rows(path: str) -> None:
        progress = Progress(message="reading")
        async for row in progress.track(read_rows(path)):
            ...


    @progress_endpoint("/imports/{task_id}/events", router=router)
    async def events(task_id: str) -> str:
        return task_id
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from vibetuner.tasks.progress.report import Progress
from vibetuner.tasks.progress.state import ProgressState, ProgressStatus
from vibetuner.tasks.progress.watch import Render, render_bar, watch_progress

if TYPE_CHECKING:
    from fastapi import APIRouter

__all__ = [
    "Progress",
    "ProgressState",
    "ProgressStatus",
    "progress_endpoint",
    "render_bar",
    "watch_progress",
]

F = TypeVar("F", bound=Callable[..., Any])


def progress_endpoint(
    path: str, *, router: APIRouter, render: Render | None = None, **options: Any
) -> Callable[[F], F]:
    """Serve the progress of the task whose id the decorated function returns.

    The function is a FastAPI dependency like that of ``sse_endpoint``, and may refuse. The stream
    begins with a ``progress`` event that holds the current state, sends one for each change, and
    ends with ``complete``, ``failed`` or ``aborted``, followed by ``close``. For a task that has
    ended it sends only the end. A task is unknown if it never existed, or ended so long ago that
    its end is no longer stored: a client that accepts ``text/event-stream``, as browsers do, gets
    the end ``unknown``, and any other is answered with 404.

    Args:
        render: makes the events' data from a state, sync or async; by default the bar of
            ``vibetuner/progress.html``. ``ProgressState.to_json`` suits scripts.
        options: passed to ``router.add_api_route``.
    """
    renderer = render or render_bar

    def register(function: F) -> F:
        # A worker imports this package too, and does not need the web framework.
        from vibetuner.tasks.progress.stream import add_progress_route  # noqa: PLC0415

        add_progress_route(router, path, function, renderer, options)
        return function

    return register
