"""Watches the progress of a task: its current state, each change, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from streaq import StreaqError, TaskStatus
from streaq.types import StreaqCancelled

from vibetuner.config import get_settings
from vibetuner.redis.client import answering
from vibetuner.resources.slots import task_queue
from vibetuner.sse.event import RESET, Event
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.history import OUTAGES, History
from vibetuner.sse.hub import Hub
from vibetuner.sse.relay import open_relay
from vibetuner.tasks.outbox.row import find_row, open_stores
from vibetuner.tasks.progress.state import (
    ENDS,
    PROGRESS,
    ProgressState,
    ProgressStatus,
    finish_progress,
    read_progress,
    register_watch,
    restart_progress,
)

Render = Callable[[ProgressState], str | Awaitable[str]]

STATUS = {
    TaskStatus.QUEUED: ProgressStatus.QUEUED,
    TaskStatus.SCHEDULED: ProgressStatus.QUEUED,
    TaskStatus.RUNNING: ProgressStatus.RUNNING,
}
RESULT_SECONDS = 2
# While somebody watches a task that waits for others or in the outbox, it is polled this often:
# nothing is published when that changes.
POLL_SECONDS = 1.0
OUTAGE_SECONDS = 1.0


def render_bar(state: ProgressState, label: str = "Progress") -> str:
    """Render the bar alone, with the macro ``bar`` of ``vibetuner/progress.html``."""
    # A worker does not need templates.
    from vibetuner.templates import get_templates  # noqa: PLC0415

    module: Any = get_templates().get_template("vibetuner/progress.html").module
    return str(module.bar(state, label))


async def watch_progress(task_id: str) -> AsyncIterator[ProgressState]:
    """Yield the states of a task until it ends, the current one first; needs an open queue.

    Raises:
        LookupError: the task is unknown.
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: the queue is not open here, or Redis does not answer at the start.
    """
    if await load_progress(task_id) is None:
        raise LookupError(task_id)
    hub = Hub()
    async with open_relay(_history(), hub):
        with hub.subscribe(task_id) as subscriber:
            async for step in follow_progress(subscriber):
                if step is not None:
                    yield step.state


@dataclass(frozen=True, slots=True)
class Step:
    """A state, with the name and the id of the event that reports it."""

    name: str
    state: ProgressState
    id: str


async def follow_progress(  # noqa: PLR0912 - one branch for each kind of event
    subscriber: Subscriber,
) -> AsyncIterator[Step | None]:
    """Yield the steps of the task that the subscriber's channel names; None at each keepalive."""
    task_id, missing = subscriber.channel, 0
    polls = True  # once, and while the call waits in the outbox
    gone = ProgressState(task_id=task_id, status=ProgressStatus.UNKNOWN)
    state, position = await _begin(subscriber, gone)
    if not state.is_over:
        yield Step(PROGRESS, state, position)
    while not state.is_over:
        is_silence = False
        try:
            async with asyncio.timeout(POLL_SECONDS if polls or _is_waiting(state) else None):
                events = await subscriber.events()
            is_silence = not events
        except TimeoutError:
            events = []
        if events is None:
            return
        if not events:  # the end of the task may not have been published
            before = state
            state, polls = await _poll(state)
            if state != before:
                yield Step(PROGRESS, state, position)
            elif is_silence:
                yield None
                missing = missing + 1 if await _is_lost(task_id) else 0
                if missing > 1:
                    await register_watch(_history(), ProgressState(task_id=task_id))
                    await finish_progress(_history(), task_id, ProgressStatus.FAILED)
        elif any(event.name == RESET for event in events):
            state, position = await _begin(subscriber, state)
            polls = True
            if not state.is_over:
                yield Step(PROGRESS, state, position)
        elif step := _newest_step(events):
            state, position = _keep_parts(step.state, state), step.id
            if not state.is_over:
                yield Step(PROGRESS, state, position)
    if state.is_over:
        yield Step(state.status.value, state, position)


async def load_progress(task_id: str) -> ProgressState | None:
    """Return the state of a task, as it was reported or as the queue has it; None if unknown.

    From then on, the end of the task is published even if the task reports nothing.

    Raises:
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: the queue is not open here, or Redis does not answer within 5 seconds.
    """
    return (await _load(task_id))[0]


