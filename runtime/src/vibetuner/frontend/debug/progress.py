"""The progress of one task on its page: a live bar, if the task reports progress."""

from __future__ import annotations

from fastapi import APIRouter

from vibetuner.config import get_settings
from vibetuner.frontend.debug.render import DebugRoute, draw
from vibetuner.sse.history import history_of
from vibetuner.tasks.inspect.queue import Queue
from vibetuner.tasks.progress import ProgressState, progress_endpoint
from vibetuner.tasks.progress.state import read_progress as read_state

__all__ = ["read_progress", "router"]

router = APIRouter(route_class=DebugRoute)


def draw_bar(state: ProgressState) -> str:
    """Render the bar with our own template, even if the project has replaced it."""
    return draw("bar.html", state=state)


@progress_endpoint("/progress/{task_id}", router=router, render=draw_bar)
async def events(task_id: str) -> str:
    """Stream the progress of a task until it ends."""
    return task_id


async def read_progress(queue: Queue, task_id: str) -> ProgressState | None:
    """Return the progress that a task has reported; None if it reported none."""
    history = history_of(queue.redis, get_settings())
    state, _ = await read_state(history, task_id)
    # Watching a task that reports nothing stores a state, too.
    told = state is not None and (state.done or state.total is not None or state.message)
    return state if told else None
