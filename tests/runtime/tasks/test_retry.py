"""The arithmetic of retries."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibetuner.errors import GiveUp
from vibetuner.tasks.retry import (
    ErrorRules,
    FailurePolicy,
    RetryLater,
    RetryPolicy,
    check_number,
    named_wait,
    policy_of,
    set_policy,
    unique_of,
    wanted_arguments,
)
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.unique import Unique

TRIES = st.integers(1, 10**18)
BASES = st.integers(1, 10**6) | st.floats(1, 1e6)
CAPS = st.timedeltas(timedelta(0), timedelta(days=365))
CHANCES = st.floats(0, 1, exclude_max=True)


@given(base=BASES, cap=CAPS, tries=TRIES)
def test_a_wait_grows_up_to_the_cap_and_stays_there(base: float, cap: timedelta, tries: int):
    """A wait never shrinks with the tries and never exceeds the cap, for any number of tries."""
    policy = RetryPolicy(base=base, cap=cap)

    assert policy.delay(tries=tries) <= policy.delay(tries=tries + 1) <= cap
    assert policy.delay(tries=10**18) == (cap if base > 1 else min(cap, timedelta(seconds=1)))


@given(base=st.floats(0, 1, exclude_min=True), tries=TRIES)
def test_a_base_below_one_makes_short_waits(base: float, tries: int):
    """A base below one, as in tests, gives waits from 0 to 1 second for any number of tries."""
    delay = RetryPolicy(base=base).delay(tries=tries)

    assert timedelta(0) <= delay <= timedelta(seconds=1)


@pytest.mark.parametrize(("tries", "seconds"), [(1, 2), (2, 4), (3, 8), (8, 256), (9, 300)])
def test_the_default_is_the_guides_formula(tries: int, seconds: int):
    """The default wait is ``min(2 ** tries, 300)`` seconds."""
    assert RetryPolicy().delay(tries=tries) == timedelta(seconds=seconds)


@given(jitter=st.floats(0, 1), chance=CHANCES, tries=st.integers(1, 100))
def test_chance_only_shortens_a_wait_and_by_no_more_than_it_may(
    jitter: float, chance: float, tries: int
):
    """Jitter shortens a wait by at most its fraction, and the cap holds."""
    longest = RetryPolicy().delay(tries=tries)
    drawn = RetryPolicy(jitter=jitter).delay(tries=tries, chance=chance)

    assert longest * (1 - jitter) - timedelta(microseconds=1) <= drawn <= longest


@given(max_tries=st.integers(1, 10**6), tries=st.integers(1, 10**6))
def test_max_retries_counts_the_first_try_too(max_tries: int, tries: int):
    """``max_retries`` is the maximum number of tries, as in the guide."""
    assert RetryPolicy(max_tries=max_tries).allows_another(tries=tries) == (tries < max_tries)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"max_tries": 0}, ValueError, "max_retries takes at least 1, not 0"),
        ({"max_tries": True}, TypeError, "max_retries takes a whole number, not True"),
        ({"max_tries": 2.0}, TypeError, "max_retries takes a whole number, not 2.0"),
        ({"base": 0}, ValueError, "backoff_base takes a number above 0, not 0"),
        ({"base": "2"}, TypeError, "backoff_base takes a number, not '2'"),
        ({"base": float("nan")}, ValueError, "backoff_base takes a finite number, not nan"),
        ({"base": float("inf")}, ValueError, "backoff_base takes a finite number, not inf"),
        ({"cap": timedelta(seconds=-5)}, ValueError, "backoff_max takes 0 or more, not -5"),
        ({"jitter": 1.5}, ValueError, "jitter takes a number from 0 to 1, not 1.5"),
        ({"jitter": False}, TypeError, "jitter takes a number, not False"),
    ],
)
def test_a_wrong_number_is_named_by_the_guides_word(
    values: dict[str, Any], error: type[Exception], message: str
):
    """The error for a wrong number names max_retries or backoff_base, as the user typed it."""
    with pytest.raises(error, match=message):
        RetryPolicy(**values)


def test_the_ends_of_each_range_are_in_it():
    """A policy may have the smallest and largest values, and without chance the longest wait."""
    assert RetryPolicy(max_tries=1, cap=timedelta(0), jitter=0).delay(tries=1) == timedelta(0)
    assert RetryPolicy(jitter=1).delay(tries=1) == timedelta(seconds=2)


def test_a_later_try_names_its_time():
    """RetryLater without a text names its time, which is at most ten years."""
    assert str(RetryLater(after=90)) == "asked to be tried again after 90 s"
    for longest in (timedelta(days=3653), timedelta(0)):
        assert RetryLater(after=longest).delay == longest
    for wrong in (3653 * 86400 + 1, -1):
        with pytest.raises(ValueError, match=f"^after takes 0 seconds to ten years, not {wrong}$"):
            RetryLater(after=wrong)
    with pytest.raises(TypeError, match="^after takes a number, not True$"):
        RetryLater(after=True)


def test_a_later_try_can_be_pickled():
    """RetryLater keeps its keyword argument when it is pickled."""
    copy = pickle.loads(pickle.dumps(RetryLater("soon", after=5)))
    assert (str(copy), copy.after, copy.delay) == ("soon", timedelta(seconds=5), copy.after)


@pytest.mark.parametrize("after", [-1, timedelta(seconds=-1), float("nan"), "5", True, 1e300])
def test_a_later_try_takes_a_duration(after: Any):
    """RetryLater refuses a wrong `after` in the task, not later in the worker."""
    with pytest.raises((TypeError, ValueError), match="after takes"):
        RetryLater(after=after)


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ({"give_up_on": "ValueError"}, TypeError, "give_up_on takes classes of exceptions, not 'V"),
        ({"retry_on": (ValueError("x"),)}, TypeError, "retry_on takes classes of exceptions"),
        ({"retry_on": (KeyboardInterrupt,)}, TypeError, "retry_on takes classes of exceptions"),
        ({"retry_on": OSError, "give_up_on": (OSError,)}, ValueError, "OSError is listed twice"),
    ],
)
def test_rules_are_refused_at_decoration(rules, error, message):
    """A wrong rule raises an error with the parameter and the value."""
    with pytest.raises(error, match=message):
        robust_task(**rules)


def test_the_nearest_class_decides():
    """The error's nearest listed class decides, so a subclass can be an exception to a rule."""
    rules = ErrorRules(give_up_on=(OSError, UnicodeError), retry_on=(ConnectionError, Exception))
    given_up = [FileNotFoundError(), UnicodeDecodeError("a", b"", 0, 1, "b"), GiveUp()]
    again = [ConnectionResetError(), ValueError(), KeyError(), RetryLater(after=1)]
    assert [rules.gives_up(error) for error in given_up] == [True] * 3
    assert [rules.gives_up(error) for error in again] == [False] * 4
    assert ErrorRules(retry_on=OSError).gives_up(KeyError())
    assert not ErrorRules(give_up_on=OSError).gives_up(KeyError())
    assert not ErrorRules(give_up_on=Exception).gives_up(RetryLater(after=1))


