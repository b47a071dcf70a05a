"""Aborts tasks, enqueues them by name, and enqueues them again."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from vibetuner.errors import TaskError, TaskNotFound
from vibetuner.tasks.depends import is_injected
from vibetuner.tasks.inspect.detail import (
    Facts,
    can_call,
    find_row,
    gather,
    kept_payload,
    letter_of,
)
from vibetuner.tasks.inspect.model import ENDED, State
from vibetuner.tasks.inspect.queue import Queue
from vibetuner.tasks.outbox.row import find_row as find_in_outbox
from vibetuner.tasks.payload import Kind
from vibetuner.tasks.registry import find_named

CONFIRM_SECONDS = 3
JOURNAL_LOOKS = 6
JOURNAL_SECONDS = 0.25


async def abort(queue: Queue, task_id: str) -> bool:
    """Abort a task, and remove a schedule of that name.

    Returns True if the task has ended, False if it is only marked for the worker that claims it.

    Raises:
        TaskNotFound: there is no such task.
        TaskError: the task has ended already.
    """
    facts = await gather(queue, task_id)
    row = await find_row(queue, task_id, facts)
    was_scheduled = await queue.worker.unschedule_by_id(task_id)
    if was_scheduled and (row is None or row.state in {*ENDED, State.SCHEDULED}):
        return True
    if row is None:
        raise TaskNotFound(f"There is no task {task_id} to abort. See:  vibetuner tasks list")
    if row.state in ENDED:
        raise TaskError(f"{row.name} {task_id} has ended already: {row.state}")
    has_ended = await queue.worker.abort_by_id(task_id, timeout=CONFIRM_SECONDS)
    # If its row could not be handed on here, Redis knows nothing of it yet. A mark on a task that
    # has ended would stay.
    if facts.waiting and not has_ended and await find_in_outbox(task_id):
        await queue.worker.client.mark_abort(task_id)
    return has_ended


async def enqueue(
    queue: Queue, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> str:
    """Check the arguments of a task, enqueue it by its name, and return the id.

    Raises:
        TaskNotFound: the project has no such task.
        TaskError: the arguments don't fit its function.
    """
    task = find_named(queue.worker, name)
    args, kwargs = check_arguments(task.fn, name, args, kwargs or {})
    enqueued = await task.enqueue(*args, **kwargs)
    return str(enqueued.id)


async def enqueue_again(queue: Queue, task_id: str) -> str:
    """Enqueue a task again with the same arguments, and return the new id.

    Raises:
        TaskNotFound: there is no such task.
        TaskError: the arguments are gone, or the project no longer has the task.
    """
    facts = await _settled(queue, task_id)
    data = facts.data
    if not data and facts.entry_id:
        data = await kept_payload(queue, facts.entry_id, task_id)
    if not data:
        letter = await letter_of(queue, task_id)
        data = {}
        if letter:
            data = queue.read(letter.payload, Kind.CALL, letter.task_id, is_kept=True)
    if not data and facts.ended is None and not facts.has_payload and not facts.waiting:
        raise TaskNotFound(f"There is no task {task_id}. See:  vibetuner tasks list")
    if not can_call(data):
        raise TaskError(
            f"{task_id} can't be enqueued again: its arguments are not kept. "
            "Enqueue it with arguments of your own:  vibetuner tasks enqueue NAME --args '[...]'"
        )
    task = find_named(queue.worker, str(data["f"]))
    enqueued = await task.enqueue(*data["a"], **data["k"])
    return str(enqueued.id)


async def _settled(queue: Queue, task_id: str) -> Facts:
    """Return what is known of a task; if it has just ended, wait for its entry in the journal."""
    for _ in range(JOURNAL_LOOKS):
        facts = await gather(queue, task_id)
        if facts.has_payload or facts.ended or not facts.result:
            break
        await asyncio.sleep(JOURNAL_SECONDS)
    return facts


def check_arguments(
    function: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Convert arguments from JSON to the types that a function declares, such as texts to dates.

    Raises TaskError if an argument doesn't fit; the message names it and the expected type.
    """
    sign = inspect.signature(function)
    try:
        bound = sign.bind(*args, **kwargs)
    except TypeError as error:
        wanted = [str(one) for one in sign.parameters.values() if not is_injected(one.default)]
        raise TaskError(f"{name}({', '.join(wanted)}): {error}") from None
    hints = _hints(function)
    for parameter in bound.arguments:
        kind = sign.parameters[parameter].kind
        if parameter in hints and kind not in {kind.VAR_POSITIONAL, kind.VAR_KEYWORD}:
            value = bound.arguments[parameter]
            bound.arguments[parameter] = _fit(name, parameter, hints[parameter], value)
    return list(bound.args), dict(bound.kwargs)


def _fit(name: str, parameter: str, hint: Any, value: Any) -> Any:
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise TaskError(f"{name}: {parameter}= does not fit: {reason}") from None
    except PydanticUserError:  # this type can't be checked, so pass the value on
        return value


def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(inspect.unwrap(function), include_extras=True)
    except Exception:  # noqa: BLE001 - somebody's annotations may name what is not there
        return {}
