"""Crontab lines: five fields, parsed by the ``crontab`` package, and checked."""

from __future__ import annotations

from datetime import UTC, datetime

from crontab import CronTab

from vibetuner.errors import counted

# The names of the fields as in crontab(5), and the values that each takes.
FIELDS = {
    "minute": "0-59",
    "hour": "0-23",
    "day of month": "1-31 or L",
    "month": "1-12 or JAN-DEC",
    "day of week": "0-7 or SUN-SAT",
}
ALIASES = ("@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@annually")

# The search for a next run starts here, so that its result does not depend on today.
SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)


def check_crontab(tab: str) -> None:
    """Raise unless ``tab`` is a valid schedule that comes due at some time.

    The package also reads six fields, with a year at the end, and seven, with seconds first. A
    person who types six fields means seconds, so only five are accepted.

    Raises:
        TypeError: it is not a text.
        ValueError: the number of fields is wrong, a field holds a wrong value, or no date fits.

    >>> check_crontab("*/15 9-17 * * mon-fri")
    >>> check_crontab("60 * * * *")
    Traceback (most recent call last):
    ValueError: The schedule '60 * * * *' has a wrong minute: 60 (takes 0-59, *, lists and steps)
    """
    if not isinstance(tab, str):
        raise TypeError(f"A schedule is a text such as '0 3 * * *', not {tab!r}")
    if tab in ALIASES:
        return
    fields = tab.split()
    if not tab.isprintable():
        raise ValueError(f"The schedule {tab!r} takes only spaces between its fields")
    if len(fields) != len(FIELDS):
        raise ValueError(
            f"The schedule {tab!r} has {counted(len(fields), 'field')} and "
            f"takes five ({', '.join(FIELDS)}), such as '0 3 * * *', or {ALIASES[1]} and its like"
        )
    for position, (name, values) in enumerate(FIELDS.items()):
        _check_field(tab, fields[position], position, name, values)
    if CronTab(tab).next(now=SOME_DAY) is None:
        raise ValueError(f"The schedule {tab!r} never comes due: no month has such a day")


def find_ambiguity(tab: str) -> str | None:
    """Return a warning about a line that cron would read differently, else None.

    If a line restricts both day fields, POSIX cron runs it when *either* matches; our engine runs
    it when *both* match. If one of them begins with ``*``, cron also requires both.

    >>> find_ambiguity("0 9 * * fri") is find_ambiguity("0 9 */2 * fri") is None
    True
    >>> find_ambiguity("0 9 13 * fri")
    "the schedule '0 9 13 * fri' runs only on a day that is both day of month 13 and ..."
    """
    fields = tab.split()
    if len(fields) != len(FIELDS):
        return None
    day, weekday = fields[2], fields[4]
    if day.startswith(("*", "?")) or weekday.startswith(("*", "?")):
        return None
    return (
        f"the schedule {tab!r} runs only on a day that is both day of month {day} and day of week "
        f"{weekday}; for days that are either, as POSIX cron has it, write two schedules"
    )


def _check_field(tab: str, value: str, position: int, name: str, values: str) -> None:
    alone = ["*"] * len(FIELDS)
    alone[position] = value
    try:
        CronTab(" ".join(alone))
    except ValueError:
        raise ValueError(
            f"The schedule {tab!r} has a wrong {name}: {value} (takes {values}, *, lists and steps)"
        ) from None