def test_a_group_gives_up_when_one_of_its_errors_does():
    """A group of errors, as a TaskGroup raises, gives up if one of its errors does."""
    rules = ErrorRules(give_up_on=OSError)
    assert rules.gives_up(ExceptionGroup("", [KeyError(), OSError()]))
    assert not rules.gives_up(ExceptionGroup("", [KeyError(), KeyError()]))


NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


class Busy(OSError):
    """An error with attributes, as a client library raises it."""

    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Busy(retry_after=90), 90),
        (Busy(retry_after=timedelta(minutes=2)), 120),
        (Busy(retry_after="1.5"), None),
        (Busy(retry_after=" 15 "), 15),
        (Busy(retry_after=-5), 0),
        (Busy(retry_after=0, headers={"Retry-After": "7"}), 0),
        (Busy(retry_after=10**400), None),
        (Busy(retry_after=86401), 86400),
        (Busy(headers={"Retry-After": "7"}), 7),
        (Busy(headers={"retry-after": "8"}), 8),
        (Busy(headers={"Retry-After": "7", "retry-after": "8"}), 7),
        (Busy(headers={}), None),
        (Busy(headers="Retry-After"), None),
        (Busy(response=Busy(headers={"Retry-After": "9"}), headers={"Retry-After": "7"}), 9),
        (Busy(retry_after="Fri, 27 Nov 2026 12:01:00 GMT"), 60),
        (Busy(retry_after="Fri, 27 Nov 2026 12:01:00 -0000"), 60),
        (Busy(retry_after="Fri, 27 Nov 2026 12:01:00 +0100"), 0),
        (Busy(retry_after="Fri, 27 Nov 2026 14:01:00 +0200"), 60),
        (Busy(retry_after="soon"), None),
        (Busy(), None),
    ],
    ids=lambda value: str(vars(value)) if isinstance(value, Busy) else str(value),
)
def test_an_answer_may_name_the_wait(error: Busy, seconds: int | None):
    """A wait is given in seconds, as a timedelta or as a date, and limited to a day."""
    wait = None if seconds is None else timedelta(seconds=seconds)
    assert named_wait(error, NOW) == wait


def test_the_policy_of_a_task_is_its_own():
    """A task has no policy, and so no Unique, until one is set."""
    task, policy = Busy(), FailurePolicy(retry=RetryPolicy(), unique=Unique())
    assert (policy_of(task), unique_of(task)) == (None, None)
    set_policy(task, policy)
    assert (policy_of(task), unique_of(task)) == (policy, policy.unique)


def test_on_failure_gets_the_arguments_that_it_declares():
    """on_failure gets `args` and `kwargs`, each only if it is a keyword-only parameter."""

    def both(name: str, task_id: str, error: Exception, *, args: Any, kwargs: Any) -> None: ...
    def one(name: str, task_id: str, error: Exception, *, kwargs: Any) -> None: ...
    def none(args: str, kwargs: str, error: Exception, *, other: int = 0) -> None: ...

    found = [wanted_arguments(each, (7,), {"a": 8}) for each in (both, one, none)]
    assert found == [{"args": (7,), "kwargs": {"a": 8}}, {"kwargs": {"a": 8}}, {}]


@pytest.mark.parametrize("value", [10**300, -(10**300), 1.7e308, 0])
def test_a_large_number_is_a_number(value: float):
    """Any finite float is accepted, and an int of at most 1e300."""
    assert check_number("delay", value) is value


@given(named=st.text() | st.floats() | st.integers() | st.none() | st.binary() | st.timedeltas())
def test_whatever_an_answer_names_the_wait_is_none_or_up_to_a_day(named: object):
    """Any `retry_after` that a server sends gives no wait, or one from 0 to a day."""
    error = OSError()
    error.retry_after = named  # type: ignore[attr-defined]
    wait = named_wait(error, datetime.now(UTC))
    assert wait is None or timedelta(0) <= wait <= timedelta(days=1)
