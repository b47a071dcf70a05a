"""Writes records, and reads those that anybody may have written: a bad one is unreadable."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from annotated_types import Interval
from pydantic import BeforeValidator, TypeAdapter, ValidationError

T = TypeVar("T")

YEAR_3000 = 32_503_680_000_000


class Unreadable(ValueError):  # noqa: N818 - a state of the record
    """A record is not one that we write: it is damaged, forged, or of a newer version."""


def as_moment(stored: object) -> datetime:
    """Return a stored time, a datetime or an ISO text, as a datetime in UTC.

    Raises ValueError if it is neither.
    """
    try:
        moment = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    except ValueError:
        moment = None  # the error's own message holds the value
    if not isinstance(moment, datetime):
        raise ValueError("no moment")  # noqa: TRY004 - what pydantic reports as invalid
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a moment outside the calendar") from None


#: A number of items.
Count = Annotated[int, Interval(ge=0, le=2**53)]
#: A time in milliseconds since 1970; 0 means none.
Millis = Annotated[int, Interval(ge=0, le=YEAR_3000)]
#: A time as a datetime in UTC.
Moment = Annotated[datetime, BeforeValidator(as_moment)]


def dump_record(record: Any) -> str:
    """Return a dataclass or a named tuple as one line of JSON, for :func:`read_record`."""
    values = record if isinstance(record, tuple) else asdict(record)
    return json.dumps(values, default=datetime.isoformat)


def read_record(kind: type[T], stored: object) -> T:
    """Return a record of a dataclass or a named tuple from its JSON, its dict or its list.

    Fields that ``kind`` doesn't have are ignored: a newer version wrote them.

    Raises Unreadable if it is not such a record; the message names the field and shows no value.
    """
    try:
        values = _loads(stored) if isinstance(stored, str) else stored
        if isinstance(values, list):
            values = values[: len(getattr(kind, "_fields", ()))]
        # Named tuples take a list, dataclasses a dict; each refuses anything else.
        return cast("T", adapter(kind).validate_python(values))  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Unreadable(f"{where}: {first['msg']}".removeprefix(": ")) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise Unreadable(type(error).__name__) from None


def read_or_none(kind: type[T], stored: object) -> T | None:
    """Return a record as :func:`read_record` does, or None if it can't be read."""
    try:
        return read_record(kind, stored)
    except Unreadable:
        return None


def read_number(stored: object) -> int:
    """Return a whole number of 0 or more; 0 for anything else.

    >>> [read_number(x) for x in ("12", 3.7, None, "x", "-4", float("inf"))]
    [12, 3, 0, 0, 0, 0]
    """
    try:
        number = int(stored)  # type: ignore[call-overload]
    except (ValueError, TypeError, OverflowError):
        return 0
    return number if 0 <= number <= YEAR_3000 else 0


def _loads(text: str) -> Any:
    values = json.loads(text)
    if "\\ud" in text.lower():  # a lone surrogate, which no page and no terminal accepts
        json.dumps(values, ensure_ascii=False).encode()
    return values


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return pydantic's adapter of a type, which takes long to make."""
    return TypeAdapter(kind)
