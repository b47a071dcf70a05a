"""Progress as it is watched: the truth first, then what changes, then the end."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from streaq import TaskStatus
from streaq.types import StreaqCancelled

from vibetuner.config import get_settings
from vibetuner.sse.endpoint import add_stream_route
from vibetuner.sse.event import RESET, Event, check_channel
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.history import OUTAGES, History, history_of
from vibetuner.sse.hub import Hub
from vibetuner.sse.relay import open_relay
from vibetuner.sse.stream import KEEPALIVE, OUTAGE_SECONDS, EventStream, Write
from vibetuner.tasks import progress_store
from vibetuner.tasks.progress_state import ProgressState, ProgressStatus
from vibetuner.tasks.progress_store import PROGRESS
from vibetuner.tasks.worker import get_worker
from vibetuner.templates import get_templates

__all__ = ["progress_endpoint", "render_bar", "watch_progress"]

F = TypeVar("F", bound=Callable[..., Any])
Render = Callable[[ProgressState], str | Awaitable[str]]

# htmx ends a stream at one event, whatever the end was called; and whoever returns with this id
# has heard everything.
CLOSE = Event("close", "", "0-1")
ENDS = frozenset(
    status.value
    for status in (ProgressStatus.COMPLETE, ProgressStatus.FAILED, ProgressStatus.ABORTED)
)

STATUS = {
    TaskStatus.QUEUED: ProgressStatus.QUEUED,
    TaskStatus.SCHEDULED: ProgressStatus.QUEUED,
    TaskStatus.RUNNING: ProgressStatus.RUNNING,
}
RESULT_SECONDS = 2


def progress_endpoint(
    path: str, *, router: APIRouter, render: Render | None = None, **options: Any
) -> Callable[[F], F]:
    """Serve the progress of the task whose id the decorated function returns.

    The function is a FastAPI dependency as that of ``sse_endpoint``, and may refuse. The stream
    begins with an event ``progress`` that says how things stand, goes on with one for each change,
    and ends with ``complete``, ``failed`` or ``aborted``, followed by ``close``; of a task that
    has ended it says just that. A task that nobody knows is answered with 404.

    Args:
        render: makes the events' data of a state, sync or async; the bar of
            ``vibetuner/progress.html`` unless it is given. ``ProgressState.to_json`` suits scripts.
        options: go to ``router.add_api_route``.
    """
    renderer = render or render_bar

    def register(function: F) -> F:
        async def endpoint(request: Request, task_id: str = Depends(function)) -> Response:
            try:
                check_channel(task_id)
            except ValueError:
                raise HTTPException(404, "There is no such task.") from None
            last_id = EventStream.last_id_of(request)
            if last_id == CLOSE.id:
                return Response(status_code=204)  # which tells a browser not to return
            try:
                if await load(task_id) is None:
                    raise HTTPException(404, "There is no such task, or no longer.")
            except OUTAGES:
                pass  # the stream waits for Redis; a refusal would be for good
            return ProgressStream(task_id, renderer)

        add_stream_route(router, path, endpoint, function, options)
        return function

    return register


def render_bar(state: ProgressState, label: str = "Progress") -> str:
    """The bar alone, as the macro ``bar`` of ``vibetuner/progress.html`` draws it."""
    module: Any = get_templates().get_template("vibetuner/progress.html").module
    return str(module.bar(state, label))


async def watch_progress(task_id: str) -> AsyncIterator[ProgressState]:
    """The states of a task until it ends, the present one first; needs an open queue.

    Raises:
        LookupError: nobody knows such a task.
    """
    if await load(task_id) is None:
        raise LookupError(task_id)
    hub = Hub()
    async with open_relay(_history(), hub):
        with hub.subscribe(task_id) as subscriber:
            async for step in follow(subscriber):
                if step is not None:
                    yield step.state


@dataclass(frozen=True, slots=True)
class Step:
    """A state, as the event that tells it."""

    name: str
    state: ProgressState
    id: str


async def follow(subscriber: Subscriber) -> AsyncIterator[Step | None]:
    """What there is to tell of the task that names the channel; None after a silence."""
    task_id, missing = subscriber.channel, 0
    state, position = await _begin(subscriber)
    if not state.is_over:
        yield Step(PROGRESS, state, position)
    while not state.is_over:
        events = await subscriber.events()
        if events is None:
            return
        if not events:
            yield None
            missing = missing + 1 if await _is_lost(task_id) else 0
            if missing > 1:
                await _give_up(task_id)
        elif any(event.name == RESET for event in events):
            state, position = await _begin(subscriber)
            if not state.is_over:
                yield Step(PROGRESS, state, position)
        elif step := _last_of(events):
            state, position = step.state, step.id
            if not state.is_over:
                yield step
    if state.is_over:
        yield Step(state.status.value, state, position)


async def load(task_id: str) -> ProgressState | None:
    """How a task stands, by its own word or the queue's; None when nobody knows it.

    The end of who is asked for is told from then on, also where the task itself tells nothing.
    """
    history = _history()
    state, _ = await progress_store.read(history, task_id)
    if state is not None and state.is_over:
        return state
    asked = await _ask_queue(task_id)
    if asked is not None and asked.is_over and state is not None:
        await progress_store.end(history, task_id, asked.status)
        return state.at_end(asked.status)
    if state is None and asked is not None:
        await progress_store.register(history, asked)
    return state or asked


async def _begin(subscriber: Subscriber) -> tuple[ProgressState, str]:
    """The present state, and from where to go on; waits while Redis is away."""
    task_id = subscriber.channel
    while not subscriber.closed:
        try:
            loaded = await load(task_id)
            state, position = await progress_store.read(_history(), task_id)
        except OUTAGES:
            await subscriber.pause(OUTAGE_SECONDS)
        else:
            subscriber.begin_after(position)
            gone = ProgressState(task_id=task_id, status=ProgressStatus.FAILED)
            return state or loaded or gone, position
    return ProgressState(task_id=task_id), ""


async def _ask_queue(task_id: str) -> ProgressState | None:
    worker = get_worker()
    status = await worker.status_by_id(task_id)
    if status in STATUS:
        return ProgressState(task_id=task_id, status=STATUS[status])
    if status is TaskStatus.NOT_FOUND:
        return None
    try:
        result = await worker.result_by_id(task_id, timeout=RESULT_SECONDS)
    except TimeoutError:
        return None
    end = ProgressStatus.COMPLETE
    if not result.success:
        aborted = isinstance(result.exception, StreaqCancelled)
        end = ProgressStatus.ABORTED if aborted else ProgressStatus.FAILED
    return ProgressState(task_id=task_id, status=end)


async def _is_lost(task_id: str) -> bool:
    """Whether the queue knows nothing of a task that has not told its end.

    So it is when its worker was lost between the two, or Redis has forgotten everything.
    """
    try:
        return await load(task_id) is None or await _ask_queue(task_id) is None
    except OUTAGES:
        return False


async def _give_up(task_id: str) -> None:
    history = _history()
    await progress_store.register(history, ProgressState(task_id=task_id))
    await progress_store.end(history, task_id, ProgressStatus.FAILED)


def _last_of(events: list[Event]) -> Step | None:
    """The newest state that they tell; those before it are of no more interest."""
    for event in reversed(events):
        if event.name == PROGRESS or event.name in ENDS:
            try:
                return Step(PROGRESS, ProgressState.from_json(event.data), event.id)
            except (ValueError, TypeError):
                continue  # somebody else's event of the same name
    return None


def _history() -> History:
    return history_of(get_worker().redis, get_settings())


class ProgressStream(EventStream):
    """The stream of one task, which ends with it."""

    def __init__(self, task_id: str, render: Render) -> None:
        super().__init__(task_id)
        self._render = render

    async def run(self, subscriber: Subscriber, write: Write) -> None:
        """Send the states as they are rendered."""
        async for step in follow(subscriber):
            if step is None:
                await write(KEEPALIVE)
                continue
            drawn = self._render(step.state)
            html = await drawn if inspect.isawaitable(drawn) else drawn
            await write(Event(step.name, html, step.id).frame)
            if step.name in ENDS:
                await write(CLOSE.frame)
