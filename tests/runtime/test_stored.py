"""Stored records: each is read as it was written, or is unreadable."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.tasks.letters.conftest import make_letter
from vibetuner.stored import Unreadable, dump_record, read_record
from vibetuner.tasks.journal import Beat, Ended, Outcome
from vibetuner.tasks.letters.letter import Act, DeadLetter, Group

KINDS = (Act, Beat, DeadLetter, Ended, Group)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(), inner, max_size=5),
)


def read_or_reason(kind: type[Any], stored: object) -> tuple[Any, str]:
    """Return a record, or the reason why it is unreadable."""
    try:
        return read_record(kind, stored), ""
    except Unreadable as error:
        return None, str(error)


@given(kind=st.sampled_from(KINDS), value=json_values)
@settings(deadline=None)
def test_anything_is_a_record_or_unreadable(kind: type[Any], value: Any):
    """Any JSON value is read as a record, or raises Unreadable with a reason."""
    found, reason = read_or_reason(kind, json.dumps(value))
    assert bool(found) != bool(reason)
    assert found is None or read_record(kind, dump_record(found)) == found


@given(name=st.sampled_from(sorted(make_letter("t1").to_document())), value=json_values)
@settings(deadline=None)
def test_any_value_of_a_field_is_read_or_named(name: str, value: Any):
    """A letter with any value in one field is read and can be written, or the field is named."""
    found, reason = read_or_reason(DeadLetter, {**make_letter("t1").to_document(), name: value})
    assert reason.startswith("" if found else name)
    assert found is None or read_record(DeadLetter, found.to_document()) == found


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "", "\x00", '{"at": ', "nan", '"\\ud800"', "9" * 5000]
)
def test_what_json_itself_refuses_is_unreadable(text: str):
    """A text that the JSON parser refuses by any error raises Unreadable."""
    for kind in KINDS:
        with pytest.raises(Unreadable):
            read_record(kind, text)


def test_what_a_newer_version_adds_is_left_out():
    """Values that a newer version adds, to a list's end or to an object, are left out."""
    ended = Ended("t1", "echo", Outcome.DONE, 1, 2, 3, 4, 1, "w1")
    letter = make_letter("t1")

    assert read_record(Ended, json.dumps([*ended, "more", 5])) == ended
    assert read_record(DeadLetter, {**letter.to_document(), "mood": "good"}) == letter


@pytest.mark.parametrize(
    "changes",
    [
        {"failed_at": 98765},
        {"failed_at": "soon"},
        {"tries": -98765},
        {"cause": "bad luck"},
        {"kwargs": []},
        {"error": None},
        {"failed_at": "0001-01-01T00:00:00+14:00"},
    ],
)
def test_a_letter_with_a_value_out_of_range_is_unreadable(changes: dict[str, Any]):
    """A value out of range raises Unreadable, which names the field and not the value.

    The value may be a secret.
    """
    with pytest.raises(Unreadable) as caught:
        read_record(DeadLetter, {**make_letter("t1").to_document(), **changes})

    ((name, value),) = changes.items()
    assert str(caught.value).startswith(name)
    assert str(value) not in str(caught.value)
