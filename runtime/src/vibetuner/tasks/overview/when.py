"""Moments as people type them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from vibetuner.errors import CommandError

__all__ = ["parse_moment"]

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_moment(text: str, now: datetime, what: str = "A time") -> datetime:
    """A moment: so long before ``now``, or a date, in UTC unless it says otherwise.

    Raises:
        CommandError: it is neither; the message begins with ``what``.

    >>> parse_moment("2h", datetime(2026, 5, 1, 12, tzinfo=UTC)).isoformat()
    '2026-05-01T10:00:00+00:00'
    >>> parse_moment("2026-04-30", datetime(2026, 5, 1, tzinfo=UTC)).isoformat()
    '2026-04-30T00:00:00+00:00'
    """
    try:
        if match := re.fullmatch(r"(\d+)\s*([smhdw])", text.strip()):
            return now - timedelta(**{UNITS[match[2]]: int(match[1])})
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise CommandError(
            f"{what} takes 30m, 2h, 3d or a date such as {now:%Y-%m-%d}, not {text!r}"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
