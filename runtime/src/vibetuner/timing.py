"""Durations and times as people write them, and the pauses between attempts."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from vibetuner.errors import CommandError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def now_ms() -> int:
    """Return now, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def backoff(failures: int, first: float, longest: float) -> float:
    """Return the pause in seconds after this many failures in a row: doubled each time.

    >>> [backoff(n, 0.5, 5) for n in (1, 2, 3, 4, 5, 10_000)]
    [0.5, 1.0, 2.0, 4.0, 5, 5]
    """
    return min(first * 2.0 ** min(failures - 1, 60), longest)


def duration(milliseconds: float | None) -> str:
    """Return a duration in one or two units; a dash for None.

    >>> [duration(ms) for ms in (None, 12.3, 4210, 5000, 125_000, 7_320_000, 200_000_000)]
    ['-', '12 ms', '4.2 s', '5 s', '2 min 5 s', '2 h 2 min', '2 d 7 h']
    """
    if milliseconds is None:
        return "-"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 59_950:
        return f"{milliseconds / 1000:.1f}".removesuffix(".0") + " s"
    seconds = round(milliseconds / 1000)
    for size, unit, part, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {below}"
    return f"{seconds // 60} min {seconds % 60} s"


def ago(at: datetime, now: datetime) -> str:
    """Return the distance of a time from ``now`` in words.

    >>> at = datetime(2026, 5, 1, 12, tzinfo=UTC)
    >>> ago(at, at.replace(minute=3)), ago(at.replace(hour=15), at)
    ('3 min 0 s ago', 'in 3 h 0 min')
    """
    seconds = (now - at).total_seconds()
    if abs(seconds) < 2:
        return "now"
    span = duration(abs(seconds) * 1000)
    return f"{span} ago" if seconds > 0 else f"in {span}"


def parse_moment(text: str, now: datetime, what: str = "A time") -> datetime:
    """Parse a duration before ``now``, or a date, which is in UTC unless it has another zone.

    A time before 1970 counts as its beginning, as stores and servers know none before.

    Raises:
        CommandError: it is neither; the message begins with ``what``.

    >>> parse_moment("2h", datetime(2026, 5, 1, 12, tzinfo=UTC)).isoformat()
    '2026-05-01T10:00:00+00:00'
    >>> parse_moment("2026-04-30", datetime(2026, 5, 1, tzinfo=UTC)).isoformat()
    '2026-04-30T00:00:00+00:00'
    >>> parse_moment("0001-01-01", datetime(2026, 5, 1, tzinfo=UTC)) == EPOCH
    True
    """
    try:
        if match := re.fullmatch(r"(\d+)\s*([smhdw])", text.strip(), re.ASCII):
            moment = now - timedelta(**{UNITS[match[2]]: int(match[1])})
        else:
            moment = datetime.fromisoformat(text.strip())
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(EPOCH, moment.astimezone(UTC))
    except (ValueError, OverflowError):
        raise CommandError(
            f"{what} takes 30m, 2h, 3d or a date such as {now:%Y-%m-%d}, not {text!r}"
        ) from None
