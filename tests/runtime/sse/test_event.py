"""Events, and the names that they may have."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibetuner.sse.event import Event, check_channel, check_event, idle_id, parse_id


@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1),
    data=st.text(),
)
def test_any_text_arrives_as_it_was_sent(name: str, data: str):
    """Any text arrives as one event with its lines, and all kinds of line breaks as one kind."""
    assert read_as_a_browser(Event(name, data).encode()) == [
        (name, re.sub("\r\n|\r", "\n", data)),
    ]


def test_text_that_has_no_bytes_does_not_end_the_stream():
    """A lone surrogate arrives as a question mark, and doesn't end the stream."""
    assert read_as_a_browser(Event("progress", "half \ud83d").encode()) == [("progress", "half ?")]


@pytest.mark.parametrize("name", ["upload:7", "größe", "a" * 200])
def test_a_name_may_be_almost_anything(name: str):
    """A name may have any visible character, and the check returns it."""
    assert check_channel(name) == name
    assert check_event(name) == name


HOSTILE = [
    "", " ", "a b", "a\nb", "a\rb", "a\tb", "\x00", "\x7f", "a\x85b", "a\u2028b", "\ud83d",
    "a" * 201, "a\n\nevent: forged", None, 5, b"bytes",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_could_break_the_stream_is_refused(name: object):
    """A name that could break a stream or a key is refused in one short line."""
    with pytest.raises(ValueError, match="The channel name .* is not usable: take 1 to 200") as no:
        check_channel(name)
    assert "\n" not in str(no.value)
    assert len(str(no.value)) < 250
    with pytest.raises(ValueError, match="The event name .* is not usable"):
        check_event(name)


@pytest.mark.parametrize(
    "text", ["", "abc", "1", "1-", "-1", "1-2-3", " 1-2", "1-2\n", "-1-2", "٣-٣", f"{2**64}-0"]
)
def test_what_is_no_id_is_told_apart(text: str):
    """A text that is no id is read as None, as a browser's header may hold anything."""
    assert parse_id(text) is None


def test_the_id_of_silence_is_smaller_than_that_of_any_event():
    """The id of a stream without events is smaller than that of any later event."""
    assert parse_id(idle_id(1764028000000)) < parse_id("1764027999999-0")


def read_as_a_browser(stream: bytes) -> list[tuple[str, str]]:
    """Return the events of a stream by section 9.2.6 of the HTML standard."""
    events: list[tuple[str, str]] = []
    name, data = "", list[str]()
    for line in re.split("\r\n|\r|\n", stream.decode()):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "" and data:
            events.append((name, "\n".join(data)))
            name, data = "", []
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
    return events
