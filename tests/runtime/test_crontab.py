"""Crontab lines: those that are refused, and those that cron reads differently."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from crontab import CronTab
from hypothesis import given
from hypothesis import strategies as st

from vibetuner.crontab import check_crontab, find_ambiguity


@pytest.mark.parametrize(
    "tab",
    ["* * * * *", "*/15 9-17 * * mon-fri", "0 0 29 2 *", "0 0 L * *", "0 0 * * 7", "5/10 * * * *",
     "@daily", "0 0 1,15 jan-jun/2 ?"],
)  # fmt: skip
def test_a_line_that_comes_due_is_accepted(tab: str):
    """A line that comes due is accepted, including the package's own extensions."""
    assert check_crontab(tab) is None


@pytest.mark.parametrize(
    ("tab", "words"),
    [
        ("60 * * * *", "wrong minute: 60 .takes 0-59"),
        ("* 24 * * *", "wrong hour: 24 .takes 0-23"),
        ("* * 0 * *", "wrong day of month: 0 .takes 1-31"),
        ("* * * 13 *", "wrong month: 13"),
        ("* * * * 8", "wrong day of week: 8"),
        ("*/0 * * * *", r"wrong minute: \*/0"),
        ("1,, * * * *", "wrong minute: 1,,"),
        ("10-5 * * * *", "wrong minute: 10-5"),
        ("* * * foo *", "wrong month: foo"),
        ("* * * *", "has 4 fields and takes five"),
        ("0 0 3 * * *", "has 6 fields and takes five"),
        ("0 0 3 * * * 2030", "has 7 fields and takes five"),
        ("", "has 0 fields and takes five"),
        ("@reboot", "has 1 field and takes five"),
        ("0 0\t3 * *", "takes only spaces between its fields"),
        ("0 0 30 2 *", "never comes due"),
        ("0 0 31 4,6,9,11 *", "never comes due"),
    ],
)
def test_a_wrong_line_is_refused_with_its_field(tab: str, words: str):
    """A wrong line is refused in one line of text, with the schedule and its wrong field."""
    with pytest.raises(ValueError, match=words) as raised:
        check_crontab(tab)

    assert repr(tab) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_text_is_no_schedule():
    """A schedule that is no text, as of a decorator without parentheses, raises TypeError."""
    with pytest.raises(TypeError, match="A schedule is a text such as '0 3"):
        check_crontab(None)  # type: ignore[arg-type]


FIELD = st.text(alphabet="0123456789*/-,?lzLjanmo", min_size=1, max_size=5)


@given(st.lists(FIELD, min_size=5, max_size=5))
def test_an_accepted_line_has_a_next_run_and_nothing_but_value_errors_refuse(fields: list[str]):
    """Any five fields either have a next run, or raise ValueError."""
    tab = " ".join(fields)
    with suppress(ValueError):
        check_crontab(tab)
        assert CronTab(tab).next(now=datetime(2026, 1, 1, tzinfo=UTC)) is not None


@pytest.mark.parametrize("tab", ["0 9 13 * fri", "0 9 1-7 * 1", "0 9 L * 5"])
def test_two_restricted_days_are_read_differently_by_cron(tab: str):
    """A line that restricts both days is ambiguous: POSIX cron runs when either of them fits."""
    assert "both" in str(find_ambiguity(tab))


@pytest.mark.parametrize(
    "tab", ["0 9 * * fri", "0 9 13 * *", "0 9 */2 * fri", "@daily", "nonsense"]
)
def test_other_lines_are_read_alike(tab: str):
    """A line that cron reads alike, such as one with an asterisk as a day, is not ambiguous."""
    assert find_ambiguity(tab) is None


def test_a_schedule_with_both_days_runs_when_both_fit():
    """A schedule of the thirteenth and Fridays runs next on 13 August 2027, which is both."""
    due = CronTab("0 9 13 * fri").next(now=datetime(2027, 1, 1, tzinfo=UTC), return_datetime=True)

    assert due == datetime(2027, 8, 13, 9, tzinfo=UTC)
