"""What is kept of a task that will not be tried again. Pure: nothing here talks to anything."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from streaq.types import StreaqError

from vibetuner.errors import mask_secrets
from vibetuner.logs import format_traceback

__all__ = [
    "Cause",
    "DeadLetter",
    "as_moment",
    "cause_of",
    "fingerprint",
    "plain",
    "plain_text",
    "plain_traceback",
]

ACT_FIELDS = frozenset({"retried_as", "retried_at", "discarded_at", "acted_by"})

MOMENTS = frozenset({"enqueued_at", "failed_at", "retried_at", "discarded_at"})

LONGEST_TEXT = 1000
LONGEST_TRACEBACK = 20_000
LONGEST_VALUE = 50_000
MOST_VALUES = 1000
DEEPEST = 10


class Cause(StrEnum):
    """Why a task will not be tried again."""

    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    EXPIRED = "expired"
    UNKNOWN_FUNCTION = "unknown_function"
    UNREADABLE_PAYLOAD = "unreadable_payload"
    UNIQUE_CLASH = "unique_clash"
    CRON_DRIFT = "cron_drift"
    FAILED_DEPENDENCY = "failed_dependency"


# How the engine words the ends that it decides itself (streaq 7.2, worker.py).
ENGINE_WORDS = {
    "Max retry attempts": Cause.CRASHED,
    "Task expired": Cause.EXPIRED,
    "Missing function": Cause.UNKNOWN_FUNCTION,
    "Invalid signature": Cause.UNREADABLE_PAYLOAD,
    "Failed to deserialize": Cause.UNREADABLE_PAYLOAD,
    "Task is unique": Cause.UNIQUE_CLASH,
    "Cron task exceeded": Cause.CRON_DRIFT,
    "Dependency failed": Cause.FAILED_DEPENDENCY,
}


def cause_of(error: BaseException) -> Cause:
    """The cause behind an error that the engine or a task has ended with.

    >>> cause_of(StreaqError("Task expired!")).value
    'expired'
    >>> cause_of(ValueError("no")).value
    'exception'
    """
    if isinstance(error, StreaqError):
        for words, cause in ENGINE_WORDS.items():
            if str(error).startswith(words):
                return cause
    return Cause.EXCEPTION


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The record of a task that will not be tried again.

    Args:
        task_name: the task's name; ``unknown`` when its payload is gone or can't be read.
        task_id: the id that ``enqueue`` returned; there is one record an id.
        error: the message of the last error, shortened to 1,000 characters.
        error_type: its class.
        tries: how often the task was begun.
        failed_at: when it was given up, UTC.
        cause: which of the ways to end it was.
        args: the arguments, in a form for people: numbers and texts as they are, the rest as text.
        kwargs: the same by name.
        traceback: where it failed, from the project's first line on.
        worker_id: the worker that gave it up.
        queue: the queue it was in.
        enqueued_at: when it was enqueued, UTC.
        fingerprint: the same for the same bug.
        payload: what was enqueued, as it was stored; retrying enqueues just this.
        retried_as: the id of the task that a retry has enqueued.
        retried_at: when that was, UTC.
        discarded_at: when a person has decided against a retry, UTC.
        acted_by: who has retried or discarded it, if they said so.
    """

    task_name: str
    task_id: str
    error: str
    error_type: str
    tries: int
    failed_at: datetime
    cause: Cause
    args: list[Any]
    kwargs: dict[str, Any]
    traceback: str
    worker_id: str
    queue: str
    enqueued_at: datetime | None
    fingerprint: str
    payload: bytes = b""
    retried_as: str | None = None
    retried_at: datetime | None = None
    discarded_at: datetime | None = None
    acted_by: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether nobody has retried or discarded it yet."""
        return self.retried_as is None and self.discarded_at is None

    def to_json(self) -> str:
        """One line of JSON; :meth:`from_json` reads it back."""
        values = self.to_document()
        values["payload"] = base64.b64encode(self.payload).decode()
        return json.dumps(values, default=datetime.isoformat)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        values = json.loads(text)
        values["payload"] = base64.b64decode(values["payload"])
        return cls.from_document(values)

    def to_document(self) -> dict[str, Any]:
        """The fields as MongoDB keeps them; those of an act only once there was one."""
        values = {**asdict(self), "cause": self.cause.value}
        return {k: v for k, v in values.items() if k not in ACT_FIELDS or v is not None}

    @classmethod
    def from_document(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_document` wrote; fields of other versions are left out."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        for name in MOMENTS & known.keys():
            if known[name] is not None:
                known[name] = as_moment(known[name])
        return cls(**{**known, "cause": Cause(known["cause"])})

    def acted_on(self, **fields: Any) -> Self:
        """The same, once a person has retried or discarded it."""
        return replace(self, **fields)


def as_moment(stored: datetime | str) -> datetime:
    """A moment as a store gives it: in JSON, and where the embedded server has updated, a text."""
    moment = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def fingerprint(task_name: str, cause: Cause, error: BaseException) -> str:
    """The same for the same bug: task, cause, error class, and the lines it came through.

    Messages are left out, which carry ids and times; so are line numbers, which move.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.name}" for frame in frames]
    parts = [task_name, cause.value, type(error).__name__, *places]
    if cause not in {Cause.EXCEPTION, Cause.TIMEOUT}:
        parts = [task_name, cause.value]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """A value that JSON and MongoDB both take: numbers, texts, lists and dicts of such, else text.

    It is for people to read, so what is very long or deep is cut short.

    >>> plain({"at": datetime(2026, 1, 2, tzinfo=UTC), "ids": (1, 2)})
    {'at': '2026-01-02 00:00:00+00:00', 'ids': [1, 2]}
    """
    shown = _plain(value, DEEPEST, iter(range(MOST_VALUES)))
    size = len(json.dumps(shown))
    if size <= LONGEST_VALUE:
        return shown
    # A list stays a list and a dict a dict, as whoever reads the record expects.
    note = f"too long to show: {size} characters"
    return [note] if isinstance(shown, list) else {"…": note} if isinstance(shown, dict) else note


