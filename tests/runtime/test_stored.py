"""Stored records: each is read as it was written, or is unreadable."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.tasks.letters.conftest import make_letter
from vibetuner.stored import Unreadable, read_record
from vibetuner.tasks.journal.entry import Beat, Ended, Outcome
from vibetuner.tasks.letters.letter import Act, DeadLetter, Group

KINDS = (Act, Beat, DeadLetter, Ended, Group)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(), inner, max_size=5),
)


@given(kind=st.sampled_from(KINDS), value=json_values)
@settings(deadline=None)
def test_anything_is_a_record_or_unreadable(kind: type[Any], value: Any):
    """Any JSON value is read as a record, or raises Unreadable."""
    try:
        found = read_record(kind, json.dumps(value))
    except Unreadable as error:
        found = error

    assert isinstance(found, kind) or str(found)


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
        {"failed_at": 5},
        {"failed_at": "soon"},
        {"tries": -1},
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
    assert str(value) not in str(caught.value) or value in (5, -1, None)
