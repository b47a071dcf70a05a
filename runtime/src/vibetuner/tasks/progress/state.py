"""The progress of one task: its state, and the key in Redis that stores it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self, cast

from vibetuner.redis.functions import Functions
from vibetuner.sse.event import idle_id
from vibetuner.sse.history import History
from vibetuner.stored import adapter

#: The name of the event that reports a state.
PROGRESS = "progress"

# A task may report nothing for hours, and its page may be opened hours after its end.
KEPT_SECONDS = 24 * 3600


class ProgressStatus(StrEnum):
    """The stage of a task; the last four are final, and name the closing events.

    An unknown task never existed, or ended so long ago that its end is no longer stored.
    """

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


ENDS = frozenset(ProgressStatus) - {ProgressStatus.QUEUED, ProgressStatus.RUNNING}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressState:
    """The progress of a task at one moment.

    Args:
        done: the number of steps that are done.
        total: the number of all steps; None if unknown.
        message: the current activity, in words for people.
        rate: steps a second, over the last ten seconds.
        eta: the seconds that are left at this rate.
    """

    task_id: str
    status: ProgressStatus = ProgressStatus.QUEUED
    done: int = 0
    total: int | None = None
    message: str = ""
    rate: float | None = None
    eta: float | None = None

    @property
    def is_over(self) -> bool:
        """Return whether the task has ended."""
        return self.status in ENDS

    @property
    def percent(self) -> int | None:
        """The part that is done, from 0 to 100; None if the total is unknown.

        >>> ProgressState(task_id="a", done=1, total=3).percent
        33
        >>> ProgressState(task_id="a", status=ProgressStatus.COMPLETE).percent
        100
        """
        if self.status is ProgressStatus.COMPLETE:
            return 100
        if not self.total:
            return None
        return max(0, min(100, 100 * self.done // self.total))

    def at_end(self, status: ProgressStatus) -> Self:
        """Return the same state with a final status."""
        return replace(self, status=status, rate=None, eta=None)

    def to_json(self) -> str:
        """Return the JSON text that is stored and sent, ``percent`` included."""
        return json.dumps({**asdict(self), "percent": self.percent})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the text of :meth:`to_json`.

        Raises:
            ValueError: the text is something else, or a value has the wrong type.
        """
        found: Self = adapter(cast("Any", cls)).validate_json(text, strict=True)
        if not all(abs(number or 0) < 2**63 for number in (found.rate, found.eta)):
            raise ValueError("no ProgressState: a number is out of range")
        return found


async def finish_progress(history: History, task_id: str, status: ProgressStatus) -> None:
    """Publish the closing event of a task once, if the task reports progress or is watched.

    Another end that is stored is that of an earlier task of this id, and is replaced.
    """
    while True:
        known: Any = await history.redis.hget(history.keys.progress(task_id), "state")
        if known is None:
            return
        before = _parse(known) or ProgressState(task_id=task_id)
        if before.status is status:
            return
        state, anew = before.at_end(status), before.is_over
        if await write_progress(history, state, status.value, anew=anew, expected=known) != "?":
            return


async def restart_progress(history: History, state: ProgressState) -> None:
    """Store the state of a task in place of the end of an earlier task of its id."""
    known: Any = await history.redis.hget(history.keys.progress(state.task_id), "state")
    before = _parse(known)
    if before is not None and before.is_over:
        await write_progress(history, state, anew=True, expected=known)


async def find_known(functions: Functions, history: History, task_ids: list[str]) -> list[str]:
    """Return those of the tasks that report progress or are watched."""
    keys = [history.keys.progress(task_id) for task_id in task_ids]
    answer = await functions.call("know_progress", keys, ())
    return [name for name, known in zip(task_ids, answer, strict=True) if known]


async def register_watch(history: History, state: ProgressState) -> None:
    """Register a watcher, so that the end of a task that reports nothing is published, too."""
    key = history.keys.progress(state.task_id)
    values: list[str | float] = [state.to_json(), KEPT_SECONDS]
    await history.functions.call("register_progress", [key], values)


async def read_progress(history: History, task_id: str) -> tuple[ProgressState | None, str]:
    """Return the stored state of a task, and the id of the newest event that it includes.

    An unreadable state counts as none.
    """
    keys = [history.keys.progress(task_id), history.keys.events(task_id)]
    text, newest, now = await history.functions.call("read_progress", keys, ())
    return _parse(text), newest or idle_id(int(now))


def _parse(text: Any) -> ProgressState | None:
    try:
        return ProgressState.from_json(text) if isinstance(text, str) else None
    except ValueError:
        return None


async def write_progress(  # noqa: PLR0913 - each with its name
    history: History,
    state: ProgressState,
    event: str = PROGRESS,
    channel: str | None = None,
    *,
    anew: bool = False,
    expected: str | bytes = "",
) -> str:
    """Store a state, and publish it on the task's channel, and on ``channel`` if given.

    Returns the event's id; '' if a final state stays, '?' if another state is stored.

    Args:
        anew: an attempt begins, and may replace a final state.
        expected: the state to replace; by default, any.
    """
    task_id = state.task_id
    values: list[str | bytes | float] = [
        *history.arguments(task_id, event, state.to_json()),
        "1" if anew else "",
        expected,
        "1" if state.is_over else "0",
        channel or "",
        history.keys.events(""),
        KEPT_SECONDS,
    ]
    names = history.keys
    keys = [names.progress(task_id), names.events(task_id), names.guard]
    return str(await history.functions.call("write_progress", keys, values))