def _plain(value: Any, depth: int, budget: Iterator[int]) -> Any:
    shown: Any
    match value:
        case None | bool():
            shown = value
        case int() if -(2**63) <= value < 2**63:
            shown = int(value)
        case float() if math.isfinite(value):
            return float(value)
        case list() | tuple() | dict() if not depth:
            return "…"
        case list() | tuple():
            return [_plain(item, depth - 1, budget) for item, _ in zip(value, budget, strict=False)]
        case dict():
            shown = {
                plain_text(name): _plain(item, depth - 1, budget)
                for (name, item), _ in zip(value.items(), budget, strict=False)
            }
        case _:
            shown = plain_text(value)
    return shown


def plain_text(value: Any, longest: int = LONGEST_TEXT) -> str:
    """``str(value)``, cut in the middle to ``longest``; what neither store takes is replaced.

    >>> plain_text("abcdefghij", longest=5)
    'ab…ij'
    >>> plain_text(chr(0) + chr(0xDCFF))
    '�?'
    """
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - somebody's __str__ must not cost the letter
        text = f"a {type(value).__name__} ({type(error).__name__} in its __str__)"
    text = mask_secrets(text)  # before a cut could leave half of one
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-(longest - longest // 2 - 1) :]}"
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def plain_traceback(error: BaseException, longest: int = LONGEST_TRACEBACK) -> str:
    """Where an error comes from, as :func:`plain_text`; empty for one that was never raised."""
    if error.__traceback__ is None:
        return ""
    try:
        return plain_text(format_traceback(error), longest)
    except Exception as failure:  # noqa: BLE001 - somebody's __str__ must not cost the record
        return f"can't be shown ({type(failure).__name__})"
