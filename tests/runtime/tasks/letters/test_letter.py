"""Dead letters are kept whatever the task's arguments are."""

from __future__ import annotations

import json
from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.tasks.letters.conftest import make_letter
from vibetuner.tasks.dead_letters import Cause, DeadLetter
from vibetuner.tasks.letters.letter import fingerprint
from vibetuner.tasks.letters.plain import plain, plain_text, plain_traceback


class Mute:
    """An object that raises when it is shown."""

    def __str__(self) -> str:
        raise RuntimeError("no session is open")

    __repr__ = __str__


def deep() -> list[Any]:
    """Return a list that is nested 5000 times."""
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    return value


def endless() -> list[Any]:
    """Return a list that contains itself ten times."""
    value: list[Any] = []
    value.extend([value] * 10)
    return value


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary()
    | st.text(st.characters()) | st.dates(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner)
    ),
    max_leaves=10,
)  # fmt: skip


@given(anything)
def test_both_stores_take_whatever_was_passed(value: Any):
    """Any value can be stored as JSON and as BSON, even text that can't be encoded."""
    shown = plain({"value": value})

    assert bson.decode(bson.encode(shown)) == shown
    assert json.loads(json.dumps(shown)) == shown


@pytest.mark.parametrize("value", [Mute(), deep(), endless(), "x" * 10**6, ["y" * 900] * 900])
def test_a_value_that_cannot_be_shown_loses_no_letter(value: Any):
    """A value that is too large, or can't be shown, is shortened, or its type is named instead."""
    letter = make_letter("t1", args=plain([value]), kwargs=plain({"k": value}))

    assert len(letter.to_json()) < 200_000
    assert DeadLetter.from_json(letter.to_json()) == letter
    assert isinstance(letter.args, list)
    assert isinstance(letter.kwargs, dict)


def test_an_error_that_cannot_be_shown_is_named():
    """The text of an error whose ``__str__`` raises names its class and the class of that error."""
    assert plain_text(Mute()) == "a Mute (RuntimeError in its __str__)"


def test_fingerprints_differ_by_task_cause_and_place():
    """A fingerprint depends on the task, the cause and the place, but not on the message."""
    one, other = raised("here"), raised("there")

    assert fingerprint("a", Cause.EXCEPTION, one) == fingerprint("a", Cause.EXCEPTION, other)
    assert fingerprint("a", Cause.EXCEPTION, one) != fingerprint("b", Cause.EXCEPTION, one)
    assert fingerprint("a", Cause.EXCEPTION, one) != fingerprint("a", Cause.TIMEOUT, one)
    assert fingerprint("a", Cause.EXCEPTION, one) != fingerprint(
        "a", Cause.EXCEPTION, ValueError("here")
    )


def raised(message: str) -> ValueError:
    """Return a ValueError that was raised here."""
    with pytest.raises(ValueError, match=message) as caught:
        raise ValueError(message)
    return caught.value


class Broken(dict[str, Any]):
    """A dict that raises when it is iterated."""

    def items(self) -> Any:
        raise RuntimeError("no session is open")


class Unlinked(ValueError):
    """An error that raises when a traceback looks for the errors before it."""

    @property
    def __suppress_context__(self) -> Any:
        raise RuntimeError("no session is open")


class Unreadable:
    """An object that can't be converted to an int."""

    def __int__(self) -> int:
        raise Unlinked


def test_a_container_that_cannot_be_iterated_keeps_its_type():
    """A list stays a list and a dict stays a dict, with the error as their content."""
    assert plain([Broken()]) == ["can't be shown (RuntimeError)"]
    assert plain(Broken()) == {"…": "can't be shown (RuntimeError)"}


def test_a_traceback_that_cannot_be_formatted_is_replaced():
    """A traceback that can't be formatted is replaced by the reason, and a missing one is empty."""
    assert plain_traceback(Unlinked()) == ""
    with pytest.raises(Unlinked) as raised:
        int(Unreadable())
    assert plain_traceback(raised.value) == "can't be shown (RuntimeError)"
