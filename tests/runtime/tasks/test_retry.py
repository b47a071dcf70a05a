"""The arithmetic of trying again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibetuner.tasks.retry import RetryPolicy

TRIES = st.integers(1, 10**18)
BASES = st.integers(1, 10**6) | st.floats(1, 1e6)
CAPS = st.timedeltas(timedelta(0), timedelta(days=365))
CHANCES = st.floats(0, 1, exclude_max=True)


@given(base=BASES, cap=CAPS, tries=TRIES)
def test_a_wait_grows_up_to_the_cap_and_stays_there(base: float, cap: timedelta, tries: int):
    """However often it was tried: no number is too large."""
    policy = RetryPolicy(base=base, cap=cap)

    assert policy.delay(tries=tries) <= policy.delay(tries=tries + 1) <= cap
    assert policy.delay(tries=10**18) == (cap if base > 1 else min(cap, timedelta(seconds=1)))


@given(base=st.floats(0, 1, exclude_min=True), tries=TRIES)
def test_a_base_below_one_makes_short_waits(base: float, tries: int):
    """Tests like them; nothing underflows."""
    delay = RetryPolicy(base=base).delay(tries=tries)

    assert timedelta(0) <= delay <= timedelta(seconds=1)


@pytest.mark.parametrize(("tries", "seconds"), [(1, 2), (2, 4), (3, 8), (8, 256), (9, 300)])
def test_the_default_is_the_guides_formula(tries: int, seconds: int):
    """``min(2 ** tries, 300)`` seconds."""
    assert RetryPolicy().delay(tries=tries) == timedelta(seconds=seconds)


@given(jitter=st.floats(0, 1), chance=CHANCES, tries=st.integers(1, 100))
def test_chance_only_shortens_a_wait_and_by_no_more_than_it_may(
    jitter: float, chance: float, tries: int
):
    """The cap holds with jitter too."""
    longest = RetryPolicy().delay(tries=tries)
    drawn = RetryPolicy(jitter=jitter).delay(tries=tries, chance=chance)

    assert longest * (1 - jitter) - timedelta(microseconds=1) <= drawn <= longest


@given(max_tries=st.integers(1, 10**6), tries=st.integers(1, 10**6))
def test_max_retries_counts_the_first_try_too(max_tries: int, tries: int):
    """As the guide has it: "maximum attempts"."""
    assert RetryPolicy(max_tries=max_tries).allows_another(tries=tries) == (tries < max_tries)


@pytest.mark.parametrize(
    ("values", "error", "words"),
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
    values: dict[str, Any], error: type[Exception], words: str
):
    """The message says max_retries and backoff_base, as people typed, not our inner names."""
    with pytest.raises(error, match=words):
        RetryPolicy(**values)
