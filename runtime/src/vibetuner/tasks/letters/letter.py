"""The record of a task that will not be retried, the act on it, its group, and pages of records.

Pure: nothing here does I/O.
"""

from __future__ import annotations

import base64
import hashlib
import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from vibetuner.stored import Count, Moment, Unreadable, read_record
from vibetuner.tasks.attempt import Cause
from vibetuner.timing import EPOCH

ACT_FIELDS = frozenset({"retried_as", "retried_at", "discarded_at", "acted_by"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The record of a task that will not be retried.

    Args:
        task_name: the task's name; ``unknown`` when its payload is gone or can't be read.
        task_id: the id that ``enqueue`` returned; each id has one record. If it is used again, a
            record that was retried or discarded is replaced.
        error: the message of the last error, shortened to 1,000 characters.
        error_type: the class of the last error.
        tries: the number of attempts.
        failed_at: when it was given up, UTC.
        cause: the reason why it is not retried.
        args: the arguments as people read them: numbers and texts as they are, the rest as text.
        kwargs: the keyword arguments, in the same form.
        traceback: the error's traceback, from the project's first line on.
        worker_id: the worker that gave it up.
        queue: the name of the project's keys in Redis.
        priority: the queue that it was in; empty in letters of older versions.
        enqueued_at: when it was enqueued, UTC.
        fingerprint: identifies the bug.
        payload: the call, with half of its signature: a retry can check it and sign it again, but
            nobody can run it.
        retried_as: the id of the task that a retry enqueued.
        retried_at: when a retry enqueued that task, UTC.
        discarded_at: when it was discarded, UTC.
        acted_by: the person who retried or discarded it, if they gave a name.
    """

    task_name: str
    task_id: str
    error: str
    error_type: str
    tries: Count
    failed_at: Moment
    cause: Cause
    args: list[Any]
    kwargs: dict[str, Any]
    traceback: str
    worker_id: str
    queue: str
    enqueued_at: Moment | None
    fingerprint: str
    payload: bytes = b""
    priority: str = ""
    retried_as: str | None = None
    retried_at: Moment | None = None
    discarded_at: Moment | None = None
    acted_by: str | None = None

    @property
    def is_open(self) -> bool:
        """Return whether it was neither retried nor discarded."""
        return self.retried_as is None and self.discarded_at is None

    @property
    def act(self) -> str:
        """Return what was done with it, by whom and when; empty while it is open."""
        if self.is_open:
            return ""
        verb, at = f"retried as {self.retried_as}", self.retried_at
        if self.retried_as is None:
            verb, at = "discarded", self.discarded_at
        by = f" by {self.acted_by}" if self.acted_by else ""
        when = f" on {at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else ""
        return f"{verb}{by}{when}"

    def to_json(self) -> str:
        """Return one line of JSON that :meth:`from_json` reads back."""
        values = self.to_document()
        values["payload"] = base64.b64encode(self.payload).decode()
        return json.dumps(values, default=datetime.isoformat)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the text of :meth:`to_json`; raise Unreadable for anything else."""
        try:
            values = json.loads(text)
            values["payload"] = base64.b64decode(values["payload"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise Unreadable(type(error).__name__) from None
        return cls.from_document(values)

    def to_document(self) -> dict[str, Any]:
        """Return the fields as MongoDB keeps them, without those of an act until there is one."""
        values = {**asdict(self), "cause": self.cause.value}
        return {k: v for k, v in values.items() if k not in ACT_FIELDS or v is not None}

    @classmethod
    def from_document(cls, values: Mapping[str, Any]) -> Self:
        """Parse the fields of :meth:`to_document`; raise Unreadable for anything else."""
        return read_record(cls, values)

    def acted_on(self, **fields: Any) -> Self:
        """Return a copy of the letter with the fields of an act."""
        return replace(self, **fields)


def fingerprint(task_name: str, cause: Cause, error: BaseException) -> str:
    """Return a text that is equal for the same bug: task, cause, error class, and functions.

    Messages are left out because they contain ids and times, and line numbers because they change.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.name}" for frame in frames]
    parts = [task_name, cause.value, type(error).__name__, *places]
    if cause not in {Cause.EXCEPTION, Cause.GAVE_UP, Cause.TIMEOUT}:
        parts = [task_name, cause.value]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """A person's act on a letter: retried or, if ``retried_as`` is None, discarded."""

    at: Moment
    by: str | None = None
    retried_as: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of the letter that it sets."""
        who = {"acted_by": self.by} if self.by else {}
        if self.retried_as is None:
            return {"discarded_at": self.at, **who}
        return {"retried_as": self.retried_as, "retried_at": self.at, **who}


def retry_id(letter: DeadLetter) -> str:
    """Return the id under which a letter's task is retried: always the same for one letter.

    An id of the project's own may have been used for an earlier task.
    """
    about = f"retry of {letter.task_id} of {letter.enqueued_at}"
    return hashlib.sha256(about.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The open letters of one fingerprint.

    Args:
        fingerprint: identifies the bug.
        error: the newest message, with its class.
        first: when the oldest task failed.
        last: when the newest task failed.
    """

    fingerprint: str
    task: str
    cause: Cause
    error: str
    count: Count
    first: Moment
    last: Moment


@dataclass(frozen=True, slots=True)
class Page:
    """A page of letters, the newest first.

    Args:
        letters: the letters.
        next: the position of the next page; None after the last.
        unreadable: the ids of unreadable letters: damaged, or of a newer version.
    """

    letters: list[DeadLetter]
    next: str | None = None
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """The letters to list; a filter that is None matches all.

    Raises:
        ValueError: ``since`` has no time zone.
    """

    task: str | None = None
    cause: Cause | None = None
    fingerprint: str | None = None
    since: datetime | None = None
    open_only: bool = True

    def __post_init__(self) -> None:
        if self.since is not None and self.since.tzinfo is None:
            raise ValueError(f"since takes a time with a time zone, not {self.since!r}")
        if self.since is not None:  # the first years can't be converted or reduced
            object.__setattr__(self, "since", max(self.since, EPOCH))

    @property
    def exact(self) -> dict[str, str]:
        """Return the fields of a letter that must be equal."""
        values = {"task_name": self.task, "cause": self.cause, "fingerprint": self.fingerprint}
        return {name: str(value) for name, value in values.items() if value is not None}

    @property
    def narrowed(self) -> bool:
        """Return whether a filter other than ``open_only`` is set."""
        return any((self.task, self.cause, self.fingerprint, self.since))

    def match(self, group: Group) -> bool:
        """Return whether a group's letters match, as far as the group shows."""
        return (
            self.task in {None, group.task}
            and self.cause in {None, group.cause}
            and self.fingerprint in {None, group.fingerprint}
        )

    def count(self, groups: Sequence[Group]) -> int | None:
        """Return how many letters of matching groups match; None if only each letter can tell."""
        since = self.since
        if since is None:
            return sum(group.count for group in groups)
        if any(group.first < since <= group.last for group in groups):
            return None
        return sum(group.count for group in groups if group.first >= since)