async def _load(task_id: str) -> tuple[ProgressState | None, bool]:
    """Return the state like :func:`load_progress`, and whether the call waits in the outbox."""
    async with answering(get_settings()):
        history = _history()
        state, _ = await read_progress(history, task_id)
        if state is not None and state.is_over:
            status = await task_queue.get().status_by_id(task_id)
            if status not in STATUS:
                return await _count_parts(history, state), False
            state = ProgressState(task_id=task_id, status=STATUS[status])  # the id is used again
            await restart_progress(history, state)
        asked, is_held = await _ask_queue(task_id)
        found = await _combine(history, state, asked)
        return found and await _count_parts(history, found), is_held


async def _combine(
    history: History, state: ProgressState | None, asked: ProgressState | None
) -> ProgressState | None:
    """Return the state of a task, from the one that it reported and the one that the queue has."""
    if asked is None:
        return state
    if state is None:
        await register_watch(history, asked)
        return asked
    if asked.is_over:
        await finish_progress(history, state.task_id, asked.status)
        return state.at_end(asked.status)
    if state.status is ProgressStatus.QUEUED:
        return replace(state, status=asked.status)  # a task that reports nothing may have started
    return state


async def _count_parts(history: History, state: ProgressState) -> ProgressState:
    """Add to the state of a task that waits for others how many of them have ended."""
    if state.total is not None:
        return state
    redis, keys = history.redis, history.keys
    total: Any = await redis.get(keys.parts(state.task_id))
    if total is None:
        return state
    left = await redis.scard(keys.dependencies(state.task_id))
    return replace(state, done=max(0, int(total) - left), total=int(total))


def _is_waiting(state: ProgressState) -> bool:
    return state.status is ProgressStatus.QUEUED and state.total is not None


def _keep_parts(state: ProgressState, known: ProgressState) -> ProgressState:
    """Give a state without a total the counted parts; when the task starts, all have ended."""
    if state.total is not None or known.total is None:
        return state
    return replace(state, done=known.total, total=known.total)


async def _poll(state: ProgressState) -> tuple[ProgressState, bool]:
    """Return the current state of a waiting task, and whether to poll again.

    While Redis is away, return the old state.
    """
    try:
        found, is_held = await _load(state.task_id)
    except OUTAGES:
        return state, True
    return found or state, is_held


async def _begin(subscriber: Subscriber, known: ProgressState) -> tuple[ProgressState, str]:
    """Return the current state and its position in the stream; wait while Redis is away.

    The state is ``known`` if Redis has none, as after it has lost its data: a worker may still run
    the task.
    """
    task_id = subscriber.channel
    while not subscriber.closed:
        try:
            loaded = await load_progress(task_id)
            async with answering(get_settings()):
                state, position = await read_progress(_history(), task_id)
                state = state and await _count_parts(_history(), state)
        except OUTAGES:
            await subscriber.pause(OUTAGE_SECONDS)
        else:
            subscriber.begin_after(position)
            return state or loaded or known, position
    return ProgressState(task_id=task_id), ""


async def _ask_queue(task_id: str) -> tuple[ProgressState | None, bool]:
    """Return a task's state as the queue has it, and whether its call waits in the outbox."""
    queue = task_queue.get()
    status = await queue.status_by_id(task_id)
    if status is TaskStatus.NOT_FOUND and open_stores():
        if await find_row(task_id) is not None:
            return ProgressState(task_id=task_id), True
        status = await queue.status_by_id(task_id)  # a row is handed on first, then deleted
    if status in STATUS:
        return ProgressState(task_id=task_id, status=STATUS[status]), False
    if status is TaskStatus.NOT_FOUND:
        return None, False
    try:
        result = await queue.result_by_id(task_id, timeout=RESULT_SECONDS)
    except (TimeoutError, StreaqError):  # it has expired meanwhile, or can't be read
        return None, False
    ended = ProgressStatus.COMPLETE
    if not result.success:
        aborted = isinstance(result.exception, StreaqCancelled)
        ended = ProgressStatus.ABORTED if aborted else ProgressStatus.FAILED
    return ProgressState(task_id=task_id, status=ended), False


async def _is_lost(task_id: str) -> bool:
    """Return whether the queue no longer knows a task whose end was not published.

    This happens if the worker was lost before it published the end, or if Redis lost its data.
    """
    try:
        return await load_progress(task_id) is None or (await _ask_queue(task_id))[0] is None
    except OUTAGES:
        return False


def _newest_step(events: list[Event]) -> Step | None:
    """Return the newest state among the events; older ones no longer matter."""
    for event in reversed(events):
        if event.name == PROGRESS or event.name in ENDS:
            try:
                return Step(PROGRESS, ProgressState.from_json(event.data), event.id)
            except ValueError:
                continue  # an event of the project with the same name
    return None


def _history() -> History:
    return History(task_queue.get().redis, get_settings())
