"""Where progress is kept: one key a task in Redis, written in one step with the event it makes."""

from __future__ import annotations

from typing import Any

from vibetuner.redis.functions import Caller
from vibetuner.sse.event import idle_id
from vibetuner.sse.history import History
from vibetuner.tasks.progress_state import ProgressState, ProgressStatus

__all__ = ["PROGRESS", "end", "known_of", "read", "register", "write"]

PROGRESS = "progress"  # the event

# A task may be silent for long, and its page be opened long after it has ended.
KEPT_SECONDS = 24 * 3600


async def write(
    history: History, state: ProgressState, *, channel: str | None = None, anew: bool = False
) -> None:
    """Keep a state and send it on the task's own channel, and on another where one is named.

    Args:
        anew: a try begins, which may follow on an end that was none.
    """
    await _write(history, state, PROGRESS, channel or "", anew=anew)


async def end(history: History, task_id: str, status: ProgressStatus) -> None:
    """Send the closing event of a task, if somebody reports on it or listens; once."""
    while True:
        known: Any = await history.redis.hget(history.keys.progress(task_id), "state")
        if not known:
            return
        state = ProgressState.from_json(str(known)).at_end(status)
        if await _write(history, state, status.value, "", expected=str(known)) != "?":
            return


async def known_of(functions: Caller, history: History, task_ids: list[str]) -> list[str]:
    """Those of the tasks that report, or are watched."""
    keys = [history.keys.progress(task_id) for task_id in task_ids]
    answer = await functions.call("know_progress", keys, ())
    return [name for name, known in zip(task_ids, answer, strict=True) if known]


async def register(history: History, state: ProgressState) -> None:
    """Note that somebody listens, so that the end is told even where nothing was reported."""
    keys, values = [history.keys.progress(state.task_id)], [state.to_json(), KEPT_SECONDS]
    await history.functions.call("register_progress", keys, values)


async def read(history: History, task_id: str) -> tuple[ProgressState | None, str]:
    """What is known of a task, and the id of having heard everything until then."""
    keys = [history.keys.progress(task_id), history.keys.events(task_id)]
    answer = await history.functions.call("read_progress", keys, ())
    text, newest, now = answer
    return ProgressState.from_json(text) if text else None, newest or idle_id(int(now))


async def _write(  # noqa: PLR0913 - each with its name
    history: History,
    state: ProgressState,
    event: str,
    channel: str,
    *,
    anew: bool = False,
    expected: str = "",
) -> str:
    task_id = state.task_id
    answer = await history.functions.call(
        "write_progress",
        [history.keys.progress(task_id), history.keys.events(task_id)],
        [
            "1" if anew else "",
            expected,
            "1" if state.is_over else "0",
            state.to_json(),
            channel,
            KEPT_SECONDS,
            history.keys.events(""),
            history.keys.topic,
            history.size,
            history.ttl,
            event,
            task_id,
        ],
    )
    return str(answer)
