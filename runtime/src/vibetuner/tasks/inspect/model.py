"""Tasks, counts and workers as they are shown. Pure: nothing here does I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from vibetuner.redis.keys import LIVE_SECONDS
from vibetuner.stored import read_number
from vibetuner.tasks.journal import Beat, FailedTry


class State(StrEnum):
    """The state of an enqueued task."""

    RUNNING = "running"
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    WAITING = "waiting"
    LOST = "lost"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"
    UNREADABLE = "unreadable"


# A clock that NTP sets is never off by this much.
CLOCK_SECONDS = 2.0

ENDED = frozenset({State.DONE, State.FAILED, State.ABORTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """The tasks to list; a filter that is None matches all.

    Tasks match that ended, were enqueued or are due at ``since`` or later, and before ``until``.
    """

    states: frozenset[State] = frozenset()
    name: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def wants(self, state: State) -> bool:
        """Return whether tasks in this state match."""
        return not self.states or state in self.states

    def match(self, name: str, at: datetime | None) -> bool:
        """Return whether a task of that name, at that time, matches."""
        return (
            self.name in {None, name}
            and (self.since is None or (at is not None and at >= self.since))
            and (self.until is None or (at is not None and at < self.until))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A task in a list.

    Args:
        name: the task's name; empty when its payload is gone or can't be read.
        created: when it was enqueued.
        due: when it was or will be put into the queue.
        worker: the worker that runs it, or recorded its end.
        queue: the queue that it runs from or waits in; empty if unknown.
    """

    task_id: str
    name: str
    state: State
    created: datetime | None = None
    due: datetime | None = None
    started: datetime | None = None
    finished: datetime | None = None
    tries: int = 0
    worker: str = ""
    error: str = ""
    queue: str = ""

    @property
    def at(self) -> datetime | None:
        """Return the time by which it is listed."""
        return self.finished or self.started or self.due or self.created

    @property
    def waited(self) -> timedelta | None:
        """Return the time from when it was due until its last attempt began."""
        return self.started - self.due if self.started and self.due else None

    @property
    def ran(self) -> timedelta | None:
        """Return the duration of its last attempt."""
        return self.finished - self.started if self.started and self.finished else None


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, and the position of the next page; None after the last."""

    rows: list[Row]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A queue of the project.

    Args:
        queued: the number of its tasks that wait for a slot.
        readers: the number of live workers that read it.
    """

    name: str
    queued: int
    scheduled: int
    readers: int

    @property
    def is_unread(self) -> bool:
        """Return whether tasks wait in it that no worker will claim."""
        return not self.readers and bool(self.queued or self.scheduled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The number of tasks in each state, and in each queue of the project or that holds tasks."""

    queued: int
    running: int
    scheduled: int
    ended: int
    queues: list[QueueView]

    @property
    def is_empty(self) -> bool:
        """Return whether no task was ever seen here."""
        return not (self.queued or self.running or self.scheduled or self.ended)


@dataclass(frozen=True, slots=True)
class Reason:
    """Something that is wrong; with an empty ``cure``, nothing needs to be done."""

    text: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker's last heartbeat, and the seconds since then, by the server's clock.

    Its machine's clock is ``ahead`` of the server's by so many seconds.
    """

    beat: Beat
    silent: float
    ahead: float = 0.0

    @property
    def is_live(self) -> bool:
        """Return whether it has sent a heartbeat in the last 15 seconds."""
        return self.silent < LIVE_SECONDS

    def faults(self, project: str, code: str) -> list[Reason]:
        """Return what is wrong with a live worker, compared with the project and code here."""
        beat, found = self.beat, []
        if not self.is_live:
            return []
        if abs(self.ahead) > CLOCK_SECONDS:
            text = (
                f"the clock of {beat.host} is {abs(self.ahead):,.0f} s "
                f"{'ahead of' if self.ahead > 0 else 'behind'} that of Redis ({beat.id})"
            )
            cure = "keep both in time by NTP: schedules and shown times go by them"
            found.append(Reason(text, cure))
        if self.is_foreign(project):
            text = f"{beat.id} belongs to another project, {beat.project}: each fails "
            text += "the other's tasks"
            found.append(Reason(text, "give each project a REDIS_KEY_PREFIX of its own"))
        elif beat.code != code:
            text = f"{beat.id} runs other code (version {beat.version}) than is here"
            found.append(Reason(text, "restart whichever is older"))
        return found

    def is_foreign(self, project: str) -> bool:
        """Return whether it is a worker of another project."""
        return self.beat.project not in {"", project}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetail:
    """Everything that is known about one task.

    Args:
        arguments: shortened texts by name; None if they are no longer kept.
        note: the reason why there are none.
        result: the return value, as text; None if there is nothing to show.
        parents: ids of the tasks that it waits for.
        children: ids of the tasks that wait for it.
        is_dead: whether it left an open dead letter.
    """

    row: Row
    arguments: dict[str, str] | None = None
    note: str = ""
    result: str | None = None
    traceback: str = ""
    failed_tries: list[FailedTry] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    is_dead: bool = False
    can_repeat: bool = False


def moment(milliseconds: object) -> datetime | None:
    """Return a time in UTC; None for 0 and for values that are not a time."""
    number = read_number(milliseconds)
    return datetime.fromtimestamp(number / 1000, UTC) if number else None
