"""The pages that only read: overview, tasks, one task, schedules, and their event streams."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from vibetuner.config import get_settings
from vibetuner.errors import CommandError, VibetunerError
from vibetuner.frontend.debug.render import FOLDER, HEADERS, DebugRoute, draw, page
from vibetuner.sse.event import Event
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.history import History
from vibetuner.sse.stream import KEEPALIVE, EventStream, Write
from vibetuner.tasks.inspect.cron import list_crons
from vibetuner.tasks.inspect.detail import find_task
from vibetuner.tasks.inspect.listing import list_tasks
from vibetuner.tasks.inspect.model import ENDED, Filters, State
from vibetuner.tasks.inspect.queue import Queue, answering, this_queue, whole_id
from vibetuner.tasks.inspect.stats import read_stats
from vibetuner.tasks.inspect.why import explain
from vibetuner.tasks.progress import ProgressState, progress_endpoint
from vibetuner.tasks.progress.state import read_progress
from vibetuner.timing import parse_moment

router = APIRouter(route_class=DebugRoute)

PAGE = 50
CHANNEL = "vibetuner:debug:tasks"
CHANGED = Event("changed", "").frame
LOOK_SECONDS = 1.0
KEEPALIVE_LOOKS = 15
STATES = tuple(state for state in State if state not in {State.WAITING, State.LOST})


@router.get("")
async def overview(request: Request) -> HTMLResponse:
    """Show counts, charts and workers."""
    stats = await read_stats(this_queue())
    return page(request, "overview.html", **stats._asdict())


@router.get("/list")
async def tasks(  # noqa: PLR0913, PLR0917 - filters
    request: Request,
    state: str = "",
    name: str = "",
    since: str = "",
    until: str = "",
    after: Annotated[str | None, Query(max_length=100)] = None,
    task_id: Annotated[str, Query(alias="id")] = "",
) -> Response:
    """List tasks that match, a page at a time."""
    queue = this_queue()
    if task_id.strip():
        return await task(request, await whole_id(queue, task_id.strip()))
    filters = Filters(
        states=frozenset({_state(state)} if state else ()),
        name=name or None,
        since=parse_moment(since, datetime.now(UTC)) if since else None,
        until=parse_moment(until, datetime.now(UTC)) if until else None,
    )
    found = await list_tasks(queue, filters, limit=PAGE, after=after or None)
    asked = {"state": state, "name": name, "since": since, "until": until}
    return page(
        request,
        "tasks.html",
        rows=found.rows,
        following=urlencode({**asked, "after": found.next}) if found.next else None,
        is_first=not after,
        states=STATES,
        names=await queue.names(),
        asked=asked,
    )


@router.get("/task/{task_id:path}")
async def task(request: Request, task_id: str) -> HTMLResponse:
    """Show one task, and why it isn't running."""
    queue = this_queue()
    detail = await find_task(queue, task_id)
    # For a task that has ended, the timeline is enough.
    _, reasons = (None, []) if detail.row.state in ENDED else await explain(queue, task_id)
    return page(
        request,
        "task.html",
        task=detail,
        row=detail.row,
        reasons=reasons,
        state=await _reported(queue, task_id),
    )


@router.get("/cron")
async def cron(request: Request) -> HTMLResponse:
    """List the schedules."""
    return page(request, "cron.html", crons=await list_crons(this_queue()))


class ChangeStream(EventStream):
    """Sends an event when the queue has changed; polls once a second while somebody watches."""

    def __init__(self) -> None:
        super().__init__(CHANNEL)
        self.headers.update(HEADERS)

    async def run(self, subscriber: Subscriber, write: Write) -> None:
        """Poll and send until the browser has gone or the process stops."""
        await write(b"")
        last, quiet = await _pulse(), 0
        # The page reloads at once, as something may have happened before its stream was opened.
        await write(CHANGED)
        while not subscriber.closed:
            await subscriber.pause(LOOK_SECONDS)
            now = await _pulse()
            if now != last:
                last, quiet = now, 0
                await write(CHANGED)
            elif (quiet := quiet + 1) % KEEPALIVE_LOOKS == 0:
                await write(KEEPALIVE)


@router.get("/events")
async def events() -> ChangeStream:
    """Return the stream that makes an open page reload its live part."""
    return ChangeStream()


# Our own template, even if the project has replaced it.
@progress_endpoint(
    "/progress/{task_id:path}", router=router, render=lambda state: draw("bar.html", state=state)
)
async def progress(task_id: str) -> str:
    """Stream the progress of a task until it ends."""
    return task_id


@router.get("/debug.css")
@router.get("/debug.js")
async def asset(request: Request) -> FileResponse:
    """Return the style sheet or the script of all pages."""
    return FileResponse(FOLDER / request.url.path.rpartition("/")[2])


def _state(text: str) -> State:
    try:
        return State(text)
    except ValueError:
        raise CommandError(f"There is no state {text!r}. Take one of {', '.join(State)}") from None


async def _reported(queue: Queue, task_id: str) -> ProgressState | None:
    """Return the progress that a task has reported; None if it reported none."""
    state, _ = await read_progress(History(queue.redis, get_settings()), task_id)
    # Watching a task that reports nothing stores a state, too.
    told = state is not None and (state.done or state.total is not None or state.message)
    return state if told else None


async def _pulse() -> tuple[object, ...]:
    try:
        async with answering(2.0):
            return await this_queue().pulse()
    except VibetunerError as error:
        return (str(error),)
